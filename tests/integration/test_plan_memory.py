"""The plan's memory terms against the project's own trainer on small random models (tests/bench has more cases)."""

from __future__ import annotations

import pytest

from tests.bench.plan_memory import estimate, measured_apart
from tests.bench.small_models import CASES

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.slow, pytest.mark.timeout(600)]

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize(
    "name", ["llama-qlora", "phi3-qlora-checkpointing", "phi3-qlora-dpo", "llama-qlora-kto"]
)
def test_each_term_is_what_the_trainer_takes(name: str) -> None:
    case = BY_NAME[name]
    measured = measured_apart(case)
    for term, planned in estimate(case, measured["weights file"]).items():
        assert 0.9 <= planned / measured[term] <= 1.3, term
