"""How long a plan takes from nothing to done, and what its machines cost meanwhile.

Phases come from one published run of KAITO (issue 2325: an A100 on Azure) and from throughput.py. Every figure is an
estimate; it must never be used to refuse anything.
"""

from __future__ import annotations

from typing import NamedTuple

from include.catalog.models import GIB
from include.contracts.purpose import Purpose

BOOT_SECONDS = 410  # the node made 284 s, its GPU ready 126 s
PULL_SECONDS = 110  # image 101 s, start of the pods 10 s
WEIGHTS_BYTES_PER_SECOND = 51.75 * GIB / 83  # 51.75 GiB in 62 s after 21 s of preparation
LOADING_SECONDS = 75  # the framework's own start: 74 s
RELEASE_SECONDS = 60  # until the machines are gone and cost nothing


CHARACTERS_PER_TOKEN = 4  # the usual figure for English with the tokenizers of these models


class Estimate(NamedTuple):
    """Seconds by phase and the price of all machines for their sum. `usd` is None when the price is unknown.

    `tokens` is what the tuning reads in all epochs together, 0 for serving.
    """

    phases: tuple[tuple[str, float], ...]
    tokens: int = 0
    usd: float | None = None

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.phases)


def estimate(
    purpose: Purpose, weights_bytes: int, tokens: int, tokens_per_second: float, usd_per_hour: float | None
) -> Estimate:
    """The phases of one run. `usd_per_hour` is the price of all machines together."""
    phases = [
        ("machines", float(BOOT_SECONDS)),
        ("image", float(PULL_SECONDS)),
        ("weights", weights_bytes / WEIGHTS_BYTES_PER_SECOND),
        ("loading", float(LOADING_SECONDS)),
    ]
    if purpose == Purpose.TUNING:
        phases += [
            ("training", tokens / tokens_per_second if tokens_per_second else 0.0),
            ("release", float(RELEASE_SECONDS)),
        ]
    seconds = sum(length for _, length in phases)
    usd = None if usd_per_hour is None else usd_per_hour * seconds / 3600
    return Estimate(tuple(phases), tokens if purpose == Purpose.TUNING else 0, usd)


def tokens_of(characters: int, epochs: float) -> int:
    """Roughly the tokens that a tuning reads of rows with that many characters together."""
    return round(characters / CHARACTERS_PER_TOKEN * epochs)


def duration(seconds: float) -> str:
    """A length of time for people: "45 s", "12 min", "3.4 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def dollars(usd: float) -> str:
    """An amount for people: "0.04 USD", "1,234 USD"."""
    return f"{usd:,.2f} USD" if usd < 100 else f"{usd:,.0f} USD"
