"""Rules about tuning (kaito-api.md#rules, U), and whether the preset can be tuned at all, which KAITO never asks."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from include.catalog.tunability import why_not
from include.contracts.methods import METHODS, OBJECTIVES
from include.workspace.api import access, names
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


def _parts(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None  # U5 says so


def dataset_secret_has_one_reader(context: Context) -> Iterator[Fault]:
    """F49: a credential goes to the one host that it is for, and never in the clear."""
    given = context.ws.annotations.get(names.DATASET_CREDENTIALS)
    if given is None:
        return
    path = f"metadata.annotations[{names.DATASET_CREDENTIALS}]"
    yield from secret_name_fault(path, given, "F49")
    given_urls = (context.ws.tuning.input.urls if context.ws.tuning else None) or ()
    urls = [parts for url in given_urls if (parts := _parts(url))]
    hosts = sorted({url.netloc.rpartition("@")[2].lower() for url in urls})
    if not urls:
        hint = f"the value of its key {access.AUTHORIZATION} is sent to the host of tuning.input.urls"
        yield Fault(path, given, "F49", "is for a dataset that comes from URLs", hint)
    elif len(hosts) > 1:
        message = f"would be sent to {len(hosts)} hosts ({', '.join(hosts[:3])})"
        yield Fault(path, given, "F49", message, "take all files from one host, or use signed links")
    elif any(url.scheme != "https" for url in urls):
        yield Fault(path, given, "F49", "would be sent in the clear", "use https URLs")


RULES: tuple[Rule, ...] = (
    method_is_known,
    objective_is_known,
    preset_can_be_tuned,
    config_is_a_name,
    input_is_usable,
    output_is_usable,
    dataset_secret_has_one_reader,
)
