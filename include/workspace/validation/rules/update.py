"""Rules about changing a Workspace that exists (kaito-api.md#rules, X): what may not change, told field by field.

KAITO checks on update far less than on create, so an edit can break what create would have refused: two tuning inputs,
a URL into the cluster's own network, a push without its secret. Here a change must keep every rule of create, and these
besides. A comparison is of meanings: letter case of a method, a preset or a machine type is no change, nor is writing
out a default. Like every rule, these never do I/O and never raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from include.workspace.api import names
from include.workspace.api.dialect import V1ALPHA1
from include.workspace.api.models import PresetSpec, Workspace
from include.workspace.api.selector import asked_labels
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules.context import Policy

NEW_ONE = "make a new Workspace, or put the old value back"


@dataclass(frozen=True)
class Change:
    """A Workspace as it was accepted before, and as it is wanted now."""

    old: Workspace
    new: Workspace
    policy: Policy


def transition_faults(old: Workspace, new: Workspace, policy: Policy) -> list[Fault]:
    """X1 to X16 alone: what the change itself breaks, whatever the new Workspace looks like."""
    change = Change(old, new, policy)
    return [fault for rule in TRANSITIONS for fault in rule(change)]


def still_allowed(fault: Fault, old: Workspace, new: Workspace) -> bool:
    """Whether a fault of create is none on update, because KAITO judges these two by their change only.

    C3: a machine type that was there before the cluster went over to BYO nodes (X6);
    C8: a node class that was managed when it was chosen (X15).
    """
    if fault.rule == "C3":
        return bool(_machine(old)) and _machine(old).lower() == _machine(new).lower()
    if fault.rule == "C8":
        return old.annotations.get(names.NODE_CLASS_NAME) == new.annotations.get(names.NODE_CLASS_NAME)
    return False


def _changed(path: str, rule: str, old: object, new: object) -> Fault:
    """A field that may not change. `old` None stands for a field that was absent."""
    was = "was not set" if old in (None, "", {}) else f"was {old!r}"
    return Fault(path, new, rule, f"cannot be changed; it {was}", NEW_ONE)


def halves_stay(change: Change) -> Iterator[Fault]:
    """X1."""
    for half in ("inference", "tuning"):
        before, after = getattr(change.old, half) is not None, getattr(change.new, half) is not None
        if before != after:
            what = "added to" if after else "taken out of"
            hint = "make a new Workspace: tuning and inference do not turn into each other"
            yield Fault(half, None, "X1", f"cannot be {what} a Workspace that exists", hint)


def count_stays(change: Change) -> Iterator[Fault]:
    """X2, by the meaning: no count is one node."""
    before, after = change.old.node_count, change.new.node_count
    if before != after:
        yield _changed("resource.count", "X2", before, after)


def partition_stays(change: Change) -> Iterator[Fault]:
    """X3."""
    before, after = (_plain(ws.resource and ws.resource.partition) for ws in (change.old, change.new))
    if before != after:
        yield _changed("resource.partition", "X3", before, after or None)


def machine_stays(change: Change) -> Iterator[Fault]:
    """X4 (v1alpha1), X5, X6: another spelling is no other machine; only where nodes are BYO it may go.

    One that was not given may be given once: nothing was made for it yet.
    """
    before, after = _machine(change.old), _machine(change.new)
    alpha = change.new.dialect == V1ALPHA1
    if before.lower() == after.lower():
        return
    if not before and not change.policy.byo:
        return
    rule = "X4" if alpha else "X6" if change.policy.byo else "X5"
    if change.policy.byo and not alpha and not after:
        return
    yield _changed("resource.instanceType", rule, before, after or None)


def labels_stay(change: Change) -> Iterator[Fault]:
    """X7: compared by the labels that the selector means, so a single-value In and a label are the same."""
    before, after = asked_labels(change.old), asked_labels(change.new)
    if before != after:
        yield _changed("resource.labelSelector", "X7", before, after)


def inference_preset_stays(change: Change) -> Iterator[Fault]:
    """X8."""
    old, new = change.old.inference, change.new.inference
    if old and new:
        yield from _preset_faults("inference.preset", "X8", old.preset, new.preset)


def template_stays(change: Change) -> Iterator[Fault]:
    """X9: its content may change, its presence may not."""
    old, new = change.old.inference, change.new.inference
    if old and new and (old.template is None) != (new.template is None):
        what = "taken out" if new.template is None else "added"
        yield Fault("inference.template", None, "X9", f"cannot be {what}", NEW_ONE)


def input_name_stays(change: Change) -> Iterator[Fault]:
    """X12."""
    old, new = change.old.tuning, change.new.tuning
    if old and new and (old.input.name or "") != (new.input.name or ""):
        yield _changed("tuning.input.name", "X12", old.input.name, new.input.name)


def tuning_stays_the_same_job(change: Change) -> Iterator[Fault]:
    """X14."""
    old, new = change.old.tuning, change.new.tuning
    if not old or not new:
        return
    yield from _preset_faults("tuning.preset", "X14", old.preset, new.preset)
    if change.old.method != change.new.method:
        yield _changed("tuning.method", "X14", old.method, new.method)


def streaming_stays(change: Change) -> Iterator[Fault]:
    """X16."""
    before, after = (ws.annotations.get(names.MODEL_STREAMING) for ws in (change.old, change.new))
    if change.policy.model_streaming and before != after:
        yield _changed(f"metadata.annotations[{names.MODEL_STREAMING}]", "X16", before, after)


def _preset_faults(path: str, rule: str, old: PresetSpec | None, new: PresetSpec | None) -> Iterator[Fault]:
    """Each field of a preset that differs; KAITO says no more than that the whole is immutable."""
    before, after = _preset(old), _preset(new)
    for field in sorted(before.keys() | after.keys()):
        if before.get(field) != after.get(field):
            yield _changed(f"{path}.{field}", rule, before.get(field), after.get(field))


def _preset(preset: PresetSpec | None) -> dict[str, Any]:
    """A preset's fields by their path, as they count: the name without case, the default written out."""
    if preset is None:
        return {}
    found = _plain(preset)
    options = found.pop("presetOptions", None) or {}
    found["name"] = preset.name.lower()
    found["accessMode"] = preset.access_mode or "public"
    return found | {f"presetOptions.{key}": value for key, value in options.items() if value}


def _plain(value: Any) -> dict[str, Any]:
    """A part of a Workspace as a mapping without what was left out."""
    if value is None:
        return {}
    result: Mapping[str, Any] = value.model_dump(by_alias=True, exclude_none=True)
    return dict(result)


def _machine(ws: Workspace) -> str:
    return ws.instance_type.strip()


TRANSITIONS: tuple[Callable[[Change], Iterator[Fault]], ...] = (
    halves_stay,
    count_stays,
    partition_stays,
    machine_stays,
    labels_stay,
    inference_preset_stays,
    template_stays,
    input_name_stays,
    tuning_stays_the_same_job,
    streaming_stays,
)
