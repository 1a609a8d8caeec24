"""Rules about inference and its adapters (kaito-api.md#rules, I and A); adapters are checked on create too."""

from __future__ import annotations

from collections.abc import Iterator

from include.catalog import Machine, Model, engines, sizing
from include.workspace.api import names
from include.workspace.api.models import V1BETA1, AdapterSpec, PresetSpec
from include.workspace.validation.faults import Fault, did_you_mean
from include.workspace.validation.identity import is_object_name
from include.workspace.validation.rules.context import Context, Rule, secret_name_fault
from include.workspace.validation.rules.sources import image_faults, source_faults

ADAPTERS_MAX = 10


def preset_or_template(context: Context) -> Iterator[Fault]:
    """I1, I2."""
    inference = context.ws.inference
    if inference is None:
        return
    if inference.preset is None and inference.template is None:
        yield Fault("inference", None, "I1", "needs preset or template, and has neither")
    if inference.preset is not None and inference.template is not None:
        yield Fault("inference", None, "I2", "has preset and template", "keep one of them")


def template_is_a_pod(context: Context) -> Iterator[Fault]:
    """F62: Kubernetes can read it, or a run would find its fault with a machine beside it."""
    inference = context.ws.inference
    if inference and inference.template is not None:
        from include.workspace.validation.pod_fields import template_faults

        yield from template_faults(inference.template, "inference.template")


def template_is_safe(context: Context) -> Iterator[Fault]:
    """F32: what the cluster's administrators let pod templates do."""
    inference = context.ws.inference
    if inference and inference.template is not None:
        from include.workspace.validation.pod_security import template_faults

        yield from template_faults(inference.template, "inference.template", context.policy.template_policy)


def preset_is_known(context: Context) -> Iterator[Fault]:
    """I3."""
    inference = context.ws.inference
    if inference and inference.preset:
        yield from preset_faults(context, "inference.preset", inference.preset, "I3")


def preset_faults(context: Context, path: str, preset: PresetSpec, rule: str) -> Iterator[Fault]:
    """The preset exists (`rule`), and a gated one comes with a secret (I8); shared with tuning."""
    if context.model is None:
        hint = did_you_mean(preset.name, context.known.models)
        if hint.startswith("known here"):
            hint = (
                f"{len(context.catalog.models)} presets are known; `python -m include.cli models` lists them"
            )
        yield Fault(f"{path}.name", preset.name, rule, "is not a known preset", hint)
    elif context.model.gated and not context.ws.model_access_secret and _must_download(context):
        hint = "name a secret whose key HF_TOKEN opens the model"
        message = f"{context.model.hf_id} is gated, so a secret is required"
        yield Fault(f"{path}.presetOptions.modelAccessSecret", None, "I8", message, hint)
    if context.ws.model_access_secret:
        field = f"{path}.presetOptions.modelAccessSecret"
        yield from secret_name_fault(field, context.ws.model_access_secret, "F5")
    options = preset.preset_options
    if options and options.image:
        yield from image_faults(context, f"{path}.presetOptions.image", options.image, "F5")
    if preset.access_mode not in (None, "public", "private"):
        yield Fault(f"{path}.accessMode", preset.access_mode, "F5", "must be public or private")


def _must_download(context: Context) -> bool:
    """v1alpha1 has no field for the secret, so its gated models can only come from a mirror, an image or a volume.

    The node's own files are for services: a tuning downloads the model whatever its annotation says.
    """
    notes = context.ws.annotations
    own = notes.get(names.USE_LOCAL_WEIGHTS) == "true" and not context.ws.is_tuning
    local = context.policy.local_weights or own
    image = names.MODEL_IMAGE in notes or bool(context.model and context.model.image)
    volume = names.MODEL_VOLUME in notes
    return context.ws.dialect == V1BETA1 and not local and not image and not volume


def runtime_loads_the_model(context: Context) -> Iterator[Fault]:
    """F45: the model's class and its weights' format in the runtime that will serve it, tuned or not."""
    ws, model = context.ws, context.model
    if model is None or (ws.is_tuning and not ws.rollout):
        return
    path = f"{'tuning' if ws.is_tuning else 'inference'}.preset.name"
    reason = engines.why_not(model, context.runtime)
    if reason:
        other = engines.TRANSFORMERS if context.runtime == engines.VLLM else engines.VLLM
        hint = f"set the annotation {names.RUNTIME}: {other}" if engines.loads(model, other) else ""
        yield Fault(path, model.name, "F45", f"cannot be served: {reason}", hint or "choose another model")
    machine = context.machine
    if machine is None or names.BYPASS_RESOURCE_CHECKS in ws.annotations:
        return
    if too_old := engines.kernels_too_old(model, machine):
        yield Fault(
            "resource.instanceType", ws.instance_type, "F45", too_old, "choose a machine with newer GPUs"
        )


