"""The candidate of a retraining: a Workspace of its own that trains one version beside the service of another.

It has everything a training has (volume, machines, conditions, costs) under a name of its own, so that nothing of the
Workspace that answers today is touched, and whatever happens to it is seen with kubectl. It goes with that Workspace.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from include.retraining import versions
from include.workspace.api import names
from include.workspace.api.dialect import as_written
from include.workspace.status import base_model

#: What a candidate takes over: where and how it is trained. What is about the service stays with the service.
TAKEN_OVER = (
    names.INSTANCE_TYPES,
    names.CAPACITY_TYPE,
    names.POOL_PROVIDER,
    names.NODE_IMAGE_FAMILY,
    names.NODE_CLASS_NAME,
    names.BYPASS_RESOURCE_CHECKS,
    names.USE_LOCAL_WEIGHTS,
    names.MODEL_IMAGE,
    names.MODEL_REVISION,
    names.MODEL_VOLUME,
    names.MODEL_CACHE,
    names.MODEL_STREAMING,
    names.MANAGED_BY,
    names.RUNTIME,
    names.HELD_OUT,
    names.TUNING_OBJECTIVE,
    names.TRACKING,
    names.SIGNING,
    names.DATASET_CREDENTIALS,
    names.DATASET_IDENTITY,
)


def candidate(
    workspace: Mapping[str, Any],
    version: str,
    *,
    current: str | None = None,
    continued: bool = False,
    config: str | None = None,
    urls: Sequence[str] = (),
    budget: float | None = None,
    held_out: float | None = None,
    known_rows: str | None = None,
) -> dict[str, Any]:
    """The Workspace that trains a version.

    :param workspace: the one that is retrained, as it stands in the cluster, with whole URLs.
    :param current: the adapter that answers today, by digest.
    :param continued: whether its training goes on from that adapter.
    :param config: a ConfigMap with another training config than the Workspace's own, None for that one.
    :param urls: where its dataset lies, where that is not the Workspace's own.
    :param budget: US dollars that may still be spent, None for no limit.
    :param held_out: the share of the rows that is not trained on, None to leave it as the Workspace has it.
    :param known_rows: the digests of the rows that were learnt from last, as the referrer that has them, by digest.
    :raises InvalidReference: the Workspace pushes to no image.
    """
    document = as_written(workspace)
    metadata = document["metadata"]
    notes = metadata.get("annotations") or {}
    kept = {key: notes[key] for key in TAKEN_OVER if key in notes}
    kept |= {names.ROLLOUT: "false", names.RETRAIN_VERSION: version}
    if commit := base_model.kept(workspace):  # an adapter fits one commit, that of the service
        kept[names.MODEL_REVISION] = commit
    if current:
        kept[names.RETRAIN_CURRENT] = current
        if continued:
            kept[names.RETRAIN_FROM] = current
    if known_rows:
        kept[names.RETRAIN_KNOWN] = known_rows
    if budget is not None:
        kept[names.BUDGET] = f"{budget:.4f}"
    if held_out is not None:
        kept[names.HELD_OUT] = f"{held_out:g}"
    tuning = copy.deepcopy(dict(document["tuning"]))
    tuning["output"] = {**tuning["output"], "image": versions.image(tuning["output"]["image"], version)}
    if config is not None:
        tuning["config"] = config
    if urls:
        tuning["input"] = {"urls": list(urls)}
    return {
        "apiVersion": document["apiVersion"],
        "kind": names.KIND,
        "metadata": {
            "name": versions.candidate_name(metadata["name"], version),
            "namespace": names.namespace(document),
            "labels": {names.RETRAIN_OF: metadata["name"]},
            "annotations": kept,
            "ownerReferences": [
                # Deleting the Workspace need not wait for it: it has a finalizer of its own.
                {**names.owner_reference(workspace), "blockOwnerDeletion": False}
            ],
        },
        "resource": copy.deepcopy(document.get("resource") or {}),
        "tuning": tuning,
    }
