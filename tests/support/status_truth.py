"""A Workspace's status held against reality: everything in it that is not so, as sentences.

Pure, over the cluster's own dicts, so that the model's lives and real clusters are judged by the same eyes. It is for a
moment at which the reconciler has nothing left to do: between a change and its next look a status is a moment old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from include.workspace.api import names
from include.workspace.api.dialect import serves
from include.workspace.status.conditions import ENDED_BADLY, condition
from include.workspace.status.runs import ALIVE, OVER, RunState

Obj = Mapping[str, Any]
MACHINES = ("NodeClaimReady", "NodesReady", "ResourceReady")


def untruths(
    workspace: Obj,
    *,
    stateful_sets: Iterable[Obj] = (),
    node_claims: Sequence[Obj] = (),
    nodes: Sequence[Obj] = (),
    runs: Mapping[str, str] | None = None,
    plans: Sequence[str] = ("The plan is",),
) -> list[str]:
    """What the status says that is not so.

    :param stateful_sets: those of the Workspace's name.
    :param node_claims: its machines' objects, those that are going included.
    :param runs: the state of each Airflow run that is known, by id.
    :param plans: how the sentence of a plan begins.
    """
    meta, status = workspace["metadata"], workspace.get("status") or {}
    if meta.get("deletionTimestamp") or (meta.get("annotations") or {}).get(names.PAUSED) == "true":
        return []
    return [
        *_of_the_run(workspace, status, runs or {}),
        *_of_the_service(workspace, status, list(stateful_sets)),
        *_of_the_machines(status, node_claims, nodes),
        *_of_the_end(workspace, status, plans),
    ]


def _says(status: Obj, kind: str) -> Obj:
    return condition(status, kind) or {}


def _of_the_run(workspace: Obj, status: Obj, runs: Mapping[str, str]) -> Iterator[str]:
    run = status.get("run") or {}
    current = run.get("generation") == names.generation(workspace)
    state = runs.get(str(run.get("id")))
    if current and run.get("state") == RunState.STARTED and state is not None and state not in ALIVE:
        yield f"run.state is started, but run {run['id']} is over ({state})"
    if status.get("progress") and run.get("state") in OVER and state not in ALIVE:
        yield f"progress {status['progress']} is left, but the run is {run['state']}"


def _of_the_service(workspace: Obj, status: Obj, sets: list[Obj]) -> Iterator[str]:
    if not serves(workspace):
        return
    found = next((one for one in sets if one["metadata"]["name"] == workspace["metadata"]["name"]), None)
    wanted = int(((found or {}).get("spec") or {}).get("replicas") or 0)
    ready = int(((found or {}).get("status") or {}).get("readyReplicas") or 0)
    for kind in ("InferenceReady", "WorkspaceReady"):
        if _says(status, kind).get("status") == "True" and not (wanted and ready >= wanted):
            yield f"{kind} is True with {ready} of {wanted} replicas: {_says(status, kind).get('message')}"
    told = _says(status, "WorkspaceSucceeded")
    if told.get("status") == "True" and not wanted and "is ready" in str(told.get("message")):
        yield f"WorkspaceSucceeded speaks of a service that nobody runs: {told.get('message')}"


def _of_the_machines(status: Obj, claims: Sequence[Obj], nodes: Sequence[Obj]) -> Iterator[str]:
    live = [claim for claim in claims if not claim["metadata"].get("deletionTimestamp")]
    true = [kind for kind in MACHINES if _says(status, kind).get("status") == "True"]
    if true and not live:
        yield f"{', '.join(true)} True without a machine"
    if "NodesReady" in true and live and not any(map(_node_is_ready, nodes)):
        yield "NodesReady is True and no Node is Ready"
    if true and "ResourceReady" in true and len(true) < len(MACHINES):
        yield f"ResourceReady is True and not all of what it sums up: {true}"
    there = {str((claim.get("status") or {}).get("nodeName") or "") for claim in live}
    if gone := set(status.get("workerNodes") or ()) - there:
        yield f"workerNodes has {sorted(gone)}, which are no machine's"


def _node_is_ready(node: Obj) -> bool:
    told = (node.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in told)


def _of_the_end(workspace: Obj, status: Obj, plans: Sequence[str]) -> Iterator[str]:
    summary, generation = _says(status, "WorkspaceReady"), names.generation(workspace)
    if summary.get("observedGeneration") != generation:
        return
    ended = summary.get("status") == "True" or summary.get("reason") in ENDED_BADLY
    for one in status.get("conditions") or ():
        if ended and str(one.get("message") or "").startswith(tuple(plans)):
            yield f"{one['type']} still says {one['message']!r} after the end ({summary.get('reason')})"
    if status.get("state") == "Failed" and summary.get("status") == "True":
        yield "state is Failed and WorkspaceReady True"
    fine = _says(status, "WorkspaceSucceeded").get("status") == "True"
    if status.get("state") in ("Succeeded", "Ready") and summary.get("reason") in ENDED_BADLY and not fine:
        yield f"state is {status['state']} and WorkspaceReady {summary.get('reason')}"
