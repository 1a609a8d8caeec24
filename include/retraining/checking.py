"""Everything that is wrong with a policy's text: its keys and values, and the rules of its gate.

The command line, the preflight and a retraining's first step all ask here.
"""

from __future__ import annotations

from include.contracts.evaluation import METRICS
from include.contracts.faults import Fault
from include.retraining.gate import parse_rules
from include.retraining.policy import PolicyInvalid, read


def policy_faults(text: str) -> list[Fault]:
    """Every fault of a policy, with its path in the text."""
    try:
        found = read(text)
    except PolicyInvalid as error:
        return error.faults
    return parse_rules(list(found.gate), frozenset(map(str, METRICS)))[1] if found.gate else []
