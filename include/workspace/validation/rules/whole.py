"""Rules about the Workspace as a whole: its name, its two halves, its annotations (kaito-api.md#rules, G and C)."""

from __future__ import annotations

from collections.abc import Iterator

from include.workspace.api import access, names
from include.workspace.api.annotations import ALLOWED, as_budget, idle_seconds
from include.workspace.validation.faults import Fault
from include.workspace.validation.identity import DNS_LABEL, name_faults, namespace_faults
from include.workspace.validation.rules.context import Context, Rule, secret_name_fault

# A StatefulSet's pods carry its name plus 11 characters of revision hash in a label of at most 63.
SERVED_NAME_MAX = 52
IMAGE_FAMILIES = ("ubuntu", "azurelinux")
STREAMING_DRIVERS = {"azure": "blob.csi.azure.com"}
PERFORMANCE_MODES = ("balanced", "interactivity", "throughput")


def name_is_a_label(context: Context) -> Iterator[Fault]:
    """G1."""
    yield from name_faults(context.ws.metadata.name)


def namespace_is_ours_to_work_in(context: Context) -> Iterator[Fault]:
    """G2, F31."""
    yield from namespace_faults(context.ws.namespace, context.policy.allowed_namespaces)


def name_can_be_served(context: Context) -> Iterator[Fault]:
    """F1: a Service name must start with a letter and a StatefulSet's pods must fit their labels."""
    name, ws = context.ws.name, context.ws
    if not DNS_LABEL.fullmatch(name) or (ws.is_tuning and not ws.rollout):
        return
    if len(name) > SERVED_NAME_MAX:
        hint = f"use at most {SERVED_NAME_MAX} characters"
        yield Fault("metadata.name", name, "F1", "is too long for the StatefulSet that gets this name", hint)
    if not name[0].isalpha():
        yield Fault("metadata.name", name, "F1", "a Service gets this name, so it must start with a letter")


def exactly_one_half(context: Context) -> Iterator[Fault]:
    """C1, C2."""
    ws = context.ws
    if ws.inference is None and ws.tuning is None:
        yield Fault(
            "", None, "C1", "a Workspace needs inference or tuning, and has neither", "add one of them"
        )
    if ws.inference is not None and ws.tuning is not None:
        hint = "keep one; a tuned model is served by itself when kaito.sh/rollout is not 'false'"
        yield Fault("", None, "C2", "a Workspace has inference or tuning, not both", hint)


def machine_is_named(context: Context) -> Iterator[Fault]:
    """C3, C4."""
    given = context.ws.resource.instance_type if context.ws.resource else None
    if context.policy.byo:
        if given:
            hint = "remove it: nodes are chosen by labelSelector"
            yield Fault(
                "resource.instanceType",
                given,
                "C3",
                "must be empty where nodes are BYO (bring your own)",
                hint,
            )
    elif not context.ws.instance_type:
        hint = "name a GPU machine type, such as Standard_NC24ads_A100_v4"
        yield Fault("resource.instanceType", None, "C4", "is required", hint)


def annotations_are_known_values(context: Context) -> Iterator[Fault]:
    """C5, C6, C7, C8 and our own rollout switch."""
    notes = context.ws.annotations
    allowed: list[tuple[str, str, tuple[str, ...]]] = [
        (names.NODE_IMAGE_FAMILY, "C5", IMAGE_FAMILIES),
        (names.PERFORMANCE_MODE, "C6", PERFORMANCE_MODES),
        (names.USE_LOCAL_WEIGHTS, "C7", ("true", "false")),
        (names.ROLLOUT, "F2", ("true", "false")),
        (names.POOL_PROVIDER, "F14", context.policy.pool_providers),
    ]
    if context.policy.node_classes is not None and notes.get(names.NODE_CLASS_NAME):
        allowed.append((names.NODE_CLASS_NAME, "C8", context.policy.node_classes))
    elif notes.get(names.NODE_CLASS_NAME):
        path = f"metadata.annotations[{names.NODE_CLASS_NAME}]"
        yield from secret_name_fault(path, notes[names.NODE_CLASS_NAME], "C8")
    for key, rule, values in allowed:
        given = notes.get(key)
        compared = given.strip().lower() if given is not None and rule == "C5" else given
        if compared is not None and compared not in values:
            hint = f"use one of {', '.join(values)}"
            yield Fault(f"metadata.annotations[{key}]", given, rule, "is not a value it can have", hint)


