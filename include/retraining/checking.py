"""Everything that is wrong with a policy's text: its keys and values, and the rules of its gate.

The command line, the preflight and a retraining's first step all ask here.
"""

from __future__ import annotations

from collections.abc import Callable

from include.contracts import golden_set
from include.contracts.evaluation import METRICS
from include.contracts.faults import Fault
from include.retraining import evaluation
from include.retraining.gate import parse_rules
from include.retraining.policy import PolicyInvalid, read


def policy_faults(text: str, golden: Callable[[str], str | None] = lambda _: None) -> list[Fault]:
    """Every fault of a policy, with its path in the text.

    :param golden: the text of the golden set in a ConfigMap, by its name; None where that is not known here. What is
        wrong with that text itself is `golden_faults`'.
    """
    try:
        found = read(text)
    except PolicyInvalid as error:
        return error.faults
    source = found.evaluation.golden_set if found.evaluation else None
    known = golden(source.config_map) if source and source.config_map else None
    if known is not None and not golden_faults(known):
        return evaluation.faults(found.evaluation, found.gate, known)
    return parse_rules(list(found.gate), frozenset(map(str, METRICS)))[1] if found.gate else []


def golden_name(text: str) -> str | None:
    """The ConfigMap with the golden set that a policy names, None where there is none."""
    try:
        wanted = read(text).evaluation
    except PolicyInvalid:
        return None
    return wanted.golden_set.config_map if wanted and wanted.golden_set else None


def golden_faults(text: str) -> list[Fault]:
    """Every fault of a golden set's text."""
    try:
        golden_set.read(text)
    except golden_set.GoldenSetInvalid as error:
        return list(error.faults)
    return []
