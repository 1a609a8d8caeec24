"""From what somebody wrote to a Workspace, or to the list of everything that is wrong with its shape.

`parse_workspace` knows the schema only; `validate` (rules) knows what the fields mean; `admit_workspace` does both and
is what a first task should call. Parsing must never raise anything but WorkspaceInvalid, whatever it is given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from include.catalog import Catalog
from include.contracts.yaml_documents import reader as documents
from include.workspace.api.models import (
    API_VERSIONS,
    BETA_ONLY,
    BETA_ONLY_TUNING,
    V1ALPHA1,
    Workspace,
)
from include.workspace.api.names import KIND
from include.workspace.validation.faults import Fault, Hints, WorkspaceInvalid
from include.workspace.validation.rules import Policy, update_faults, validate

Path = tuple[str | int, ...]


def parse_workspace(data: Mapping[str, Any] | str | bytes) -> Workspace:
    """A Workspace from a mapping or a YAML text. Raises WorkspaceInvalid with every fault of the schema."""
    workspace, faults = _read(data)
    if workspace is None or faults:
        raise WorkspaceInvalid(faults)
    return workspace


def examine_workspace(
    data: Mapping[str, Any] | str | bytes, catalog: Catalog, policy: Policy | None = None
) -> tuple[Workspace | None, list[Fault]]:
    """All faults at once, of schema and of meaning: rules look at whatever the schema could read.

    Gives the Workspace (None when nothing could be read) and the faults, in the order of the document's sections.
    """
    workspace, faults = _read(data)
    if workspace is None:
        return None, faults
    known = {fault.path for fault in faults}
    later = [fault for fault in validate(workspace, catalog, policy=policy) if not _covered(fault, known)]
    return workspace, faults + later


def examine_update(
    data: Mapping[str, Any] | str | bytes,
    before: Mapping[str, Any] | None,
    catalog: Catalog,
    policy: Policy | None = None,
) -> tuple[Workspace | None, list[Fault]]:
    """As `examine_workspace`, and what may not be changed (X1 to X16) besides.

    `before` is the Workspace as it was last accepted: its document, or the data of its ControllerRevision
    ({"resource", "inference", "tuning"}). One that cannot be read counts as none: then only create's rules apply.
    """
    workspace, faults = _read(data)
    if workspace is None:
        return None, faults
    old = _previous(before, workspace)
    found = (
        validate(workspace, catalog, policy=policy)
        if old is None
        else update_faults(old, workspace, catalog, policy)
    )
    known = {fault.path for fault in faults}
    return workspace, faults + [fault for fault in found if not _covered(fault, known)]


def _previous(before: object, new: Workspace) -> Workspace | None:
    """The earlier state; what a ControllerRevision does not hold (apiVersion, metadata) is taken from the new one."""
    if not isinstance(before, Mapping) or not (before.get("tuning") or before.get("inference")):
        return None
    like = new.to_dict()
    frame = {key: before.get(key) or like[key] for key in ("apiVersion", "kind", "metadata")}
    halves = {key: before[key] for key in ("resource", "inference", "tuning") if before.get(key) is not None}
    try:
        return Workspace.model_validate(frame | halves)
    except ValidationError:
        return _partial(frame | halves)


def admit_workspace(
    data: Mapping[str, Any] | str | bytes, catalog: Catalog, allowed_networks: Sequence[str] = ()
) -> Workspace:
    """A Workspace that keeps every rule. Raises WorkspaceInvalid with all faults of schema and meaning at once."""
    workspace, faults = examine_workspace(data, catalog, Policy(allowed_networks=tuple(allowed_networks)))
    if workspace is None or faults:
        raise WorkspaceInvalid(faults)
    return workspace


def _read(data: Mapping[str, Any] | str | bytes) -> tuple[Workspace | None, list[Fault]]:
    """The Workspace as far as it can be read, and the faults of its schema."""
    try:
        loaded = documents.load_one(data) if isinstance(data, str | bytes) else data
        documents.check_depth(loaded)
    except documents.BadDocument as error:
        return None, [Fault("", None, "S1", str(error))]
    if not isinstance(loaded, Mapping):
        return None, [
            Fault("", loaded, "S1", "a Workspace must be a mapping with apiVersion, kind and metadata")
        ]
    faults = [*_identity(loaded), *_beta_only(loaded)]
    try:
        return Workspace.model_validate(dict(loaded)), faults
    except ValidationError as error:
        hints = Hints()
        faults += [_fault(detail, hints) for detail in error.errors(include_url=False)]
    return _partial(loaded), faults


def _identity(data: Mapping[str, Any]) -> list[Fault]:
    faults = []
    version, kind = data.get("apiVersion"), data.get("kind")
    if isinstance(version, str) and version not in API_VERSIONS:
        hint = f"use {' or '.join(API_VERSIONS)}"
        faults.append(Fault("apiVersion", version, "S2", "this is not a version of the Workspace API", hint))
    if isinstance(kind, str) and kind != KIND:
        faults.append(Fault("kind", kind, "S2", "only Workspaces are read here", f"use kind: {KIND}"))
    return faults


def _beta_only(data: Mapping[str, Any]) -> list[Fault]:
    """Fields that v1alpha1 does not have: the API server would drop them without a word."""
    if data.get("apiVersion") != V1ALPHA1:
        return []
    hint = "use apiVersion: kaito.sh/v1beta1"
    present = [path for path in (*BETA_ONLY, *BETA_ONLY_TUNING) if _get(data, path.split(".")) is not None]
    return [Fault(path, None, "S3", "v1alpha1 has no such field", hint) for path in present]


def _get(data: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


_MESSAGES = {
    "missing": ("S4", "is required"),
    "string_type": ("S5", "must be text"),
    "int_type": ("S5", "must be a whole number"),
    "bool_type": ("S5", "must be true or false"),
    "list_type": ("S5", "must be a list"),
    "dict_type": ("S5", "must be a mapping"),
    "model_type": ("S5", "must be a mapping"),
}


def _fault(detail: Any, hints: Hints) -> Fault:
    """A pydantic error in our terms."""
    path, value = _path(detail["loc"]), detail["input"]
    if detail["type"] == "extra_forbidden":
        return Fault(path, None, "S6", "is not a field of a Workspace", _field_hint(detail["loc"], hints))
    rule, message = _MESSAGES.get(detail["type"], ("S5", detail["msg"]))
    hint = ""
    if rule == "S5" and message == "must be text" and isinstance(value, bool | int | float):
        hint = f'put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    shown = None if rule == "S4" or isinstance(value, Mapping | list) else value
    return Fault(path, shown, rule, message, hint)


def _field_hint(loc: Path, hints: Hints) -> str:
    """The nearest field at the same place of the schema."""
    model: Any = Workspace
    for step in loc[:-1]:
        if isinstance(step, str):
            model = _child_model(model, step)
        if model is None:
            return ""
    known = [info.alias or name for name, info in model.model_fields.items()]
    if str(loc[-1]) == "spec":
        return "a Workspace has no spec: resource, tuning and inference stand beside metadata"
    return hints.did_you_mean(str(loc[-1]), known)


def _child_model(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    for name, info in model.model_fields.items():
        if (info.alias or name) == alias:
            return _model_in(info.annotation)
    return None


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _path(loc: Path) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


# Required mappings: an empty one stands in for what is missing, so that rules still see what is beside it.
PLACEHOLDERS = frozenset({"input", "output", "labelSelector"})


def _partial(data: Mapping[str, Any], attempts: int = 8) -> Workspace | None:
    """The Workspace without the parts that the schema refuses, so that the rules can still look at the rest."""
    rest: Any = copy.deepcopy(dict(data))
    for _ in range(attempts):
        try:
            return Workspace.model_validate(rest)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                missing = detail["type"] == "missing"
                loc: Path = tuple(detail["loc"])
                if missing and loc[-1] in PLACEHOLDERS:
                    _get(rest, loc[:-1])[loc[-1]] = {}
                elif not _remove(rest, loc[:-1] if missing else loc):
                    return None
    return None


def _remove(data: object, loc: Path) -> bool:
    """Takes one value out of nested data; list items become unusable neighbours, so their whole list goes."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    if not loc:
        return False
    owner = _get(data, loc[:-1])
    if isinstance(owner, dict):
        owner.pop(loc[-1], None)
        return True
    return owner is None or _remove(data, loc[:-1])


def _covered(fault: Fault, known: set[str]) -> bool:
    """Whether the schema has already complained about this field or about something in or around it."""
    path = fault.path
    if fault.rule == "C1":  # a half that could not be read is not a half that is missing
        return any(other.split(".")[0] in ("inference", "tuning") for other in known)

    def inside(inner: str, outer: str) -> bool:
        return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))

    return any(inside(path, other) or inside(other, path) for other in known)
