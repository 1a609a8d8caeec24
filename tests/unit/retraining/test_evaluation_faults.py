"""What could not be evaluated or judged is refused before anything runs, all of it at once."""

from __future__ import annotations

import pytest

from include.contracts.evaluation_policy import EvaluationPolicy, JudgePolicy
from include.retraining.evaluation import faults

EXACT = "- {prompt: a, expected: b}"
ASKS_A_JUDGE = "- {id: tone, prompt: a, expected: b, matcher: judge}"
JUDGE = JudgePolicy(url="https://judge.example/v1", model="m")


@pytest.mark.parametrize(
    ("policy", "gate", "golden", "says"),
    [
        (EvaluationPolicy(), [], None, []),
        (EvaluationPolicy(golden_set="g"), ["golden.all"], EXACT, []),
        (EvaluationPolicy(golden_set="g", judge=JUDGE), ["candidate.judge > 0.5"], ASKS_A_JUDGE, []),
        (None, [], None, []),
        (None, ["golden.all"], None, ["nothing to look at"]),
        (EvaluationPolicy(held_out=0), [], None, ["nothing would be measured"]),
        (EvaluationPolicy(golden_set="g"), [], None, ["does not exist"]),
        (
            EvaluationPolicy(golden_set="g"),
            [],
            "- {prompt: a}\n- {expected: b}",
            ["missing", "neither or both"],
        ),
        (EvaluationPolicy(golden_set="g"), ["x > 1"], ASKS_A_JUDGE, ["row tone", "knows no x"]),
        (
            EvaluationPolicy(golden_set="g", held_out=0),
            ["candidate.perplexity < 9"],
            EXACT,
            ["hold out rows"],
        ),
        (
            EvaluationPolicy(),
            ["golden.all", "worse('exact_match')"],
            None,
            ["there is none", "does not measure"],
        ),
    ],
)
def test_faults(
    policy: EvaluationPolicy | None, gate: list[str], golden: str | None, says: list[str]
) -> None:
    found = list(map(str, faults(policy, gate, golden, "policy")))
    assert len(found) == len(says), found
    for fault, part in zip(found, says, strict=True):
        assert part in fault
