"""Server-side apply: a manager's configuration is merged in, what it no longer mentions goes, conflicts are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError, bad_request
from sandbox.api.kinds.types import Type, type_of
from sandbox.api.meta import copied, copied_object, metadata, timestamp
from sandbox.api.writes.fieldsets import (
    Path,
    children,
    compared,
    element_of,
    fields_of,
    is_leaf,
    shown,
)
from sandbox.api.writes.managed_fields import (
    Manager,
    Share,
    Shares,
    owned,
    shares_of,
)
from sandbox.api.writes.strategic_merge import interleaved

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]


def check_configuration(info: Resource, config: object, name: str) -> Json:
    """An applied configuration names its object and nothing that only the server sets."""
    if not isinstance(config, dict):
        raise bad_request("an apply patch must be one object, in YAML or JSON")
    checked = copied_object(config)
    for part in ("apiVersion", "kind"):
        if not checked.get(part):
            raise bad_request(f"invalid object type: an apply patch must have {part}")
    meta = metadata(checked)
    if meta.get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    if meta.setdefault("name", name) != name:
        raise bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
        )
    return checked


def applied(
    info: Resource, live: Json | None, config: Json, manager: str, subresource: str | None, force: bool
) -> tuple[Json, Shares]:
    """The object after an apply, and who owns what of it; raises ApiError (409) for conflicts without `force`."""
    type_ = type_of(info)
    config = _without_nulls(config)
    if info.has_status and subresource != "status":
        config.pop("status", None)
    me = Manager(manager, "Apply", info.api_version, subresource or "")
    shares = shares_of(live) if live is not None else {}
    last = next((s for m, s in shares.items() if _same_applier(m, me)), None)
    shares = {m: s for m, s in shares.items() if not _same_applier(m, me)}
    fields = owned(set(fields_of(type_, config)))
    base = live if live is not None else {}
    new = merged(type_, base, config)
    if last is not None:
        new = _pruned(type_, new, last.fields - fields, fields, shares)
    change = compared(type_, base, new)
    changed, removed = owned(change.changed()), owned(change.removed)
    _check_conflicts(shares, changed, force)
    for share in shares.values():
        share.fields -= changed | removed
    time = last.time if last is not None and last.fields == fields else timestamp()
    shares[me] = Share(fields, time)
    return new, shares


def _same_applier(one: Manager, other: Manager) -> bool:
    """An applier is the same in all versions of a kind."""
    return (one.name, one.operation, one.subresource) == (other.name, other.operation, other.subresource)


def _without_nulls(value: object) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def merged(type_: Type, live: Any, config: Any) -> Any:
    """The configuration laid over the live value."""
    if is_leaf(type_, config) or not isinstance(live, type(config)):
        return copied(config)
    if isinstance(config, dict):
        result = dict(live)
        for name, value in config.items():
            result[name] = merged(type_.field(name), live[name], value) if name in live else copied(value)
        return result
    items = {element_of(type_, item): item for item in live}
    named = []
    for item in config:
        element = element_of(type_, item)
        named.append(merged(type_.element, items[element], item) if element in items else copied(item))
    mine = {element_of(type_, item) for item in named}
    others = [item for element, item in items.items() if element not in mine]
    return interleaved(others, named, list(items), lambda item: element_of(type_, item))


def _pruned(type_: Type, obj: Json, dropped: set[Path], mine: set[Path], others: Shares) -> Json:
    """Without what this manager applied last time and nobody owns now."""
    kept = set(mine)
    for share in others.values():
        kept |= share.fields
    protected = {path[:end] for path in kept for end in range(1, len(path) + 1)}
    gone = {path for path in dropped if path not in protected}
    result = _without(type_, obj, gone, ())
    return result if isinstance(result, dict) else {}


_GONE = object()


def _without(type_: Type, value: object, gone: set[Path], path: Path) -> Any:
    """A value without the given paths; a container that this empties goes too."""
    if path in gone:
        return _GONE
    below = {p for p in gone if p[: len(path)] == path}
    if not below or is_leaf(type_, value):
        return value
    kept = []
    for element, inner, item in children(type_, value):
        rest = _without(inner, item, below, (*path, element))
        if rest is not _GONE:
            kept.append((element, rest))
    if not kept and value:
        return _GONE
    return (
        {element[2:]: item for element, item in kept}
        if isinstance(value, dict)
        else [item for _, item in kept]
    )


def _check_conflicts(shares: Shares, changed: set[Path], force: bool) -> None:
    conflicts = [
        (_named(manager), path)
        for manager, share in shares.items()
        for path in sorted(share.fields & changed)
    ]
    if not conflicts or force:
        return
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": shown(path)}
        for who, path in conflicts
    ]
    raise ApiError(409, "Conflict", _message(conflicts), {"causes": causes})


def _named(manager: Manager) -> str:
    text = f'"{manager.name}"'
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {manager.version}" if manager.operation == "Update" else text


def _message(conflicts: list[tuple[str, Path]]) -> str:
    if len(conflicts) == 1:
        who, path = conflicts[0]
        return f"Apply failed with 1 conflict: conflict with {who}: {shown(path)}"
    lines = []
    for who in sorted({who for who, _ in conflicts}):
        lines.append(f"conflicts with {who}:")
        lines += [f"- {shown(path)}" for other, path in conflicts if other == who]
    return f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
