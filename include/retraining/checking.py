"""Everything that is wrong with a policy's text: its keys and values, and the rules of its gate.

The command line, the preflight and a retraining's first step all ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from include.contracts import golden_set
from include.contracts.evaluation import METRICS
from include.contracts.faults import Fault
from include.contracts.yaml_documents.reader import BadDocument, load_one
from include.retraining import evaluation
from include.retraining import policy as policies
from include.retraining.gate import parse_rules
from include.retraining.policy import PolicyInvalid

Golden = Callable[[str], str | None]


def policy_faults(text: str, golden: Golden = lambda _: None) -> list[Fault]:
    """Every fault of a policy, with its path in the text; the parameters are those of `faults`."""
    try:
        return faults(policies.document(text), golden=golden)
    except PolicyInvalid as error:
        return error.faults


def faults(value: object, path: str = "", golden: Golden = lambda _: None) -> list[Fault]:
    """Every fault of a policy that is a mapping: where its keys have some, those of its gate are named with them.

    :param path: where the policy stands, for the faults.
    :param golden: the text of the golden set in a ConfigMap, by its name; None where that is not known here. What is
        wrong with that text itself is `golden_faults`'.
    """
    policy, found = policies.examine(value, path)
    at = f"{path}." if path else ""
    if policy is None:
        return [*found, *_gate_faults(value, f"{at}gate")]
    wanted, gate = policy.evaluation, list(policy.gate)
    source = wanted.golden_set if wanted else None
    known = golden(source.config_map) if source and source.config_map else None
    if wanted is not None and (source is None or (known is not None and not golden_faults(known))):
        return evaluation.faults(wanted, gate, known, path)
    return parse_rules(gate, frozenset(map(str, METRICS)), f"{at}gate")[1] if gate else []


def _gate_faults(value: object, path: str) -> list[Fault]:
    """What is wrong with the rules themselves, whatever will be measured."""
    gate = value.get("gate") if isinstance(value, Mapping) else None
    readable = isinstance(gate, list) and gate and all(isinstance(one, str) for one in gate)
    return parse_rules(gate, frozenset(map(str, METRICS)), path)[1] if readable else []


def golden_name(text: str) -> str | None:
    """The ConfigMap with the golden set that a policy names, whatever else is wrong with it; None for none."""
    try:
        wanted = load_one(text)
    except BadDocument:
        return None
    for key in ("evaluation", "goldenSet"):
        wanted = wanted.get(key) if isinstance(wanted, Mapping) else None
    name = wanted.get("configMap") if isinstance(wanted, Mapping) else wanted
    return name if isinstance(name, str) else None


def golden_faults(text: str) -> list[Fault]:
    """Every fault of a golden set's text."""
    try:
        golden_set.read(text)
    except golden_set.GoldenSetInvalid as error:
        return list(error.faults)
    return []
