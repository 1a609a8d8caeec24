"""What is wrong with an evaluation before anything runs: its golden set, its judge, and the gate over its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from include.contracts.evaluation import Matcher, produced_metrics
from include.contracts.evaluation_policy import EvaluationPolicy
from include.contracts.faults import Fault
from include.contracts.golden_set import KEY, RULE, GoldenSet, GoldenSetInvalid, read
from include.retraining.gate import parse_rules


def faults(
    policy: EvaluationPolicy | None, gate: Sequence[object], golden: str | bytes | None, path: str = ""
) -> list[Fault]:
    """Everything that is wrong with a policy's evaluation and gate.

    :param policy: what is measured; None: nothing, and the gate has to be empty.
    :param gate: the expressions; none for the default.
    :param golden: the golden set's text; None where its ConfigMap or the key is not there.
    :param path: of the policy, for the faults.
    """
    at = f"{path}." if path else ""
    if policy is None:
        hint = "give the policy an evaluation, or leave the gate out"
        return [Fault(f"{at}gate", None, "E1", "has nothing to look at", hint)] if gate else []
    found, known = _golden_faults(policy, golden, f"{at}evaluation")
    if found and known is None:
        return found  # what would be measured is not known
    matchers = known.matchers if known else frozenset()
    produced = produced_metrics(matchers, policy.held_out > 0, policy.lm_eval is not None)
    return [*found, *parse_rules(list(gate) or None, produced, f"{at}gate")[1]]


def _golden_faults(
    policy: EvaluationPolicy, golden: str | bytes | None, path: str
) -> tuple[list[Fault], GoldenSet | None]:
    if policy.golden_set is None:
        return [], None
    if golden is None:
        hint = f"make a ConfigMap of that name with the key {KEY}"
        return [Fault(f"{path}.goldenSet", str(policy.golden_set), RULE, "does not exist", hint)], None
    try:
        known = read(golden)
    except GoldenSetInvalid as error:
        return list(error.faults), None
    asked = next((row.id for row in known.rows if row.matcher is Matcher.JUDGE), None)
    if asked is not None and policy.judge is None:
        hint = "give its url and model, or take another matcher"
        return [
            Fault(f"{path}.judge", None, RULE, f"is missing, and row {asked} of the golden set asks it", hint)
        ], known
    return [], known
