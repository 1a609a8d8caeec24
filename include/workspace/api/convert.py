"""Conversion between kaito.sh/v1alpha1 and v1beta1 that loses nothing and changes no meaning.

The API server only renames: what v1alpha1 lacks is invisible through it and gone after a full write
(kaito-api.md#versions), and a default of one version silently becomes the other's. Here, as Kubernetes' own conversions
do it, what the target cannot hold waits in an annotation and comes back on the way back; and where the versions'
defaults differ (the machine type, whether a tuning is rolled out) the default is written out. There and back is the
same document. It must never drop anything: what cannot be kept is a fault.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from include.workspace.api.dialect import (
    API_VERSIONS,
    V1ALPHA1,
    V1BETA1,
    dialect_of,
)
from include.workspace.api.models import BETA_ONLY, BETA_ONLY_TUNING, V1ALPHA1_INSTANCE_TYPE
from include.workspace.api.names import (
    CONVERSION_DATA,
    GROUP,
    KIND,
    ROLLOUT,
)
from include.workspace.validation.faults import Fault, WorkspaceInvalid

Json = dict[str, Any]

MOVED = (*BETA_ONLY, *BETA_ONLY_TUNING)
NOTE = f"metadata.annotations[{CONVERSION_DATA}]"
MACHINE = {V1ALPHA1: V1ALPHA1_INSTANCE_TYPE, V1BETA1: ""}
ROLLED_OUT = {V1ALPHA1: "true", V1BETA1: "false"}


def convert(document: Mapping[str, Any], to: str) -> Json:
    """A copy of a Workspace in the other version of the API.

    `to` is "v1alpha1" or "v1beta1", with or without the group. A document of that version already comes back as it is.
    Raises WorkspaceInvalid when it is no Workspace, or when something could not be kept.
    """
    target = to if "/" in to else f"{GROUP}/{to}"
    if target not in API_VERSIONS:
        _refuse("apiVersion", to, "is not a version of the Workspace API", f"use {' or '.join(API_VERSIONS)}")
    source = document.get("apiVersion") if isinstance(document, Mapping) else None
    if source not in API_VERSIONS or document.get("kind") != KIND:
        _refuse("apiVersion", source, "only Workspaces of kaito.sh are converted", "")
    result: Json = copy.deepcopy(dict(document))
    if source == target:
        return result
    meant = _meant(result)
    result["apiVersion"] = target
    note = _taken_note(result)
    undone = _restore(result, note) if note else set()
    made = _Made(str(source))
    if target == V1ALPHA1:
        made.move_out(result)
    # What this conversion's own opposite added has just been taken back: it is the target's default again.
    made.write_out(result, meant, target, undone if note.get("from") == target else set())
    made.leave_note(result)
    return result


def _meant(document: Json) -> str:
    """The version whose defaults the author had in mind; refuses metadata that cannot be looked into."""
    meta = document.get("metadata", {})
    notes = meta.get("annotations", {}) if isinstance(meta, dict) else None
    fields = meta.get("managedFields") if isinstance(meta, dict) else None
    if not isinstance(notes, dict) or not isinstance(fields, list | None):
        _refuse("metadata", None, "must be a mapping, with annotations that are one", "")
    return dialect_of(document)


class _Made:
    """What one conversion changes, so that the way back can undo it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.fields: Json = {}  # moved out of the document, by path
        self.added: Json = {}  # defaults that were written out, by path
        self.containers: list[str] = []  # mappings that had to be made

    def move_out(self, document: Json) -> None:
        """Takes out what v1alpha1 does not have."""
        for path in MOVED:
            *parents, last = path.split(".")
            owner = _at(document, parents)
            if isinstance(owner, dict) and last in owner:
                self.fields[path] = owner.pop(last)

    def write_out(self, document: Json, meant: str, target: str, undone: set[str]) -> None:
        """Writes down the defaults that the target version would understand otherwise."""
        if MACHINE[meant] != MACHINE[target] and not undone & {"resource", "resource.instanceType"}:
            resource = document.get("resource")
            if resource is None:
                whole = {"labelSelector": {}, "instanceType": MACHINE[meant]}
                self._add(document, "resource", "resource", whole)
            elif isinstance(resource, dict) and resource.get("instanceType") is None:
                self._add(resource, "instanceType", "resource.instanceType", MACHINE[meant])
        if (
            document.get("tuning") is not None
            and ROLLED_OUT[meant] != ROLLED_OUT[target]
            and "rollout" not in undone
        ):
            notes = self._annotations(document)
            if ROLLOUT not in notes:
                self._add(notes, ROLLOUT, "rollout", ROLLED_OUT[meant])

    def _add(self, owner: Json, key: str, path: str, value: object) -> None:
        self.added[path] = {"now": copy.deepcopy(value), "null": key in owner}
        owner[key] = value

    def leave_note(self, document: Json) -> None:
        """Puts the record into the annotation, when there is anything to record."""
        if not (self.fields or self.added):
            for path in reversed(self.containers):
                _drop(document, path.split("."))
            return
        notes = self._annotations(document)
        record = {
            "from": self.source,
            "fields": self.fields,
            "added": self.added,
            "made": self.containers,
        }
        try:
            notes[CONVERSION_DATA] = json.dumps(record, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            _refuse(NOTE, None, f"a field that v1alpha1 lacks cannot be kept: {error}", "")

    def _annotations(self, document: Json) -> Json:
        """The annotations, made where there are none."""
        owner = document
        for path, key in (("metadata", "metadata"), ("metadata.annotations", "annotations")):
            if key not in owner:
                owner[key] = {}
                self.containers.append(path)
            owner = owner[key]
            if not isinstance(owner, dict):
                _refuse(path, None, "must be a mapping", "")
        return owner


def _taken_note(document: Json) -> Json:
    """The record of an earlier conversion, taken out of the document; {} when there is none."""
    notes = _at(document, ["metadata", "annotations"])
    if not isinstance(notes, dict) or CONVERSION_DATA not in notes:
        return {}
    try:
        record = json.loads(notes[CONVERSION_DATA])
        kinds = (record["from"], record["fields"], record["added"], record["made"])
    except (TypeError, ValueError, KeyError, RecursionError):
        kinds, record = (None,) * 4, {}
    source, fields, added, made = kinds
    sound = source in API_VERSIONS and isinstance(fields, dict) and isinstance(added, dict)
    if not (sound and isinstance(made, list) and set(fields) <= set(MOVED)):
        hint = "remove the annotation, if nothing of v1beta1 is to come back"
        _refuse(NOTE, None, "is not the record of a conversion, so what it kept cannot be put back", hint)
    if not all(isinstance(entry, dict) and {"now", "null"} <= set(entry) for entry in added.values()):
        _refuse(NOTE, None, "is not the record of a conversion", "remove the annotation")
    del notes[CONVERSION_DATA]
    return dict(record)


def _restore(document: Json, note: Json) -> set[str]:
    """Puts back what the earlier conversion took out, and takes out what it added and nobody has changed since.

    Gives the paths of what was taken out again.
    """
    undone = set()
    for path, value in note["fields"].items():
        *parents, last = path.split(".")
        owner = _at(document, parents)
        if not isinstance(owner, dict) or (last in owner and owner[last] != value):
            why = "its place is gone" if not isinstance(owner, dict) else "it has another value now"
            _refuse(
                path, None, f"cannot be put back from {NOTE}: {why}", "remove the annotation or the field"
            )
        owner[last] = value
    for path, entry in note["added"].items():
        steps = ["metadata", "annotations", ROLLOUT] if path == "rollout" else path.split(".")
        owner = _at(document, steps[:-1])
        if isinstance(owner, dict) and owner.get(steps[-1]) == entry["now"]:
            undone.add(path)
            if entry["null"]:
                owner[steps[-1]] = None
            else:
                del owner[steps[-1]]
    for path in reversed(note["made"]):
        _drop(document, str(path).split("."))
    return undone


def _at(document: object, steps: list[str]) -> Any:
    for step in steps:
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _drop(document: Json, steps: list[str]) -> None:
    """Removes a mapping that is empty."""
    owner = _at(document, steps[:-1])
    if isinstance(owner, dict) and owner.get(steps[-1]) == {}:
        del owner[steps[-1]]


def _refuse(path: str, value: object, message: str, hint: str) -> Any:
    raise WorkspaceInvalid([Fault(path, value, "S3", message, hint)])
