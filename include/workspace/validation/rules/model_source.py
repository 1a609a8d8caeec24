"""Rules about where a model's files come from: each place excludes the others, and none is guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from include.contracts.revisions import is_revision
from include.workspace.api import names
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules.context import Context, Rule, secret_name_fault
from include.workspace.validation.rules.sources import image_faults


def model_image_can_be_taken(context: Context) -> Iterator[Fault]:
    """F48: the image that the model's files come from, in a Workspace that loads them."""
    ws = context.ws
    given = ws.annotations.get(names.MODEL_IMAGE)
    if given is None:
        return
    path = f"metadata.annotations[{names.MODEL_IMAGE}]"
    if ws.preset is None:
        yield Fault(path, None, "F48", "is for presets, and this Workspace has none", "remove it")
        return
    yield from _alone(context, path, "F48", names.USE_LOCAL_WEIGHTS)
    yield from image_faults(context, path, given.strip(), "F48")
    section = "tuning" if ws.is_tuning else "inference"
    for index, secret in enumerate(ws.model_pull_secrets):
        where = f"{section}.preset.presetOptions.imagePullSecrets[{index}]"
        yield from secret_name_fault(where, secret, "F5")


def _alone(context: Context, path: str, rule: str, *others: str) -> Iterator[Fault]:
    """A fault for each other annotation that names a place as well."""
    notes = context.ws.annotations
    for other in others:
        if other in notes and (other != names.USE_LOCAL_WEIGHTS or notes[other] == "true"):
            message = f"cannot be together with {other}: the files come from one place"
            yield Fault(path, None, rule, message, f"remove it, or {other}")


def volumes_can_be_taken(context: Context) -> Iterator[Fault]:
    """F54, F55: the volume that the model's files lie on or are kept on, in a Workspace that loads them."""
    places = (names.USE_LOCAL_WEIGHTS, names.MODEL_IMAGE)
    yield from _volume_faults(context, "F54", names.MODEL_VOLUME, places)
    yield from _volume_faults(context, "F55", names.MODEL_CACHE, (*places, names.MODEL_VOLUME))


def _volume_faults(context: Context, rule: str, annotation: str, others: Sequence[str]) -> Iterator[Fault]:
    given = context.ws.annotations.get(annotation)
    if given is None:
        return
    path = f"metadata.annotations[{annotation}]"
    if context.ws.preset is None:
        yield Fault(path, None, rule, "is for presets, and this Workspace has none", "remove it")
        return
    from include.workspace.validation import model_volume

    try:
        model_volume.read(given)
    except ValueError as error:
        yield Fault(path, given, rule, f"names no volume: {error}", model_volume.ALLOWED)
    yield from _alone(context, path, rule, *others)


def revision_can_be_taken(context: Context) -> Iterator[Fault]:
    """F53: which revision of the hub's repository is asked for, in a Workspace that downloads it."""
    ws = context.ws
    given = ws.annotations.get(names.MODEL_REVISION)
    if given is None:
        return
    path = f"metadata.annotations[{names.MODEL_REVISION}]"
    if ws.preset is None:
        yield Fault(path, None, "F53", "is for presets, and this Workspace has none", "remove it")
        return
    if not is_revision(given.strip()):
        hint = "for example main, v1.0, or 40 hexadecimal digits"
        yield Fault(path, given, "F53", "is not a commit, a branch or a tag", hint)
    image = names.MODEL_IMAGE in ws.annotations or bool(context.model and context.model.image)
    volume = names.MODEL_VOLUME in ws.annotations
    local = ws.annotations.get(names.USE_LOCAL_WEIGHTS) == "true" and not ws.is_tuning
    if volume or image or local:
        place = "a volume" if volume else "an image" if image else "the node"
        message = f"chooses a revision on the hub, and the files come from {place}"
        yield Fault(path, given, "F53", message, "remove it")


RULES: tuple[Rule, ...] = (model_image_can_be_taken, volumes_can_be_taken, revision_can_be_taken)
