"""Rules about tuning (kaito-api.md#rules, U), and whether the preset can be tuned at all, which KAITO never asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from include.catalog.tunability import why_not
from include.contracts.dataset_urls import STORES, StoredObject, parse_url
from include.contracts.methods import METHODS, OBJECTIVES
from include.contracts.network_policy import Refused
from include.workspace.api import names
from include.workspace.validation.faults import Fault, did_you_mean
from include.workspace.validation.rules.context import Context, Rule, secret_name_fault
from include.workspace.validation.rules.inference import preset_faults
from include.workspace.validation.rules.sources import destination_faults, source_faults


def method_is_known(context: Context) -> Iterator[Fault]:
    """U1, in any letter case."""
    tuning = context.ws.tuning
    if tuning is None:
        return
    if not tuning.method:
        yield Fault("tuning.method", None, "U1", "is required", f"use {' or '.join(METHODS)}")
    elif context.ws.method not in METHODS:
        hint = f"use {' or '.join(METHODS)}"
        close = did_you_mean(tuning.method, METHODS)
        hint = close if close.startswith("did") else hint
        yield Fault("tuning.method", tuning.method, "U1", "is not a tuning method", hint)


def objective_is_known(context: Context) -> Iterator[Fault]:
    """F51."""
    given = context.ws.annotations.get(names.TUNING_OBJECTIVE)
    if given is None:
        return
    path = f"metadata.annotations[{names.TUNING_OBJECTIVE}]"
    if context.ws.tuning is None:
        yield Fault(path, given, "F51", "has no tuning to apply to", "remove it, or set tuning")
    elif context.ws.objective not in OBJECTIVES:
        close = did_you_mean(context.ws.objective, OBJECTIVES)
        hint = close if close.startswith("did") else f"use one of {', '.join(OBJECTIVES)}"
        yield Fault(path, given, "F51", "is not an objective of a tuning", hint)


def preset_can_be_tuned(context: Context) -> Iterator[Fault]:
    """U11, U12 and F10: KAITO admits any preset and then crashes on most (kaito-api.md#tuning)."""
    tuning, model = context.ws.tuning, context.model
    if tuning is None:
        return
    if tuning.preset is None:
        yield Fault("tuning.preset", None, "U11", "is required", "name the preset to tune")
        return
    yield from preset_faults(context, "tuning.preset", tuning.preset, "U12")
    if model is not None and not model.tuning.supported:
        tunable = sorted(m.name for m in context.catalog.models if m.tuning.supported and not m.deprecated)
        hint = f"tunable presets: {', '.join(tunable)}"
        message = f"cannot be tuned here: {why_not(model)}"
        yield Fault("tuning.preset.name", tuning.preset.name, "F10", message, hint)


def config_is_a_name(context: Context) -> Iterator[Fault]:
    """U3: the name of the ConfigMap; its content is checked where it is read (training_config.py)."""
    tuning = context.ws.tuning
    if tuning and tuning.config:
        yield from secret_name_fault("tuning.config", tuning.config, "U3")


def input_is_usable(context: Context) -> Iterator[Fault]:
    """U5, U6, U7."""
    if context.ws.tuning:
        yield from source_faults(context, "tuning.input", context.ws.tuning.input)


def output_is_usable(context: Context) -> Iterator[Fault]:
    """U8, U9, U10."""
    if context.ws.tuning:
        yield from destination_faults(context, "tuning.output", context.ws.tuning.output)


def dataset_secret_has_one_reader(context: Context) -> Iterator[Fault]:
    """F49: a credential goes to the one host that it is for, and never in the clear."""
    given = context.ws.annotations.get(names.DATASET_CREDENTIALS)
    if given is None:
        return
    from include.contracts.dataset_keys import misuse

    path = f"metadata.annotations[{names.DATASET_CREDENTIALS}]"
    yield from secret_name_fault(path, given, "F49")
    urls = _urls(context)
    if not urls:
        hint = "its keys open what tuning.input.urls names"
        yield Fault(path, given, "F49", "is for a dataset that comes from URLs", hint)
    elif told := misuse(urls):
        yield Fault(path, given, "F49", *told)


def dataset_identity_is_allowed(context: Context) -> Iterator[Fault]:
    """F50: an identity reads what its ServiceAccount may read, which is more than who writes a Workspace may."""
    given = context.ws.annotations.get(names.DATASET_IDENTITY)
    if given is None:
        return
    path, allowed = f"metadata.annotations[{names.DATASET_IDENTITY}]", context.policy.dataset_identities
    if given not in allowed:
        others = "others need the setting [kaito] dataset_identities"
        hint = f"use {' or '.join(allowed)}; {others}" if allowed else others
        yield Fault(path, given, "F50", "is not a ServiceAccount that datasets may be read as", hint)
    elif names.DATASET_CREDENTIALS in context.ws.annotations:
        hint = f"leave out one of them: {names.DATASET_CREDENTIALS} holds keys instead of an identity"
        yield Fault(path, given, "F50", f"goes together with {names.DATASET_CREDENTIALS}", hint)
    else:
        wrong = [url for url in _urls(context) if not _of_a_cloud(url)]
        if wrong or not _urls(context):
            message = f"is for {', '.join(f'{one}://' for one in STORES)} of their clouds alone"
            yield Fault(path, given, "F50", message, "leave it out, or name objects without endpoint")


def _of_a_cloud(url: str) -> bool:
    try:
        found = parse_url(url)
    except Refused:
        return True  # U7 says so
    return isinstance(found, StoredObject) and not found.own_endpoint


def _urls(context: Context) -> Sequence[str]:
    return (context.ws.tuning.input.urls if context.ws.tuning else None) or ()


def tracking_is_a_secret(context: Context) -> Iterator[Fault]:
    """F52: what it holds is checked where it can be read."""
    given = context.ws.annotations.get(names.TRACKING)
    if given is None:
        return
    path = f"metadata.annotations[{names.TRACKING}]"
    yield from secret_name_fault(path, given, "F52")
    if context.ws.tuning is None:
        yield Fault(path, given, "F52", "has no tuning to apply to", "remove it, or set tuning")


def signing_is_a_secret(context: Context) -> Iterator[Fault]:
    """F61: an adapter that could not be served without a signature gets one."""
    given = context.ws.annotations.get(names.SIGNING)
    path, tuning = f"metadata.annotations[{names.SIGNING}]", context.ws.tuning
    if given is not None:
        yield from secret_name_fault(path, given, "F61")
        if tuning is None or not tuning.output.image:
            hint = "remove it, or set tuning.output.image"
            yield Fault(path, given, "F61", "has no pushed adapter to apply to", hint)
    elif tuning is not None and tuning.output.image and context.policy.signed_adapters:
        message = (
            "is missing, and this installation serves signed adapters only ([kaito] adapter_public_keys)"
        )
        hint = "name a Secret with cosign.key, as `cosign generate-key-pair k8s://NAMESPACE/NAME` makes it"
        yield Fault(path, None, "F61", message, hint)


RULES: tuple[Rule, ...] = (
    method_is_known,
    objective_is_known,
    preset_can_be_tuned,
    config_is_a_name,
    input_is_usable,
    output_is_usable,
    dataset_secret_has_one_reader,
    dataset_identity_is_allowed,
    tracking_is_a_secret,
    signing_is_a_secret,
)
