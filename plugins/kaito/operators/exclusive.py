"""One run of a Workspace at a time, and none while its author holds it back.

A run that begins records itself in `status.run`; the API server takes one such write and refuses the other, so that of
two runs that begin at once one is told so before it makes anything. A refusal concerns the run alone: the Workspace's
status is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from include.workspace.api import names
from include.workspace.status.runs import ALIVE
from kaito.controller.dag_runs import state_of

#: States of `status.run` in which a run may be at work.
OPEN = ("waiting", "started")
#: What Airflow calls a run that is at work, or will be.


def examine(document: Mapping[str, Any], run_id: str) -> str | None:
    """Make sure that nobody holds this Workspace back, and that no other run works on it.

    :param document: the Workspace as it stands in the cluster.
    :returns: the id of a recorded run that is over without having said so, whose place this one takes.
    :raises AirflowFailException: it is paused, or another run is under way.
    """
    metadata = document["metadata"]
    if (metadata.get("annotations") or {}).get(names.PAUSED) == "true":
        command = (
            f"kubectl annotate workspace {metadata['name']} -n {names.namespace(document)} {names.PAUSED}-"
        )
        raise _refusal(document, f"is paused by its annotation {names.PAUSED}. To run it: {command}")
    run = _recorded(document)
    other = str(run.get("id") or "")
    mine = other in ("", run_id) or run.get("generation") != names.generation(document)
    if mine or run.get("state") not in OPEN:
        return None
    if state_of(str(run.get("dag")), other) in ALIVE:
        raise _refusal(document, _taken(run))
    return other


def confirm(document: Mapping[str, Any], run_id: str) -> None:
    """Make sure that this run is the recorded one, after it has recorded itself.

    :param document: the Workspace as it stands in the cluster, read after the write.
    :raises AirflowFailException: two runs began at once, and the other one was first.
    """
    run = _recorded(document)
    if run.get("id") not in (
        None,
        run_id,
    ):  # None: a CustomResourceDefinition of upstream's, which has no such field
        raise _refusal(document, _taken(run))


def marked(document: Mapping[str, Any], dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the Workspace to make, with a word to the reconciler that this run already works on it."""
    metadata = document["metadata"]
    annotations = {**(metadata.get("annotations") or {}), names.STARTED_BY: f"{dag_id}/{run_id}"}
    return {**document, "metadata": {**metadata, "annotations": annotations}}


def _recorded(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return (document.get("status") or {}).get("run") or {}


def _taken(run: Mapping[str, Any]) -> str:
    return (
        f"is worked on by run {run.get('id')} of DAG {run.get('dag')}, and only one run at a time may do that: "
        "wait until it ends, or mark it as failed in Airflow and start this one again."
    )


def _refusal(document: Mapping[str, Any], why: str) -> AirflowFailException:
    return AirflowFailException(f"Workspace {names.namespace(document)}/{document['metadata']['name']} {why}")