def public_service_has_a_key(context: Context) -> Iterator[Fault]:
    """F41: the key of a service is a Secret's, and a service with an address outside the cluster has one."""
    given = context.ws.annotations.get(names.API_KEY)
    if given is None:
        return
    path = f"metadata.annotations[{names.API_KEY}]"
    if given.strip() == access.NONE:
        if access.is_public(context.ws):
            hint = f"remove it, or name a Secret with the key {access.KEY}; or take {names.ENABLE_LOAD_BALANCER} away"
            message = f"would leave a service without a key that {names.ENABLE_LOAD_BALANCER} makes public"
            yield Fault(path, given, "F41", message, hint)
    else:
        yield from secret_name_fault(path, given.strip(), "F41")


def provider_has_the_machine(context: Context) -> Iterator[Fault]:
    """F14: AKS, for one, has Azure's machines only."""
    machine, given = context.machine, context.ws.annotations.get(names.POOL_PROVIDER)
    clouds = names.PROVIDER_CLOUDS.get(str(given))
    if clouds and machine is not None and machine.cloud not in clouds:
        message = f"cannot make a {machine.name}, which is a machine of {machine.cloud}"
        hint = f"name a machine type of {', '.join(clouds)}, or another provider"
        yield Fault(f"metadata.annotations[{names.POOL_PROVIDER}]", given, "F14", message, hint)


def idle_time_is_minutes(context: Context) -> Iterator[Fault]:
    """F17: only a service can be idle."""
    ws = context.ws
    path, given = f"metadata.annotations[{names.SCALE_TO_ZERO}]", ws.annotations.get(names.SCALE_TO_ZERO)
    try:
        wanted = idle_seconds(ws.annotations)
    except ValueError:
        yield Fault(path, given, "F17", "is not a number of minutes above 0", ALLOWED)
        return
    if wanted is not None and ws.is_tuning and not ws.rollout:
        hint = f"remove it, or set {names.ROLLOUT} to 'true'"
        yield Fault(path, given, "F17", "has nothing to scale: this Workspace rolls out no service", hint)


def budget_is_money(context: Context) -> Iterator[Fault]:
    """F18."""
    given = context.ws.annotations.get(names.BUDGET)
    if given is not None and as_budget(given) is None:
        hint = 'write US dollars above 0 as text, such as "25" or "25.50"'
        yield Fault(f"metadata.annotations[{names.BUDGET}]", given, "F18", "is not an amount of money", hint)


def budget_can_be_kept(context: Context) -> Iterator[Fault]:
    """F19: a machine without a price would use up no budget."""
    given = context.ws.annotations.get(names.BUDGET)
    if given is None:
        return
    path = f"metadata.annotations[{names.BUDGET}]"
    if context.machine is not None and context.machine.usd_per_hour is None and not context.policy.byo:
        name = context.machine.name
        message = f"a budget cannot be kept, since no price of {name} is known"
        hint = f"give {name} a usd_per_hour in a file of machines below the folder that KAITO_PRESETS names"
        yield Fault(path, given, "F19", message, hint)


def streaming_is_possible(context: Context) -> Iterator[Fault]:
    """C9: weights that are streamed need a storage driver, which only some clouds have."""
    policy, streaming = context.policy, context.ws.annotations.get(names.MODEL_STREAMING)
    inference = context.ws.inference
    if not policy.model_streaming or streaming == "disabled" or context.runtime != "vllm":
        return
    if inference is None or inference.preset is None:
        return
    path = f"metadata.annotations[{names.MODEL_STREAMING}]"
    hint = f"set the annotation {names.MODEL_STREAMING}: disabled"
    driver = STREAMING_DRIVERS.get(policy.cloud)
    if driver is None:
        yield Fault(path, streaming, "C9", f"weights cannot be streamed in the cloud {policy.cloud}", hint)
    elif policy.csi_drivers is not None and driver not in policy.csi_drivers:
        yield Fault(path, streaming, "C9", f"the CSI driver {driver} is not installed", hint)


RULES: tuple[Rule, ...] = (
    name_is_a_label,
    namespace_is_ours_to_work_in,
    name_can_be_served,
    exactly_one_half,
    machine_is_named,
    annotations_are_known_values,
    public_service_has_a_key,
    provider_has_the_machine,
    idle_time_is_minutes,
    budget_is_money,
    budget_can_be_kept,
    streaming_is_possible,
)
