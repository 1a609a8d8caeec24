"""A canary: the new version in the server that answers, with a share of the requests, before all of them are its.

The service is not rolled for it: its pods' sidecar loads a second version, and the gateway gives it the requests whose
ids fall to it (include/contracts/canary.py). It is held to the bake's limits, against what the served version does in
the same time. `status.adapter` stays what it was until the canary has held out, so that whatever repairs the service
meanwhile brings the good version. What the pods are told is told again until their servers say that it is so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from include.contracts.plural import plural
from include.reconcile import bake as baking
from include.reconcile import promotion, service
from include.reconcile.backoff import moment
from include.reconcile.case import Case
from include.reconcile.decision import Answers, Event, ServeAdapter
from include.reconcile.decision_builder import DecisionBuilder
from include.retraining import versions
from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.status.conditions import Reason, timestamp
from include.workspace.status.retraining import CANARY, WANTED, WITHDRAWING
from include.workspace.status.transitions import NORMAL, WARNING

#: How often pods are looked at that are to take a version, or to let it go.
SOON_SECONDS = 2.0
#: A version that is not loaded by then never is.
LOAD_SECONDS = 600.0
#: What a promotion has for its canary alone.
OWN = ("percent", "canarySeconds", "since", "until", "restarts", "before", "begun")


def begin(builder: DecisionBuilder) -> bool:
    """Offer the wanted version its share, if the policy wants that; whether the rollout has to wait for it."""
    found = promotion.current(builder)
    if found.get("state") != WANTED or not found.get("percent"):
        return False
    if why := _impossible(builder.case):
        message = f"Version {found['version']} is rolled out for all requests at once: {why}"
        builder.events.append(Event(WARNING, "NoCanary", message))
        promotion.change(builder, promotion=_without_canary(found))
        return False
    builder.look_again(SOON_SECONDS)
    if not service.answers(builder.case):
        return True  # there is nothing to compare it with before the service answers
    since = timestamp(builder.case.now)
    found |= {"state": CANARY, "since": since, "restarts": promotion.restarts(builder)}
    promotion.change(builder, promotion=found)  # `look` has it served
    text = f"Loading version {found['version']} ({promotion.short(found)}) for {found['percent']:g}% of the requests"
    promotion.tell(builder, False, Reason.PROMOTING, text)
    return True


def look(builder: DecisionBuilder, gone: list[str]) -> None:
    """Watch the canary, take it back when it does badly, and let it have all requests when it has held out.

    :param gone: what is missing of the service: it is repaired, which is not held against the version.
    """
    found = promotion.current(builder)
    if found.get("state") == WITHDRAWING:
        _see_it_gone(builder, found)
    elif found.get("state") == CANARY and not gone:
        if why := _trouble(builder, found):
            _withdraw(builder, found, why)
        elif found.get("until") is None:
            _see_it_answer(builder, found)
        else:
            _hold_out(builder, found)


def ended_by_hand(builder: DecisionBuilder, asked: str, entry: Mapping[str, Any] | None, served: str) -> bool:
    """Whether a canary answers that a rollback by hand takes back, which is all that it asks for.

    :param asked: what the annotation says.
    :param entry: the version that it means, None where there is none.
    :param served: digest of the version that is served.
    """
    found = promotion.current(builder)
    if found.get("state") != CANARY:
        return False
    why = f"{names.ROLLBACK_TO}={asked} asks for that"
    if asked == versions.PREVIOUS or (entry is not None and entry.get("digest") == served):
        promotion.change(builder, promotion={**found, "breach": why})
        return True
    if entry is not None and entry.get("version") != found["version"]:
        promotion.entry(builder, str(found["version"]), state=State.ROLLED_BACK, reason=why)
    return False


def _impossible(case: Case) -> str:
    """Why this service cannot answer with two versions, "" when it can."""
    template = ((case.stateful_set or {}).get("spec") or {}).get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or ()
    if not any(one.get("name") == names.ADAPTERS_SIDECAR for one in containers):
        return "its pods cannot change adapters while they answer"
    return "" if (case.status.get("adapter") or {}).get("reference") else "no earlier version is served"


def _without_canary(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in OWN}


def _serve(builder: DecisionBuilder, canary: Mapping[str, Any] | None) -> None:
    served = str((builder.status.get("adapter") or {}).get("reference") or "")
    if canary is None:
        builder.act(ServeAdapter(served))
    else:
        builder.act(ServeAdapter(served, str(canary["reference"]), float(canary["percent"])))


def _see_it_answer(builder: DecisionBuilder, found: dict[str, Any]) -> None:
    """Its time begins when every server gives it its share."""
    activity, now = builder.case.observed.activity, builder.case.now
    builder.look_again(SOON_SECONDS)
    if activity is None or found["digest"] not in activity.canaries:
        return _serve(builder, found)
    until = timestamp(now + timedelta(seconds=float(found.get("canarySeconds") or 0.0)))
    candidate, served = _counted(builder, found)
    promotion.change(builder, promotion={**found, "until": until, "begun": candidate, "before": served})
    text = f"Version {found['version']} answers {found['percent']:g}% of the requests until {until}"
    return promotion.tell(builder, False, Reason.PROMOTING, text)


def _hold_out(builder: DecisionBuilder, found: dict[str, Any]) -> None:
    """All requests are its when its time is over: from here on it is rolled out as any version."""
    until, now = moment(found.get("until")) or builder.case.now, builder.case.now
    if now < until:
        return builder.look_again(min((until - now).total_seconds(), baking.LOOK_SECONDS))
    candidate, served = _since(builder, found)
    text = (
        f"Version {found['version']} has held out with {found['percent']:g}% of the requests: {_words(candidate)}; "
        f"the version before it: {_words(served)}. All requests are its now"
    )
    builder.events.append(Event(NORMAL, "CanaryPassed", text))
    promotion.change(builder, promotion={**_without_canary(found), "state": WANTED})
    builder.look_again(SOON_SECONDS)
    return None


def _trouble(builder: DecisionBuilder, found: Mapping[str, Any]) -> str:
    """What speaks against a canary, "" for nothing."""
    activity, digest = builder.case.observed.activity, str(found.get("digest"))
    if wrong := str(found.get("breach") or ""):
        return wrong
    if (more := promotion.restarts(builder) - int(found.get("restarts") or 0)) > 0:
        return f"the server has restarted {plural(more, 'time')} since it came"
    if activity is not None and digest in activity.refused:
        pod = builder.case.serving_pods[0]["metadata"]["name"] if builder.case.serving_pods else "its pod"
        return f"the server does not take it; `kubectl logs {pod} -c {names.ADAPTERS_SIDECAR}` says why"
    since = moment(found.get("since")) or builder.case.now
    if found.get("until") is None:
        late = (builder.case.now - since).total_seconds() >= LOAD_SECONDS
        return f"it is not loaded after {LOAD_SECONDS / 60:.0f} min" if late else ""
    if not service.answers(builder.case):
        return "the server stopped being ready while it answered"
    if activity is None:
        return ""
    candidate, _ = _counted(builder, found)
    _, served = _since(builder, found)
    return baking.breach(baking.Limits.of(found.get("limits")), served, found.get("begun"), candidate)


def _withdraw(builder: DecisionBuilder, found: dict[str, Any], why: str) -> None:
    """Take its share away at once; the version that is served has never stopped answering."""
    found |= {"state": WITHDRAWING, "breach": why, "since": timestamp(builder.case.now)}
    promotion.change(builder, promotion=found)
    promotion.entry(builder, str(found["version"]), state=State.ROLLED_BACK, reason=why)
    _serve(builder, None)
    served = promotion.short(builder.status.get("adapter") or {})
    text = f"Version {found['version']} was taken back: {why}. All requests are answered by {served} again"
    promotion.tell(builder, False, Reason.ROLLED_BACK, text)
    builder.look_again(SOON_SECONDS)


def _see_it_gone(builder: DecisionBuilder, found: Mapping[str, Any]) -> None:
    activity = builder.case.observed.activity
    if activity is not None and found["digest"] not in activity.canaries:
        return promotion.change(builder, promotion=None)
    _serve(builder, None)
    return builder.look_again(SOON_SECONDS)


def _counted(builder: DecisionBuilder, found: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What the servers have counted of the canary's answers and of the served version's."""
    activity = builder.case.observed.activity
    known: Mapping[str, Answers] = activity.adapters if activity else {}
    digests = (found.get("digest"), (builder.status.get("adapter") or {}).get("digest"))
    candidate, served = (baking.counted(known.get(str(digest), Answers())) or {} for digest in digests)
    return candidate, served


def _since(builder: DecisionBuilder, found: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The same since its time began."""
    candidate, served = _counted(builder, found)
    return (
        baking.counted_since(found.get("begun") or {}, candidate),
        baking.counted_since(found.get("before") or {}, served),
    )


def _words(counted: Mapping[str, float]) -> str:
    took = f", {counted['seconds'] / counted['timed']:.2f} s on average" if counted["timed"] else ""
    return f"{counted['answered']:.0f} answers, {counted['failed']:.0f} failed{took}"
