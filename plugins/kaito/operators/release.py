"""A Workspace goes: everything of it is told to go, and when nothing is left our finalizer is taken off.

Each step may run twice, at once, or after the other side (`kaito_reconcile`) has done it already. Nothing is touched
for a Workspace that nobody is deleting, and never a user's volume, Secret or image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.ledger import events
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.transitions import WARNING, Event
from include.workspace.validation import identity
from include.workspace.validation.faults import Fault
from kaito.assets import LEDGER
from kaito.controller.cost_recorder import record_cost
from kaito.controller.event_recorder import tell
from kaito.controller.finalizer import (
    Remains,
    add_finalizer,
    look,
    remove_finalizer,
    request_deletion,
    unregistered_capacity,
)
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.cluster_calls import run
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import ledger
from kaito.params import release_params
from kaito.run_conf import conf_faults, identity_faults, refuse
from kaito.settings import policy, release_deadline
from kaito.tasks.base import WorkspaceTask
from kaito.tasks.results import Releasing

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReleaseTask(WorkspaceTask, BaseOperator):
    """What both steps share.

    :param workspace: name of the Workspace. (templated)
    :param namespace: its namespace. (templated)
    """

    template_fields = ("workspace", "namespace")

    def __init__(self, *, workspace: str, namespace: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.namespace = namespace

    def find(self) -> dict[str, Any] | None:
        return self.cluster.find(WORKSPACE, self.workspace, self.namespace)

    def look(self, live: Mapping[str, Any]) -> Remains:
        return run(look(self.cluster.calls, live, release_deadline()))

    def say(self, live: Mapping[str, Any], message: str) -> None:
        """Tell the Workspace's author how far its release is."""

        def news(now_live: Mapping[str, Any]) -> dict[str, Any]:
            phase = conditions.Phase.DELETING
            return conditions.progress(now_live, phase, message=message, now=datetime.now(UTC))

        generation = names.generation(live)
        uid = live["metadata"]["uid"]
        try:
            self.cluster.patch_status(
                self.workspace, self.namespace, news, uid=uid, generation=generation, even_deleting=True
            )
        except (ClusterError, StaleWorkspace, conditions.StaleGeneration) as error:
            self.log.info("The status of Workspace %s was not written: %s", self.workspace, error)


class ReleaseOperator(ReleaseTask):
    """Tells everything of a deleted Workspace to go.

    :returns: the uid of the Workspace that goes; None when it is gone already.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        conf = context["dag_run"].conf or {}
        refuse(
            [
                *conf_faults(conf, release_params()),
                *(identity_faults(context["params"]) or map(str, self._name_faults())),
            ]
        )
        live = self.find()
        if live is None:
            self.log.info("Workspace %s/%s is gone already.", self.namespace, self.workspace)
            return Releasing(uid=None).to_xcom()
        if not live["metadata"].get("deletionTimestamp"):
            live = self._delete(live, asked=bool(context["params"].get("delete")))
        record_cost(
            self.cluster,
            self.workspace,
            self.namespace,
            live["metadata"]["uid"],
            unregistered=unregistered_capacity(self.cluster, live),
        )
        remains = self.look(live)
        for one in request_deletion(self.cluster, live, remains):
            self.log.info("Told to go: %s", one)
        self.say(live, f"Releasing: {remains}")
        return Releasing(uid=live["metadata"]["uid"]).to_xcom()

    def _name_faults(self) -> list[Fault]:
        """Nothing is read under what cannot be a name. Whatever is being deleted is released, wherever it is."""
        here = identity.namespace_faults(self.namespace, [self.namespace])
        return [*identity.name_faults(self.workspace), *here]

    def _delete(self, live: dict[str, Any], *, asked: bool) -> dict[str, Any]:
        which = f"Workspace {self.namespace}/{self.workspace}"
        if not asked:
            raise AirflowFailException(
                f"{which} is not being deleted, so nothing of it is released. Delete it with "
                f"`kubectl delete workspace {self.workspace} -n {self.namespace}`, or start this run with delete: true."
            )
        if faults := identity.namespace_faults(self.namespace, policy().allowed_namespaces):
            raise AirflowFailException(f"{which} is not deleted by a run: {faults[0]}")
        self.log.info("%s is deleted, since this run was asked to.", which)
        add_finalizer(self.cluster, live)
        self.cluster.delete(WORKSPACE, self.workspace, self.namespace, uid=live["metadata"]["uid"])
        return self.find() or live


class RemoveFinalizerOperator(ReleaseTask):
    """Takes our finalizer off when nothing is left, or when the release is given up.

    :param gone_within: seconds that what a racing task made meanwhile has to go; the task's retries then ask again.
    :param poll_seconds: pause between two looks.
    """

    def __init__(self, *, gone_within: float = 60.0, poll_seconds: float = 0.5, **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [LEDGER])
        super().__init__(**kwargs)
        self.gone_within = gone_within
        self.poll_seconds = poll_seconds

    def execute(self, context: Context) -> None:
        uid = Releasing.read(context["ti"].xcom_pull(task_ids="release")).uid or ""
        deadline = time.monotonic() + self.gone_within
        while True:
            live = self.find()
            if live is None or live["metadata"].get("uid") != uid:
                self.log.info("Workspace %s/%s is gone.", self.namespace, self.workspace)
                return
            remains = self.look(live)
            for one in request_deletion(self.cluster, live, remains):
                self.log.info("Made meanwhile, told to go: %s", one)
            words = "; ".join(map(str, remains.left))
            if not words or remains.forced:
                break
            if time.monotonic() > deadline:
                raise AirflowException(f"Still there: {words}.")
            time.sleep(self.poll_seconds)
        self._close_ledger(context, live)
        if words:
            self._tell_what_is_left(live, f"Let go, since {remains.forced}. Left behind: {words}")
        if remove_finalizer(self.cluster, self.workspace, self.namespace, uid):
            self.log.info("Our finalizer is off Workspace %s/%s.", self.namespace, self.workspace)

    def _close_ledger(self, context: Context, live: Mapping[str, Any]) -> None:
        """Tell what the Workspace has cost in all: nobody can look it up in the cluster any more."""
        uid = live["metadata"]["uid"]
        cost = record_cost(
            self.cluster,
            self.workspace,
            self.namespace,
            uid,
            unregistered=unregistered_capacity(self.cluster, live),
        )
        event = events.of_workspace(
            cost or (live.get("status") or {}).get("cost") or {},
            run=names.run_id_label(context["run_id"]),
            dag=context["ti"].dag_id,
            workspace=events.Subject(self.workspace, self.namespace, uid),
            outcome="deleted",
            now=datetime.now(UTC),
        )
        self.log.info("In all: %s", events.sentence(event))
        ledger.tell(context, event)

    def _tell_what_is_left(self, live: Mapping[str, Any], message: str) -> None:
        self.log.warning("%s", message)
        run(tell(self.cluster.calls, live, [Event(WARNING, "ReleasedByForce", message)]))
