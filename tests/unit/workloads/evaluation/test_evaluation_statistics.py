"""Intervals cover what they should, differences are paired, and the seed decides everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.contracts.evaluation import Metric, Subject
from include.workloads.evaluation import statistics
from include.workloads.evaluation.statistics import Samples


def samples(**values: list[float]) -> Samples:
    found = Samples()
    for subject, numbers in values.items():
        found.add(Metric.GOLDEN, Subject(subject), statistics.mean(numbers), len(numbers))
    return found


def test_the_interval_of_a_share_is_that_of_the_normal_approximation() -> None:
    values, _ = samples(candidate=[1.0] * 150 + [0.0] * 50).measures(seed=1)
    interval = values[Subject.CANDIDATE][Metric.GOLDEN]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 200)
    assert interval.value == 0.75
    assert interval.low == pytest.approx(0.75 - half, abs=0.012)
    assert interval.high == pytest.approx(0.75 + half, abs=0.012)
    assert interval.n == 200


def test_a_paired_difference_is_narrower_than_the_values_say() -> None:
    chance = np.random.default_rng(0)
    hard = chance.normal(0, 1, 300)
    found = samples(candidate=list(hard + 0.05), current=list(hard))
    values, differences = found.measures(seed=1)
    gap = differences[Subject.CURRENT][Metric.GOLDEN]
    assert gap.value == pytest.approx(0.05)
    assert gap.low > 0, "the same rows are harder for both: the difference is no noise"
    one, other = (values[subject][Metric.GOLDEN] for subject in (Subject.CANDIDATE, Subject.CURRENT))
    assert one.low < other.high


def test_the_seed_decides() -> None:
    numbers = [float(number % 7) for number in range(50)]
    assert samples(candidate=numbers).measures(3) == samples(candidate=numbers).measures(3)
    assert samples(candidate=numbers).measures(3) != samples(candidate=numbers).measures(4)


def test_perplexity_weighs_by_tokens_and_stays_a_number() -> None:
    every = np.arange(2)[None, :]
    assert statistics.perplexity([10.0, 0.0], [5.0, 15.0])(every)[0] == pytest.approx(math.exp(0.5))
    assert math.isfinite(statistics.perplexity([1e9, 1e9], [1.0, 1.0])(every)[0])


def test_many_rows_are_resampled_in_parts_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [float(number % 3) for number in range(100)]
    whole = samples(candidate=numbers).measures(5)
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    parts = samples(candidate=numbers).measures(5)
    interval = parts[0][Subject.CANDIDATE][Metric.GOLDEN]
    assert interval.value == whole[0][Subject.CANDIDATE][Metric.GOLDEN].value
    assert interval.low < interval.value < interval.high


def test_without_rows_there_is_no_metric() -> None:
    assert samples(candidate=[]).measures(0) == ({}, {})


numbers = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(numbers)
def test_the_value_lies_in_its_interval(values: list[float]) -> None:
    found, differences = samples(candidate=values, base=values).measures(0, samples=50)
    for subject in (Subject.BASE, Subject.CANDIDATE):
        interval = found[subject][Metric.GOLDEN]
        assert min(values) - 1e-9 <= interval.low <= interval.value <= interval.high <= max(values) + 1e-9
    same = differences[Subject.BASE][Metric.GOLDEN]
    assert (same.low, same.value, same.high) == (0, 0, 0), "equal answers are no difference, with no noise"
