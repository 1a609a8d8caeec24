"""What is allowed but probably not what the author meant; shown beside the plan, never a reason to refuse.

KAITO writes some of these into its controller's log, where nobody reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

from include.catalog import Catalog
from include.contracts.faults import HINTS, NAME_LENGTH, Hints
from include.workspace.api import names
from include.workspace.api.models import DataDestination, DataSource, Workspace
from include.workspace.api.selector import asked_labels
from include.workspace.validation.rules.context import Context, Policy

KNOWN_ANNOTATIONS = frozenset(
    {
        names.ROLLOUT,
        names.ENABLE_LOAD_BALANCER,
        names.RUNTIME,
        names.BYPASS_RESOURCE_CHECKS,
        names.NODE_IMAGE_FAMILY,
        names.NODE_CLASS_NAME,
        names.PERFORMANCE_MODE,
        names.API_KEY,
        names.USE_LOCAL_WEIGHTS,
        names.MODEL_IMAGE,
        names.MODEL_REVISION,
        names.MODEL_VOLUME,
        names.MODEL_CACHE,
        names.DISABLE_BENCHMARK,
        names.MODEL_STREAMING,
        names.CONVERSION_DATA,
        names.RERUN,
        names.PAUSED,
        names.MANAGED_BY,
        names.FORCE_RELEASE,
        names.POOL_PROVIDER,
        names.SCALE_TO_ZERO,
        names.INSTANCE_TYPES,
        names.CAPACITY_TYPE,
        names.KEEP,
        names.BUDGET,
        names.RETRAIN_SCHEDULE,
        names.RETRAIN_TIMEZONE,
        names.RETRAIN_POLICY,
        names.APPROVE,
        names.REJECT,
        names.ROLLBACK_TO,
        names.RETRAIN_VERSION,
        names.RETRAIN_CURRENT,
        names.RETRAIN_FROM,
        names.RETRAIN_KNOWN,
        names.HELD_OUT,
        names.TUNING_OBJECTIVE,
        names.TRACKING,
        names.SIGNING,
        names.DATASET_CREDENTIALS,
        names.DATASET_IDENTITY,
        "kaito.sh/model-mirror-storage-class",
        "kaito.sh/streaming-service-account",
        "kaito.sh/upgrade-start-time",
    }
)


def notices(ws: Workspace, catalog: Catalog) -> list[str]:
    """Sentences about parts of a Workspace that have no effect or a surprising one."""
    context = Context(ws, catalog, Policy())
    return [*_ignored(ws), *_preset(context), *_annotations(ws), *_odd_values(context), *_unknown_fields(ws)]


def _ignored(ws: Workspace) -> list[str]:
    found = []
    reserved = sorted(set(asked_labels(ws)) & names.RESERVED_LABELS)
    if reserved:
        found.append(
            f"resource.labelSelector: {', '.join(reserved)} is set by KAITO itself and ignored here."
        )
    if ws.resource and ws.resource.preferred_nodes:
        found.append("resource.preferredNodes has had no effect since KAITO v0.8.")
    if ws.preset and ws.preset.access_mode == "private":
        found.append(
            f"preset.accessMode private is ignored, as in KAITO; the annotation {names.MODEL_IMAGE} names an image "
            "that the model's files come from."
        )
    elif ws.preset and ws.preset.preset_options and ws.preset.preset_options.image:
        found.append(
            f"presetOptions.image is ignored, as in KAITO; the annotation {names.MODEL_IMAGE} names an image "
            "that the model's files come from."
        )
    if ws.inference and ws.inference.config and ws.annotations.get(names.RUNTIME) == "transformers":
        found.append("inference.config has no effect with the runtime transformers, as in KAITO.")
    return found


def _preset(context: Context) -> list[str]:
    model, machine = context.model, context.machine
    found = []
    if model is not None and model.deprecated:
        found.append(f"{model.name} is deprecated: KAITO last had it in {model.last_release}.")
    if model is not None and not model.pinned:
        found.append(
            f"{model.name} follows the branch {model.revision} of its repository: a Workspace keeps the commit that "
            "this is when its first run begins, if the hub can be asked then."
        )
    if machine is not None and machine.deprecated:
        found.append(f"{machine.name} is deprecated: KAITO last had it in {machine.last_release}.")
    return found


def _annotations(ws: Workspace) -> list[str]:
    unknown = sorted(
        key for key in ws.annotations if key.startswith("kaito.sh/") and key not in KNOWN_ANNOTATIONS
    )
    found, hints = [], Hints()
    for key in unknown[:HINTS]:
        close = hints.nearest(key, KNOWN_ANNOTATIONS)
        hint = f"; did you mean {close}?" if close else "."
        found.append(f"annotation {_short(key)} is not known and has no effect{hint}")
    if len(unknown) > HINTS:
        found.append(
            f"{len(unknown) - HINTS} more annotations of kaito.sh/ are not known and have no effect."
        )
    return found


def _unknown_fields(ws: Workspace) -> list[str]:
    """Fields of a pod template and of volumes that Kubernetes does not know; KAITO drops them without a word."""
    parts: list[tuple[str, str, Mapping[str, object]]] = []
    if ws.inference and ws.inference.template is not None:
        parts.append(("inference.template", "PodTemplateSpec", ws.inference.template))
    sources: list[tuple[str, DataSource | DataDestination | None]] = [
        (f"inference.adapters[{index}].source", adapter.source)
        for index, adapter in enumerate((ws.inference and ws.inference.adapters) or ())
    ]
    if ws.tuning:
        sources += [("tuning.input", ws.tuning.input), ("tuning.output", ws.tuning.output)]
    parts += [
        (f"{path}.volumeSource", "Volume", one.volume_source)
        for path, one in sources
        if one is not None and one.volume_source is not None
    ]
    if not parts:
        return []
    from include.workspace.validation import pod_fields

    return pod_fields.notices(parts)


def _odd_values(context: Context) -> list[str]:
    """Annotations whose value, or whose Workspace, makes them mean nothing; KAITO takes them without a word."""
    notes, found = context.ws.annotations, []
    runtime = notes.get(names.RUNTIME)
    if runtime not in (None, "vllm", "transformers"):
        found.append(
            f"annotation {names.RUNTIME}: {_short(runtime)!r} names no runtime, so vllm serves, as in KAITO; the "
            "other one is transformers."
        )
    if context.runtime == "transformers" and notes.get(names.PERFORMANCE_MODE) in (
        "interactivity",
        "throughput",
    ):
        found.append(f"annotation {names.PERFORMANCE_MODE} has no effect with the runtime transformers.")
    if notes.get(names.DISABLE_BENCHMARK, "").strip().lower() not in ("", "true", "false"):
        found.append(
            f"annotation {names.DISABLE_BENCHMARK} has no effect: only 'true' turns the benchmark off."
        )
    if notes.get(names.ENABLE_LOAD_BALANCER, "") not in ("", "True", "False"):
        found.append(
            f"annotation {names.ENABLE_LOAD_BALANCER} has no effect: only 'True', spelled so, gives the service an "
            "address outside the cluster."
        )
    if context.ws.is_tuning and notes.get(names.USE_LOCAL_WEIGHTS) == "true":
        found.append(
            f"annotation {names.USE_LOCAL_WEIGHTS} is for services: the tuning itself downloads the model."
        )
    if names.DATASET_IDENTITY in notes and names.RETRAIN_POLICY in notes:
        found.append(
            f"annotation {names.DATASET_IDENTITY}: only the dataset's pod has this identity, so whether there is new "
            "data cannot be asked before: each look of a retraining reads the whole dataset."
        )
    return found


def _short(key: str) -> str:
    """An annotation's key as the API server would take it, or its beginning."""
    return key if len(key) <= NAME_LENGTH else f"{key[:NAME_LENGTH]}..."