def what_embeds_is_served_whole(context: Context) -> Iterator[Fault]:
    """F60: what a model that embeds, ranks or scores cannot have beside it or come from."""
    ws, model = context.ws, context.model
    if model is None or ws.inference is None or not engines.pools(model):
        return
    does = f"{model.name} embeds, ranks or scores texts"
    if ws.inference.adapters:
        message = f"are for models that write text, and {does}"
        yield Fault("inference.adapters", len(ws.inference.adapters), "F60", message, "remove them")
    noted = ws.annotations.get(names.MODEL_IMAGE)
    if noted or model.image:
        path = f"metadata.annotations[{names.MODEL_IMAGE}]" if noted else "inference.preset.name"
        message = f"cannot come from a model image, which has no room for 1_Pooling and the like: {does}"
        hint = f"put its files on a volume ({names.MODEL_VOLUME})"
        yield Fault(path, noted or model.name, "F60", message, hint)


def heads_can_be_shared(context: Context) -> Iterator[Fault]:
    """F46: for the layout that the plan chooses. With a config of the user's the layout may be another (F13)."""
    ws, model, machine = context.ws, context.model, context.machine
    if model is None or machine is None or not machine.nvidia or context.runtime != engines.VLLM:
        return
    if (ws.is_tuning and not ws.rollout) or (ws.inference and ws.inference.config):
        return
    if names.BYPASS_RESOURCE_CHECKS in ws.annotations:
        return
    one_node = sizing.single_node_fits(model, machine)
    split = engines.tensor_parallel(
        model.weights_bytes, machine.gpus, machine.gpu_memory_bytes, 1 if one_node else 2
    )
    if reason := engines.indivisible(model, split):
        hint = f"choose a machine with another number of GPUs{_own_layout(model, machine)}"
        yield Fault("resource.instanceType", ws.instance_type, "F46", reason, hint)


def _own_layout(model: Model, machine: Machine) -> str:
    """The layout of a config that would do: fewer GPUs share each layer, the others take other layers."""
    for split in range(machine.gpus - 1, 0, -1):
        if machine.gpus % split == 0 and not engines.indivisible(model, split):
            return (
                f", or an inference.config with tensor-parallel-size: {split} and "
                f"pipeline-parallel-size: {machine.gpus // split}"
            )
    return ""


def config_is_a_name(context: Context) -> Iterator[Fault]:
    """V1: the name of the ConfigMap; its content is checked where it is read."""
    inference = context.ws.inference
    if inference and inference.config:
        yield from secret_name_fault("inference.config", inference.config, "V1")


def adapters_are_few_and_named_once(context: Context) -> Iterator[Fault]:
    """I10, I11."""
    adapters = (context.ws.inference and context.ws.inference.adapters) or []
    if len(adapters) > ADAPTERS_MAX:
        yield Fault(
            "inference.adapters", len(adapters), "I10", f"at most {ADAPTERS_MAX} adapters can be served"
        )
    seen: set[str] = set()
    for index, adapter in enumerate(adapters):
        name = adapter.source.name if adapter.source else None
        if name and name in seen:
            yield Fault(f"inference.adapters[{index}].source.name", name, "I11", "is used by two adapters")
        seen.add(name or "")


def adapters_are_usable(context: Context) -> Iterator[Fault]:
    """A1 to A6, I7."""
    adapters = (context.ws.inference and context.ws.inference.adapters) or []
    for index, adapter in enumerate(adapters):
        yield from _adapter_faults(context, f"inference.adapters[{index}]", adapter)


def _adapter_faults(context: Context, path: str, adapter: AdapterSpec) -> Iterator[Fault]:
    source = adapter.source
    if source is None:
        yield Fault(f"{path}.source", None, "A1", "is required", "give it an image or a volumeSource")
    else:
        if not is_object_name(source.name):
            hint = "use at most 253 lower-case letters, digits, '-' and '.'"
            yield Fault(f"{path}.source.name", source.name, "A3", "a valid name is required", hint)
        if source.urls:
            yield Fault(f"{path}.source.urls", None, "A5", "adapters cannot come from URLs", "use an image")
        elif not source.image and source.volume_source is None:
            yield Fault(f"{path}.source", None, "A4", "needs an image or a volumeSource, and has neither")
        else:
            yield from source_faults(context, f"{path}.source", source)
    if adapter.strength is not None:
        yield from _strength_faults(context, f"{path}.strength", adapter.strength)


def _strength_faults(context: Context, path: str, strength: str) -> Iterator[Fault]:
    try:
        value = float(strength)
    except ValueError:
        yield Fault(path, strength, "A6", "must be a number as text", 'for example "0.5"')
        return
    if not 0 <= value <= 1:
        yield Fault(path, strength, "A6", "must be between 0 and 1")
    elif context.runtime == "vllm" and value != 1:  # 1.0, as in KAITO's own example, is what vLLM does
        hint = 'remove it, or set the annotation kaito.sh/runtime: "transformers"'
        yield Fault(path, strength, "I7", "the default runtime serves adapters at full strength only", hint)


RULES: tuple[Rule, ...] = (
    preset_or_template,
    template_is_a_pod,
    template_is_safe,
    preset_is_known,
    runtime_loads_the_model,
    what_embeds_is_served_whole,
    heads_can_be_shared,
    config_is_a_name,
    adapters_are_few_and_named_once,
    adapters_are_usable,
)
