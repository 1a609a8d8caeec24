"""Which weights a Workspace works with: the commit of the hub (or the image) that its first run found.

Its status says so. A branch may move between two pods of one service, and an adapter fits the weights that it was
trained on. So the commit is kept for as long as the Workspace names the same model and asks for no other revision. It
must never guess a commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.contracts.revisions import is_commit
from include.workspace.api import names

FIELD = "model"


def asked(document: Mapping[str, Any]) -> str:
    """The revision that a Workspace asks for, "" where it leaves that to its preset."""
    notes = (document.get("metadata") or {}).get("annotations") or {}
    return str(notes.get(names.MODEL_REVISION) or "").strip()


def kept(document: Mapping[str, Any]) -> str:
    """The commit that this Workspace has been given before, "" where it has none."""
    found = _of(document)
    revision = str(found.get("revision") or "")
    return revision if _is_same(found, document) and is_commit(revision) else ""


def stays(document: Mapping[str, Any]) -> str:
    """The revision that a further run goes by: `kept`, or what its generation began with while the hub was away."""
    found = _of(document)
    if found and _is_same(found, document) and found.get("generation") == names.generation(document):
        return str(found.get("revision") or "")
    return kept(document)


def noted(document: Mapping[str, Any], hf_id: str, source: Mapping[str, str]) -> dict[str, Any]:
    """What the status says of the model.

    :param source: where its files come from: {"revision": of the hub}, {"image": by digest} or {"volume": claim}.
    """
    about = {"name": preset_of(document)[1], "id": hf_id, "generation": names.generation(document)}
    wanted = asked(document)
    return {**about, **source, **({"asked": wanted} if wanted else {})}


def in_words(status: Mapping[str, Any]) -> str:
    """Where the status says that the model's files come from, "" where it does not say."""
    found = _of({"status": status})
    if image := found.get("image"):
        return str(image)
    if volume := found.get("volume"):
        return f"volume {volume}"
    revision = str(found.get("revision") or "")
    return f"{found.get('id')} at {revision[:12] if is_commit(revision) else revision}" if revision else ""


def preset_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """The path and the value of the preset's name, as far as a document of any shape has one."""
    for section in ("tuning", "inference"):
        part = document.get(section)
        preset = part.get("preset") if isinstance(part, Mapping) else None
        name = preset.get("name") if isinstance(preset, Mapping) else None
        if isinstance(name, str):
            return f"{section}.preset.name", name
    return "", ""


def _of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (document.get("status") or {}).get(FIELD)
    return found if isinstance(found, Mapping) else {}


def _is_same(found: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    name = str(found.get("name") or "").lower()
    return name == preset_of(document)[1].lower() and str(found.get("asked") or "") == asked(document)
