"""Rules about the machines that a Workspace falls back to: the annotations instance-types and capacity-type.

Each alternative has to keep the rules that the first machine keeps, so those are asked again with it in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from include.catalog import Machine
from include.workspace.api import names
from include.workspace.api.offers import (
    CAPACITY_TYPES,
    MOST_CHARACTERS,
    MOST_MACHINES,
    Offer,
    capacity_types,
    entries,
    entry,
)
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules.context import Context, Rule
from include.workspace.validation.rules.resource import machine_is_known, serving_fits, tuning_fits
from include.workspace.validation.rules.whole import budget_can_be_kept

PATH = f"metadata.annotations[{names.INSTANCE_TYPES}]"
TERMS_PATH = f"metadata.annotations[{names.CAPACITY_TYPE}]"
AZURE_ZONES = ("1", "2", "3")
_ZONE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ITS_OWN = (machine_is_known, tuning_fits, serving_fits, budget_can_be_kept)


def alternatives_are_machines(context: Context) -> Iterator[Fault]:
    """F15, and for each entry what is asked of resource.instanceType: R13, F8, F9, F19, R15, R16."""
    given = context.ws.annotations.get(names.INSTANCE_TYPES)
    if given is None:
        return
    if context.policy.byo:
        yield _without_effect(PATH, given, "F15", "remove it: nodes are chosen by labelSelector")
        return
    if len(given) > MOST_CHARACTERS:
        hint = f"name at most {MOST_MACHINES} machine types"
        yield Fault(PATH, given, "F15", f"is longer than {MOST_CHARACTERS} characters", hint)
        return
    written = entries(context.ws)
    if not written:
        yield Fault(PATH, given, "F15", "names no machine type", "remove it, or write TYPE or TYPE@ZONE")
    elif len(written) > MOST_MACHINES:
        yield Fault(PATH, None, "F15", f"names {len(written)} machine types; {MOST_MACHINES} is the most")
    own = Offer(_canonical(context, context.ws.instance_type))
    seen = {own: "is resource.instanceType, which comes first anyway"}
    for text in written[:MOST_MACHINES]:
        one = entry(text)
        if not one.instance_type:
            hint = "write TYPE or TYPE@ZONE, separated by commas"
            yield Fault(PATH, text, "F15", "has an entry without a machine type", hint)
            continue
        yield from _of_the_machine(context, one)
        yield from _place_faults(context, text, one)
        plain = Offer(_canonical(context, one.instance_type), one.zone)
        if plain in seen:
            yield Fault(PATH, text, "F15", seen[plain], "name each once")
        seen.setdefault(plain, "is named twice")


def _of_the_machine(context: Context, one: Offer) -> Iterator[Fault]:
    """What the rules about resource.instanceType say of this machine type."""
    resource = context.ws.resource
    if resource is None:
        return
    own = resource.model_copy(update={"instance_type": one.instance_type})
    other = Context(context.ws.model_copy(update={"resource": own}), context.catalog, context.policy)
    for rule in _ITS_OWN:
        for fault in rule(other):
            yield replace(fault, path=PATH, value=one.instance_type)


def _place_faults(context: Context, text: str, one: Offer) -> Iterator[Fault]:
    """F15: zones, and one cloud for all."""
    azure = one.instance_type.startswith("Standard_")
    if "@" in text and azure and one.zone not in AZURE_ZONES:
        hint = f"write one of {', '.join(AZURE_ZONES)} behind the @"
        yield Fault(PATH, text, "F15", "names no availability zone of Azure", hint)
    elif "@" in text and not azure and not _ZONE.fullmatch(one.zone):
        hint = "write the zone's name behind the @, such as us-east-1a"
        yield Fault(PATH, text, "F15", "names no availability zone", hint)
    known = _known(context, one.instance_type)
    if known and context.machine is not None and known.cloud != context.machine.cloud:
        message = (
            f"is a machine of {known.cloud}, but resource.instanceType is one of {context.machine.cloud}"
        )
        yield Fault(PATH, text, "F15", message, "name machine types of one cloud")


def _without_effect(path: str, given: str, rule: str, hint: str) -> Fault:
    return Fault(path, given, rule, "has no effect where nodes are BYO (bring your own)", hint)


def _known(context: Context, name: str) -> Machine | None:
    return context.catalog.machine(name) if name.lower() in context.known.machines_lower else None


def _canonical(context: Context, name: str) -> str:
    known = _known(context, name)
    return known.name if known else name


def terms_are_known(context: Context) -> Iterator[Fault]:
    """F16."""
    given = context.ws.annotations.get(names.CAPACITY_TYPE)
    if given is None:
        return
    if context.policy.byo:
        yield _without_effect(TERMS_PATH, given, "F16", "remove it")
        return
    terms = capacity_types(context.ws)
    if not terms or len(set(terms)) < len(terms) or not set(terms) <= set(CAPACITY_TYPES):
        hint = "write spot, on-demand, or spot,on-demand to try spot machines first"
        yield Fault(TERMS_PATH, given, "F16", "is not a value it can have", hint)


RULES: tuple[Rule, ...] = (alternatives_are_machines, terms_are_known)
