"""Which commit of the hub a run takes, asked before anything is made: the preflight's look at a branch or tag.

A branch may move while a run goes on, or between two pods of one service. So a Workspace keeps the commit that its
first run found. The hub may be out of reach from here while pods reach it, so no answer is never a fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from include.catalog import Catalog
from include.contracts.revisions import is_commit
from include.planning import Plan
from include.workspace import Fault
from include.workspace.api import names
from include.workspace.status import base_model
from include.workspace.validation import model_volume
from kaito.settings import hub_lookup

RULE = "P15"
log = logging.getLogger(__name__)


def pin(
    catalog: Catalog, document: Mapping[str, Any], token: Callable[[], str | None]
) -> tuple[Catalog, list[Fault]]:
    """Return the catalogue with the Workspace's model at its commit, and a fault where the hub has no such revision.

    :param catalog: has the model.
    :param document: the Workspace, with its status where it has one.
    :param token: gives the hub token, and is only called when the hub is asked.
    """
    model = catalog.model(base_model.preset_of(document)[1])
    before, asked = base_model.stays(document), base_model.asked(document)
    revision = before or asked or model.revision
    if not before and not is_commit(revision) and hub_lookup():
        from include.catalog.hub import HubError, ModelNotFound, commit_of

        try:
            commit = commit_of(model.hf_id, revision=revision, token=token())
            log.info("%s at %s is commit %s: this Workspace keeps it.", model.hf_id, revision, commit)
            revision = commit
        except HubError as error:
            if asked and isinstance(error, ModelNotFound):
                path = f"metadata.annotations[{names.MODEL_REVISION}]"
                return catalog, [Fault(path, asked, RULE, str(error).rstrip("."))]
            log.warning(
                "%s cannot be pinned: each pod takes what %s is then. %s", model.hf_id, revision, error
            )
    return catalog.with_revision(model, revision), []


def noted(
    status: Mapping[str, Any], document: Mapping[str, Any], plan: Plan, downloads: bool
) -> dict[str, Any]:
    """Return the status with the model that a plan takes; without it where that lies on a node, which nobody has seen.

    :param downloads: whether the files come from the hub.
    """
    rest = {key: value for key, value in status.items() if key != base_model.FIELD}
    volume = model_volume.named((document.get("metadata") or {}).get("annotations") or {})
    if volume:
        source = {"volume": str(volume)}
    elif plan.model_image:
        source = {"image": plan.model_image}
    elif plan.model_id and downloads:
        source = {"revision": plan.revision}
    else:
        return rest
    return {**rest, base_model.FIELD: base_model.noted(document, plan.model_id, source)}
