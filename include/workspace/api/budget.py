"""The annotation that limits what a Workspace's machines may cost.

It must never be read in two ways: what is not a plain positive number is a fault, and then it is no budget.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from include.workspace.api.names import BUDGET

_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,4})?")


def budget_of(annotations: Mapping[str, str]) -> float | None:
    """The budget in US dollars; None where there is none, or none that can be read."""
    given = annotations.get(BUDGET)
    return None if given is None else as_budget(given)


def as_budget(given: str) -> float | None:
    """The number that a budget's text means; None when it is not a plain number above 0."""
    if not isinstance(given, str) or not _NUMBER.fullmatch(given.strip()):
        return None
    return float(given) or None
