"""The bake time of a version: what its servers count while it is watched, against what they counted before.

Only differences count: a server that goes on while its adapter changes brings its earlier answers along, and one that
has begun anew counts from 0. A few answers prove nothing, so below a number of them nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.reconcile.decision import Activity, Answers

#: How often a version that bakes is looked at, in seconds.
LOOK_SECONDS = 10.0
#: Failures below it may be chance, whatever their share.
FEWEST_FAILURES = 3
#: Answers without which a mean of their times says nothing.
FEWEST_ANSWERS = 20
FIELDS = ("answered", "failed", "timed", "seconds")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version may do worse than the one before it.

    :ivar errors: the share of its answers that may fail (0 to 1).
    :ivar latency: how many times as long its answers may take on average; 0 for any time.
    """

    errors: float = 1.0
    latency: float = 0.0

    @classmethod
    def of(cls, known: Mapping[str, Any] | None) -> Limits:
        """From `status.retrain.promotion.limits`; a promotion of an older version has none."""
        given = known or {}
        return cls(float(given.get("errors", 1.0)), float(given.get("latency", 0.0)))


def counted(activity: Activity | Answers | None) -> dict[str, float] | None:
    """The numbers of a look, to be kept in the status; None where the servers did not tell."""
    return None if activity is None else {name: getattr(activity, name) for name in FIELDS}


def breach(
    limits: Limits,
    before: Mapping[str, float] | None,
    begun: Mapping[str, float] | None,
    now: Mapping[str, float] | None,
) -> str:
    """Why a version has to be taken back, "" while nothing speaks against it.

    :param before: what the servers had counted when the version was asked for.
    :param begun: when it had been rolled out.
    :param now: what they count now.
    """
    if begun is None or now is None:
        return ""
    since = counted_since(begun, now)
    return _errors(limits, since) or _slowness(limits, before, since)


def counted_since(begun: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """What was counted since; all of it where the servers have begun anew."""
    anew = any(now[name] < begun.get(name, 0.0) for name in FIELDS)
    return {name: now[name] if anew else now[name] - begun.get(name, 0.0) for name in FIELDS}


def _errors(limits: Limits, since: Mapping[str, float]) -> str:
    failed, answered = since["failed"], since["answered"]
    if failed < FEWEST_FAILURES or answered <= 0 or failed <= limits.errors * answered:
        return ""
    return (
        f"{failed:.0f} of {answered:.0f} answers failed within the bake time, and the policy lets "
        f"{limits.errors:.0%} fail"
    )


def _slowness(limits: Limits, before: Mapping[str, float] | None, since: Mapping[str, float]) -> str:
    if not limits.latency or before is None:
        return ""
    if min(since["timed"], before.get("timed", 0.0)) < FEWEST_ANSWERS:
        return ""
    was, now = before["seconds"] / before["timed"], since["seconds"] / since["timed"]
    if now <= limits.latency * was:
        return ""
    return (
        f"its answers take {now:.2f} s on average within the bake time, those before took {was:.2f} s, and the policy "
        f"lets them take {limits.latency:g} times as long"
    )
