"""Asks the API server whether it would take what a run is going to create, before anything of it costs money.

A server-side dry run goes through all of admission (quotas, limit ranges, pod security, the cluster owner's webhooks)
and stores nothing. Workload controllers create pods later, by themselves, so the pods of a StatefulSet are asked about
as pods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from include import manifests
from include.contracts.purpose import Purpose
from include.manifests import ManifestSettings
from include.manifests.serving import adapters_of
from include.workspace import Fault
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    VOLUME_CLAIM,
    ClusterError,
    Kind,
)
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.hooks.ownership import controller, other_owner
from kaito.tasks.base import Run

RULE = "P9"
#: A part of the object that is gone is nobody's refusal.
ANSWERS = (404,)


def planned(run: Run, settings: ManifestSettings) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """Give the objects that a run will create, each with its kind; no secret is in them.

    :param run: with the plan of its first choice of machines.
    """
    workspace = run.workspace
    if workspace.tuning is not None and run.plan is not None and run.plan.purpose == Purpose.TUNING:
        yield VOLUME_CLAIM, manifests.work_volume(workspace, settings)
        yield NETWORK_POLICY, manifests.egress_policy(workspace, settings)
        if identity := manifests.metadata_policy(workspace):
            yield NETWORK_POLICY, identity
        yield CONFIG_MAP, manifests.tuning_config(workspace, run.plan, None)
        if secret := manifests.dataset_urls(workspace):  # of a Workspace whose URLs are redacted
            yield SECRET, secret
        if not run.trained:
            yield POD, manifests.dataset_pod(workspace, run.plan, settings, run.run_id)
            yield POD, manifests.tuning_pod(workspace, run.plan, settings, run.run_id)
        if workspace.tuning.output is None or workspace.tuning.output.image:
            yield POD, manifests.adapter_pod(workspace, run.plan, settings, run.run_id, {})
    if run.serving_plan is not None:
        for service in manifests.services(workspace):
            yield SERVICE, service
        adapters = [] if workspace.tuning is not None else adapters_of(workspace)
        stateful_set = manifests.stateful_set(workspace, run.serving_plan, settings, run.run_id, adapters)
        yield STATEFUL_SET, stateful_set
        yield POD, _first_pod(stateful_set)


def refusals(cluster: KaitoClusterHook, run: Run, settings: ManifestSettings) -> list[Fault]:
    """Return a fault for each object that the API server would not take, with its own sentence.

    :raises ClusterError: it cannot be asked now.
    """
    faults: list[Fault] = []
    for kind, manifest in planned(run, settings):
        made = api.create(kind, {"apiVersion": kind.api_version, "kind": kind.name, **manifest})
        try:
            cluster.send(api.dry_run(made))
        except ClusterError as error:
            if error.transient:
                raise
            if error.status == 409:
                faults += _taken(cluster, kind, manifest)
            elif error.status not in ANSWERS:
                name = manifest["metadata"].get("name")
                message = f"the API server would refuse {kind.name} {name}: {error}"
                faults.append(Fault("", None, RULE, message, _hint(error)))
    return faults


def _taken(cluster: KaitoClusterHook, kind: Kind, manifest: Mapping[str, Any]) -> list[Fault]:
    """A fault when what has the name already is not of this Workspace."""
    metadata = manifest["metadata"]
    live = cluster.find(kind, metadata["name"], metadata.get("namespace"))
    # A StatefulSet's controller makes its pods; the StatefulSet itself was asked about before them.
    owner = other_owner(live, manifest) if live is not None and controller(manifest) is not None else ""
    if not owner:
        return []
    message = f"{kind.name} {metadata['name']} exists and belongs to {owner}; it is not touched"
    return [
        Fault("metadata.name", None, RULE, message, "remove that object or give the Workspace another name")
    ]


def _hint(error: ClusterError) -> str:
    for words, hint in (
        ("exceeded quota", "raise the namespace's ResourceQuota, or free what it counts"),
        ("PodSecurity", "run in a namespace whose pod-security.kubernetes.io/enforce level takes this pod"),
        ("limit", "the namespace's LimitRange says what a container may ask for"),
    ):
        if words in error.message:
            return hint
    return ""


def _first_pod(stateful_set: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod that a StatefulSet's controller makes first."""
    template, metadata = stateful_set["spec"]["template"], stateful_set["metadata"]
    return {
        "metadata": {
            **(template.get("metadata") or {}),
            "name": f"{metadata['name']}-0",
            "namespace": metadata.get("namespace"),
        },
        "spec": template["spec"],
    }
