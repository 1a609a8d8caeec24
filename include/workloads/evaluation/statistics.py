"""Bootstrap confidence intervals: the percentile method, with a seed, paired over the same rows.

A statistic is a function from resampled row numbers to one value for each resample. Two subjects that were measured on
the same rows are resampled alike, so that what makes a row hard is not taken for noise between them (Efron and
Tibshirani, An Introduction to the Bootstrap, chapters 13 and 16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from include.contracts.evaluation import CONFIDENCE, Interval, Measures, Metric, Subject

SAMPLES = 1000
#: Row numbers that are held at once, so that a big set of rows takes no gigabytes.
_CHUNK = 1 << 21

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]
Statistic = Callable[[Rows], Numbers]


def mean(values: list[float]) -> Statistic:
    """The mean of the rows' values."""
    array = np.asarray(values, dtype=np.float64)
    return lambda rows: array[rows].mean(axis=1)


def quantile(values: list[float], share: float) -> Statistic:
    """The quantile of the rows' values at `share` (0 to 1), interpolated."""
    array = np.asarray(values, dtype=np.float64)
    return lambda rows: np.quantile(array[rows], share, axis=1)


def ratio(above: list[float], below: list[float]) -> Statistic:
    """The sum of one value over the sum of another."""
    top, bottom = (np.asarray(part, dtype=np.float64) for part in (above, below))
    return lambda rows: top[rows].sum(axis=1) / np.maximum(bottom[rows].sum(axis=1), 1e-9)


def perplexity(losses: list[float], tokens: list[float]) -> Statistic:
    """exp of the mean loss of a token.

    :param losses: of each row, summed over its tokens, in nats.
    :param tokens: how many each row has.
    """
    per_token = ratio(losses, tokens)
    # exp(700) is the last that a double holds; a model as bad as that needs no more digits.
    return lambda rows: np.exp(np.minimum(per_token(rows), 700.0))


@dataclass
class Samples:
    """Statistics by metric and subject, all over rows of the same numbers."""

    n: dict[Metric, int] = field(default_factory=dict)
    statistics: dict[Metric, dict[Subject, Statistic]] = field(default_factory=dict)

    def add(self, metric: Metric, subject: Subject, statistic: Statistic, n: int) -> None:
        """Add a measured metric; without rows there is none."""
        if n:
            self.n[metric] = n
            self.statistics.setdefault(metric, {})[subject] = statistic

    def measures(self, seed: int, samples: int = SAMPLES) -> tuple[Measures, Measures]:
        """(each subject's intervals, those of the candidate minus each other subject)."""
        values: Measures = {}
        differences: Measures = {}
        for metric, found in self.statistics.items():
            drawn = _draw(found, self.n[metric], seed, samples)
            exact = {
                subject: float(statistic(_all(self.n[metric]))[0]) for subject, statistic in found.items()
            }
            for subject in found:
                interval = _interval(exact[subject], drawn[subject], self.n[metric])
                values.setdefault(subject, {})[metric] = interval
                if subject is Subject.CANDIDATE or Subject.CANDIDATE not in found:
                    continue
                gap = exact[Subject.CANDIDATE] - exact[subject]
                gaps = drawn[Subject.CANDIDATE] - drawn[subject]
                differences.setdefault(subject, {})[metric] = _interval(gap, gaps, self.n[metric])
        return values, differences


def _draw(found: Mapping[Subject, Statistic], n: int, seed: int, samples: int) -> dict[Subject, Numbers]:
    chance = np.random.default_rng(seed)
    parts: dict[Subject, list[Numbers]] = {subject: [] for subject in found}
    at_once = max(1, _CHUNK // n)
    for start in range(0, samples, at_once):
        rows = chance.integers(0, n, size=(min(at_once, samples - start), n))
        for subject, statistic in found.items():
            parts[subject].append(statistic(rows))
    return {subject: np.concatenate(drawn) for subject, drawn in parts.items()}


def _all(n: int) -> Rows:
    return np.arange(n, dtype=np.int64)[None, :]


def _interval(value: float, drawn: Numbers, n: int) -> Interval:
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), n=n)
