"""Every rule that a Workspace must keep beyond its schema, each a small function that yields faults.

KAITO stops at the first fault in places, checks others on update only, and forgets some (kaito-api.md#validation); here
all rules run on every request and all faults come back at once. A rule must never do I/O and never raise: what it
cannot judge it leaves to the rule that can. Facts about a cluster (secrets, ConfigMaps) are checked by the
preflight task.

A rule whose annotation or field few Workspaces have imports what judges it when it meets one: `check` is started for
one file at a time, and importing is most of what it costs (tests/unit/workspace/test_check_start.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from include.catalog import Catalog
from include.workspace.api.models import Workspace
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules import (
    alternatives,
    byo,
    inference,
    model_source,
    resource,
    retraining,
    tuning,
    whole,
)
from include.workspace.validation.rules.admitted import admission_faults
from include.workspace.validation.rules.byo import byo_faults
from include.workspace.validation.rules.context import Context, Policy, Rule

RULES: tuple[Rule, ...] = (
    *whole.RULES,
    *resource.RULES,
    *alternatives.RULES,
    *byo.RULES,
    *inference.RULES,
    *model_source.RULES,
    *tuning.RULES,
    *retraining.RULES,
)


def validate(
    ws: Workspace, catalog: Catalog, allowed_networks: Sequence[str] = (), *, policy: Policy | None = None
) -> list[Fault]:
    """Every fault of a Workspace, in the order of the document; an empty list when it may run.

    `allowed_networks` are CIDRs whose addresses dataset URLs may name although they are private; `policy` holds them
    and the cluster's other settings, and wins over `allowed_networks`.
    """
    settings = (policy or Policy(allowed_networks=tuple(allowed_networks))).of(ws)
    context = Context(ws, catalog, settings)
    found = [fault for rule in RULES for fault in rule(context)]
    return found + admission_faults(ws, {fault.path for fault in found})


def update_faults(
    old: Workspace, new: Workspace, catalog: Catalog, policy: Policy | None = None
) -> list[Fault]:
    """Every fault of `new` as the next state of `old`: what may not be changed, then all that create checks too.

    `old` is the Workspace as it was last accepted (its annotations count for X15 and X16). KAITO re-checks little on
    update; here nothing that create refuses can be edited in.
    """
    from include.workspace.validation.rules.update import still_allowed, transition_faults

    settings = (policy or Policy()).of(new)
    found = transition_faults(old, new, settings)
    told = {fault.path for fault in found}
    return found + [
        fault
        for fault in validate(new, catalog, policy=settings)
        if fault.path not in told and not still_allowed(fault, old, new)
    ]


__all__ = ["RULES", "Policy", "byo_faults", "update_faults", "validate"]
