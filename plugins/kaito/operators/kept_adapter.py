"""Reads and writes the record of the adapter on a Workspace's work volume.

What it means is judged in `include.workspace.status.kept_adapter`. Every write is bound to the claim as it was seen,
so that of two runs that meet at one volume one is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from include.catalog import load_catalog
from include.contracts.dataset_digest import comparable
from include.contracts.results import DatasetResult, TuningResult
from include.planning import Plan
from include.workspace import Fault
from include.workspace.api import names
from include.workspace.api.annotations import exact_rerun
from include.workspace.status import kept_adapter
from include.workspace.status.kept_adapter import KeptAdapter
from kaito.hooks import api
from kaito.hooks.api import CONFIG_MAP, VOLUME_CLAIM, ClusterError
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.tasks.preflight_result import Trained

log = logging.getLogger(__name__)

Change = Callable[[KeptAdapter | None], KeptAdapter | None]
ATTEMPTS = 5
#: Annotations that decide what a training learns.
_FACTS = (
    ("held_out", names.HELD_OUT),
    ("objective", names.TUNING_OBJECTIVE),
    ("from", names.RETRAIN_FROM),
    ("volume", names.MODEL_VOLUME),
)


def config_text(cluster: KaitoClusterHook, document: Mapping[str, Any]) -> str | None:
    """Return the user's training config, None where the Workspace names none.

    :raises AirflowFailException: it is not there.
    """
    name = (document.get("tuning") or {}).get("config")
    if not name:
        return None
    config = cluster.find(CONFIG_MAP, name, names.namespace(document))
    text = ((config or {}).get("data") or {}).get("training_config.yaml")
    if text is None:
        raise AirflowFailException(f"ConfigMap {name} (tuning.config) was deleted.")
    return str(text)


def recipe(cluster: KaitoClusterHook, document: Mapping[str, Any], plan: Plan) -> str:
    """Return what a run's training depends on, as a digest.

    :param document: the Workspace as it stands in the cluster, with whole URLs.
    """
    facts = {
        "model": plan.model,
        "model_id": plan.model_id,
        "revision": plan.revision,
        "method": plan.method,
        "target_modules": sorted(plan.target_modules),
    }
    notes = document["metadata"].get("annotations") or {}
    for fact, annotation in _FACTS:
        if annotation in notes:  # another share, objective or beginning is another training
            facts[fact] = notes[annotation]
    if plan.model_image:
        facts["image"] = plan.model_image
    given = config_text(cluster, document)
    return kept_adapter.recipe(
        document, facts, given if given is not None else load_catalog().tuning_config(plan.method)
    )


def sentence(trained: Trained) -> str:
    """Return what a step that is not needed says."""
    return f"The adapter of these inputs is on the work volume, made by run {trained.run}"


def wanted(cluster: KaitoClusterHook, document: Mapping[str, Any], plan: Plan) -> Trained | None:
    """Return the adapter on the volume, where it is the one that this Workspace's next run wants.

    :param document: the Workspace as it stands in the cluster, with whole URLs.
    """
    known = seen(cluster, document) if goes_to_an_image(document) else None
    if known is None:
        return None
    now = recipe(cluster, document, plan)
    if not known.serves_for(now, kept_adapter.rerun_of(document)):
        return None
    return Trained(
        run=known.run,
        recipe=now,
        dataset=DatasetResult.read(known.dataset),
        tuning=TuningResult.read(known.tuning),
    )


def exact_faults(cluster: KaitoClusterHook, document: Mapping[str, Any], plan: Plan) -> list[Fault]:
    """Return P14: why a training that is to come out exactly as before could not, as far as the cluster tells."""
    given = exact_rerun(document["metadata"].get("annotations") or {})
    if not given:
        return []
    told, hint = kept_adapter.not_again(seen(cluster, document), recipe(cluster, document, plan), given)
    return [Fault(f"metadata.annotations[{names.RERUN}]", given, "P14", told, hint)] if told else []


def other_data(cluster: KaitoClusterHook, document: Mapping[str, Any], result: DatasetResult) -> str:
    """Return why a dataset is not that of the training that is to be done again; "" where nothing speaks against it."""
    known = seen(cluster, document) if exact_rerun(document["metadata"].get("annotations") or {}) else None
    before = known.dataset.get("digest") if known else None
    if known is None or before == result.digest:
        return ""
    other = f"{names.RERUN} another value than exact to train on these"
    same_number = known.dataset.get("rows") == result.rows
    if before and result.digest and same_number and not comparable(str(before), result.digest):
        return (
            f"{names.RERUN}: exact cannot be kept: run {known.run} recorded the dataset's digest ({before}) in the "
            f"form of another release, which cannot be compared with {result.digest}. The data may well be the same: "
            f"give {other}."
        )
    return (
        f"{names.RERUN}: exact cannot be kept: the dataset's digest is {result.digest} and was {before} in run "
        f"{known.run}. Give the data of then, or {other}."
    )


def goes_to_an_image(document: Mapping[str, Any]) -> bool:
    """Whether the adapter lies on the work volume until it is pushed, rather than on a volume of the user's."""
    output = (document.get("tuning") or {}).get("output") or {}
    return bool(output.get("image")) and not output.get("volumeSource")


def seen(cluster: KaitoClusterHook, document: Mapping[str, Any]) -> KeptAdapter | None:
    """Return what lies on the volume."""
    return KeptAdapter.of(_claim(cluster, document), str(document["metadata"]["uid"]))


def change(cluster: KaitoClusterHook, document: Mapping[str, Any], judge: Change) -> bool:
    """Write what ``judge`` makes of the record, None to leave it; returns whether there is one to write to.

    :raises ClusterError: it cannot be written, or others keep writing.
    """
    uid = str(document["metadata"]["uid"])
    for _ in range(ATTEMPTS):
        claim = _claim(cluster, document)
        if claim is None:
            return False
        known = KeptAdapter.of(claim, uid)
        wanted = judge(known)
        if wanted is None or wanted == known:
            return wanted is not None
        metadata = claim["metadata"]
        body = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "annotations": wanted.annotation(),
            }
        }
        try:
            cluster.send(api.merge_patch(VOLUME_CLAIM, metadata["name"], names.namespace(document), body))
            return True
        except ClusterError as error:
            if error.status != 409:
                raise
    raise ClusterError(409, "Conflict", f"{names.work_volume(document)}: others keep writing to it")


def _claim(cluster: KaitoClusterHook, document: Mapping[str, Any]) -> dict[str, Any] | None:
    return cluster.find(VOLUME_CLAIM, names.work_volume(document), names.namespace(document))
