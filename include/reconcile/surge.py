"""A second pod beside the one that answers, so that a change which needs a new pod takes no answer away.

A StatefulSet that is to have one pod gets two for a while: the second is made from the new template and waited for,
then the first is replaced while the second answers, then the second goes. It needs a Node with room for both: nothing
here makes one. Pure judgements of objects; it must never talk to the cluster.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from include.reconcile.pod_problems import problems
from include.reconcile.rollout import RolloutStatus, is_ready

Object = Mapping[str, Any]
REVISION = "controller-revision-hash"
WAITING = "WorkspaceInferenceStatusPending"
NO_ROOM = "Unschedulable"


class Stage(StrEnum):
    """How far a surge is."""

    BESIDE = "beside"
    REPLACED = "replaced"

    @property
    def ordinal(self) -> int:
        """The pod that is waited for."""
        return 1 if self is Stage.BESIDE else 0

    @property
    def following(self) -> Stage | None:
        return Stage.REPLACED if self is Stage.BESIDE else None


def begins(live: Object | None, rolls: bool) -> Stage | None:
    """The stage at which a change of a service begins or goes on; None where there is nobody to keep answering.

    :param live: the StatefulSet as it stands.
    :param rolls: whether the change needs another pod.
    """
    if live is None:
        return None
    replicas, held = live["spec"].get("replicas", 1), partition(live)
    if replicas == 2:  # an earlier try was interrupted
        return Stage.BESIDE if held or rolls else Stage.REPLACED
    answers = int((live.get("status") or {}).get("readyReplicas") or 0) > 0
    return Stage.BESIDE if replicas == 1 and answers and (rolls or held) else None


def stays(live: Object, wanted: Object) -> bool:
    """Whether all pods answer and none of them is on its way to another template or number."""
    status, replicas = live.get("status") or {}, live["spec"].get("replicas", 1)
    settled = status.get("currentRevision") == status.get("updateRevision") and not partition(live)
    ready = int(status.get("readyReplicas") or 0)
    return settled and 0 < replicas == wanted["spec"].get("replicas", 1) and ready >= replicas


def keeps_answering(live: Object | None, planned: int) -> bool:
    """Whether a service of one pod has two for a while, of which one answers."""
    if live is None or planned != 1 or live["spec"].get("replicas") != 2:
        return False
    return int((live.get("status") or {}).get("readyReplicas") or 0) > 0


def partition(live: Object) -> int:
    """From which pod on the StatefulSet's template counts."""
    strategy = live["spec"].get("updateStrategy") or {}
    return int((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def at(stateful_set: Object, stage: Stage) -> dict[str, Any]:
    """The StatefulSet of one pod as it is at a stage."""
    return _sized(stateful_set, 2, stage.ordinal)


def withdrawn(stateful_set: Object) -> dict[str, Any]:
    """The StatefulSet whose second pod goes and whose first one stays as it is."""
    return _sized(stateful_set, 1, 1)


def _sized(stateful_set: Object, replicas: int, held: int) -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(dict(stateful_set))
    made["spec"] |= {"replicas": replicas, "updateStrategy": up_to(held)}
    return made


def up_to(held: int) -> dict[str, Any]:
    """The strategy by which pods below a number keep the template that they were made from."""
    return {"type": "RollingUpdate", "rollingUpdate": {"partition": held}}


def status(
    stateful_set: Object | None, pods: Sequence[Object], ordinal: int, events: Sequence[Object] = ()
) -> RolloutStatus:
    """Whether the pod of this number runs what is wanted and answers; its reason is NO_ROOM where no Node takes it.

    :param events: Kubernetes Events about the pods, where somebody has looked.
    """
    if stateful_set is None:
        return RolloutStatus(False, WAITING, "The StatefulSet is gone.", failed=True)
    name = f"{stateful_set['metadata']['name']}-{ordinal}"
    known = stateful_set.get("status") or {}
    current = int(known.get("observedGeneration") or 0) >= int(
        stateful_set["metadata"].get("generation") or 0
    )
    pod = next((one for one in pods if one["metadata"]["name"] == name), None)
    if not current or pod is None or pod["metadata"].get("deletionTimestamp"):
        return RolloutStatus(False, WAITING, f"Pod {name} is being made")
    if (pod["metadata"].get("labels") or {}).get(REVISION) != known.get("updateRevision"):
        return RolloutStatus(False, WAITING, f"Pod {name} still is the earlier one")
    if is_ready(pod):
        return RolloutStatus(True, "WorkspaceInferenceStatusSuccess", f"Pod {name} answers")
    found = problems(pod, events)
    first = next((one for one in found if one.failed or one.reason == NO_ROOM), found[0] if found else None)
    if first is None:
        return RolloutStatus(False, WAITING, f"Pod {name} is starting")
    return RolloutStatus(False, first.reason, first.message, first.failed or first.reason == NO_ROOM)
