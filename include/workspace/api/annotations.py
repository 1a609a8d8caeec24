"""What a Workspace's annotations mean: its budget, and how long its service may be idle before it is scaled to zero.

Admission and the reconciler read them here, so that they cannot disagree. It must never guess: what is not a plain
positive number is a fault, and then it limits nothing and scales nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from include.workspace.api.names import BUDGET, RERUN, SCALE_TO_ZERO

#: A year: whoever means longer means never, which is what no annotation says.
LONGEST_MINUTES = 525_600.0
ALLOWED = "write minutes above 0, such as '30' or '0.5'"
_USD = re.compile(r"\d{1,9}(?:\.\d{1,4})?")
_MINUTES = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")


def budget_of(annotations: Mapping[str, str]) -> float | None:
    """The budget in US dollars; None where there is none, or none that can be read."""
    given = annotations.get(BUDGET)
    return None if given is None else as_budget(given)


def as_budget(given: str) -> float | None:
    """The number that a budget's text means; None when it is not a plain number above 0."""
    if not isinstance(given, str) or not _USD.fullmatch(given.strip()):
        return None
    return float(given) or None


def exact_rerun(annotations: Mapping[str, str]) -> str:
    """The request for a training that comes out the same again: `exact`, or `exact-` and anything; "" for none.

    Each new value asks once, so a second exact rerun is asked for by `exact-2`.
    """
    given = str(annotations.get(RERUN) or "").strip()
    return given if given == "exact" or given.startswith("exact-") else ""


def idle_seconds(annotations: Mapping[str, str]) -> float | None:
    """The idle time in seconds after which a service is scaled to zero, None where that was not asked for.

    :raises ValueError: the annotation is not a number of minutes that it can have.
    """
    given = annotations.get(SCALE_TO_ZERO)
    if given is None:
        return None
    minutes = float(given) if _MINUTES.fullmatch(given) else 0.0
    if not 0 < minutes <= LONGEST_MINUTES:
        raise ValueError(f"{SCALE_TO_ZERO}={given!r} is not a number of minutes above 0; {ALLOWED}")
    return minutes * 60
