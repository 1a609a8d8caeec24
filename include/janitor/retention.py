"""Which versions of an adapter a registry need not keep: those that their Workspace has let go of, and nobody names.

`status.retrain.versions` is what is kept (policy `keep`, every version that was promoted, what waits or is served).
When in doubt a version stays: a tag too many costs a few megabytes, one too few a way back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from include.contracts.image_reference import InvalidReference, parse_reference
from include.retraining import versions
from include.workspace.api import names

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION = re.compile(r"(\d{8})\.([1-9]\d*)$")


@dataclass(frozen=True, slots=True)
class Kept:
    """What must stay of a Workspace's versions.

    :ivar image: where it pushes, with the tag of its own tuning.
    :ivar versions: by their names; `newest` is the latest of them.
    """

    workspace: str
    image: str
    versions: frozenset[str]
    newest: tuple[int, int]


def kept(workspace: Mapping[str, Any], candidates: Iterable[Mapping[str, Any]]) -> Kept | None:
    """What must stay, None where nothing was ever retrained, or nothing can be known of it.

    :param candidates: the Workspaces that train versions of this one.
    """
    retrain = (workspace.get("status") or {}).get("retrain") or {}
    image = ((workspace.get("tuning") or {}).get("output") or {}).get("image")
    history = [str(one.get("version") or "") for one in retrain.get("versions") or ()]
    parsed = [order for version in history if (order := _order(version))]
    if not image or not parsed:
        return None
    try:
        parse_reference(image)
    except InvalidReference:
        return None
    under_way = [
        str((retrain.get(part) or {}).get("version") or "") for part in ("run", "promotion", "approval")
    ]
    made = [str((one["metadata"].get("annotations") or {}).get(names.RETRAIN_VERSION)) for one in candidates]
    name = f"{names.namespace(workspace)}/{workspace['metadata']['name']}"
    return Kept(name, image, frozenset([*history, *under_way, *made]), max(parsed))


def expired(stays: Kept, tags: Iterable[str]) -> dict[str, str]:
    """By its tag, each version that the Workspace has let go of.

    A version that is newer than all that the Workspace knows may have been pushed just now.
    """
    result = {}
    for tag in tags:
        match = _VERSION.search(tag)
        version = match.group(0) if match else ""
        if not version or parse_reference(versions.image(stays.image, version)).tag != tag:
            continue
        if version not in stays.versions and (_order(version) or stays.newest) < stays.newest:
            result[tag] = version
    return result


def publisher(stays: Kept, version: str) -> str:
    """Whom the image of a version must name as its maker, as `namespace/name`: nobody else's is touched."""
    namespace, _, name = stays.workspace.partition("/")
    return f"{namespace}/{versions.candidate_name(name, version)}"


def referred_to(objects: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Every digest that these objects name, wherever in them."""
    return frozenset(digest for one in objects for digest in _DIGEST.findall(json.dumps(one, default=str)))


def _order(version: str) -> tuple[int, int] | None:
    match = _VERSION.fullmatch(version)
    return (int(match.group(1)), int(match.group(2))) if match else None
