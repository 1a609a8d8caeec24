"""Retraining, as far as the reconciler has to do with it: what is due is started, what is wanted is served, what fails
is taken back.

A run of the retraining trains beside the service and asks for a promotion in `status.retrain`; only here another
version becomes the one that is served, and only here the last good one comes back, so that a run that dies leaves
nothing half done. A Workspace without the annotations and without `status.retrain` is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from include.contracts.plural import plural
from include.reconcile import bake as baking
from include.reconcile import canary, progress, promotion, service
from include.reconcile.backoff import moment
from include.reconcile.case import RETRAIN
from include.reconcile.decision import Event, StartRun
from include.reconcile.decision_builder import DecisionBuilder
from include.retraining import versions
from include.retraining.schedule import DEFAULT_ZONE, BadSchedule, Schedule, due, parse
from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.status import retraining
from include.workspace.status.conditions import ConditionType, Reason, condition, timestamp
from include.workspace.status.retraining import BAKING, CANARY, ROLLING, WANTED, WITHDRAWING
from include.workspace.status.runs import ALIVE, OVER, RunCause, RunState
from include.workspace.status.transitions import WARNING

#: Until a run says by its policy when its dataset is looked at next.
LOOK = timedelta(hours=1)
#: A promotion that is wanted is looked at within that time.
SOON_SECONDS = 1.0


def concerns(builder: DecisionBuilder) -> bool:
    """Whether this Workspace is retrained, was, or is asked to go back to a version."""
    notes = builder.case.annotations
    return (
        bool(builder.status.get("retrain")) or names.RETRAIN_SCHEDULE in notes or names.ROLLBACK_TO in notes
    )


def look(builder: DecisionBuilder) -> None:
    """Follow the run that works, plan the next, start what is due; the service is not touched here."""
    if not concerns(builder) or builder.case.candidate:
        return
    _follow(builder)
    _plan(builder)
    _follow_rollback(builder)


def look_at_its_run(builder: DecisionBuilder) -> None:
    """Follow the run that works, and begin nothing: for a Workspace whose own run has failed or has not begun."""
    if not builder.case.candidate:
        _follow(builder)


# -- runs ----------------------------------------------------------------------------------------------------------


def _follow(builder: DecisionBuilder) -> None:
    """Record how the run ended that is under way; one of ours that Airflow does not know is started again."""
    run = retraining.working(builder.status)
    if not run:
        return
    seen = builder.case.observed.runs.get(str(run["id"]), "unasked")
    if seen is None and run.get("dag") == RETRAIN:
        _order(builder, run)
    if seen in (*ALIVE, "unasked") or (seen is None and run.get("dag") == RETRAIN):
        builder.look_again(progress.QUIET_SECONDS)
        return
    ended = RunState.SUCCESS if seen == RunState.SUCCESS else RunState.FAILED
    promotion.change(builder, run={**run, "state": ended})
    if ended == RunState.FAILED and not _said(builder, run):
        promotion.tell(
            builder, False, Reason.RETRAIN_FAILED, f"Airflow run {run['id']} failed; its log says why"
        )


def _said(builder: DecisionBuilder, run: Mapping[str, Any]) -> bool:
    """Whether the run's own tasks have already told why it came to nothing."""
    retrain_ready = condition(builder.status, ConditionType.RETRAIN_READY) or {}
    open_ones = (None, Reason.RETRAINING, Reason.AWAITING_APPROVAL, Reason.RETRAIN_SCHEDULED)
    return retrain_ready.get("reason") not in open_ones


def _plan(builder: DecisionBuilder) -> None:
    """Keep `next` true to the schedule; start a run when it has come and none works."""
    case, known = builder.case, retraining.of(builder.status)
    text = case.annotations.get(names.RETRAIN_SCHEDULE)
    if text is None:
        if known.get("schedule"):
            promotion.change(builder, schedule=None, timezone=None, next=None)
        return
    zone = case.annotations.get(names.RETRAIN_TIMEZONE) or DEFAULT_ZONE
    try:
        schedule = parse(text, zone)
    except BadSchedule as error:
        message = f"{names.RETRAIN_SCHEDULE}={text!r}, time zone {zone!r}: {error}; {error.hint}"
        promotion.change(builder, schedule=None, timezone=None, next=None)
        promotion.tell(builder, False, Reason.RETRAIN_INVALID, message)
        return
    same = (known.get("schedule"), known.get("timezone")) == (text, zone)
    planned = moment(known.get("next")) if same else None
    at, following = _due(schedule, planned, case.now)
    if at is None or retraining.working(builder.status):
        # What comes due while a run works stays due, and is one run after it.
        following = planned if at is not None and planned else following
        _scheduled(builder, text, zone, following, same)
        builder.look_again(max((following - case.now).total_seconds(), progress.QUIET_SECONDS if at else 0.0))
        return
    _scheduled(builder, text, zone, following, same)
    run = {
        "id": names.retrain_run_id(case.workspace, timestamp(at)),
        "dag": RETRAIN,
        "state": RunState.STARTED,
        "since": timestamp(case.now),
        "due": timestamp(at),
        "url": None,
    }
    run["url"] = case.config.run_url(RETRAIN, str(run["id"]))
    promotion.change(builder, run=run)
    _order(builder, run)
    builder.look_again(progress.QUIET_SECONDS)


def _due(schedule: Schedule, planned: datetime | None, now: datetime) -> tuple[datetime | None, datetime]:
    if not schedule.on_data:
        found = due(schedule, planned, now)
        return found.at, found.next
    if planned is None or planned <= now:
        return now, now + LOOK
    return None, planned


def _scheduled(builder: DecisionBuilder, text: str, zone: str, following: datetime, same: bool) -> None:
    promotion.change(builder, schedule=text, timezone=zone, next=timestamp(following))
    retrain_ready = condition(builder.status, ConditionType.RETRAIN_READY) or {}
    planned = retrain_ready.get("reason") in (None, Reason.RETRAIN_SCHEDULED, Reason.RETRAIN_INVALID)
    if planned or not same:
        what = "The dataset is looked at" if text == "@data" else "A retraining is due"
        promotion.tell(
            builder, True, Reason.RETRAIN_SCHEDULED, f"{what} at {timestamp(following)} ({text}, {zone})"
        )


def _order(builder: DecisionBuilder, run: Mapping[str, Any]) -> None:
    case = builder.case
    conf = {"workspace": {"metadata": {"name": case.name, "namespace": case.namespace}}}
    builder.act(StartRun(RETRAIN, str(run["id"]), conf))


# -- what is served ------------------------------------------------------------------------------------------------


def _follow_rollback(builder: DecisionBuilder) -> None:
    """The annotation rollback-to, once for each of its values; without it, the next value is a new one."""
    asked, known = builder.case.annotations.get(names.ROLLBACK_TO), retraining.of(builder.status)
    if asked == known.get("rollback"):
        return
    promotion.change(builder, rollback=asked)
    if asked is None:
        return
    served = str((builder.status.get("adapter") or {}).get("digest") or "")
    entry = versions.find(known.get("versions") or (), asked.strip(), served)
    if canary.ended_by_hand(builder, asked.strip(), entry, served):
        return
    if entry is None or not builder.status.get("adapter"):
        there = ", ".join(str(one["version"]) for one in known.get("versions") or () if one.get("reference"))
        message = (
            f"{names.ROLLBACK_TO}={asked!r} names no version that can be served; there are: {there or 'none'}"
        )
        builder.events.append(Event(WARNING, "RollbackRefused", message))
    elif entry.get("digest") != served:
        builder.status = retraining.wanted(
            builder.status,
            entry,
            cause=RunCause.ROLLBACK,
            bake_seconds=0.0,
            generation=builder.case.generation,
        )


def begin_rollout(builder: DecisionBuilder, *, running: bool) -> tuple[RunCause, str] | None:
    """Make the wanted version the one to serve; returns the cause and the message of the run that rolls it out.

    A Workspace without a running service has it at once: whoever serves it next takes it from the status.

    :param running: whether there is a service to roll.
    """
    found = promotion.current(builder)
    if not found or found["state"] != WANTED:
        return None
    builder.status = retraining.take_over(builder.status, found)
    message = f"version {found['version']} ({promotion.short(found)})"
    if not running:
        _good(builder, found, f"{message} is the adapter from now on; there is no running service to roll")
        return None
    before = baking.counted(builder.case.observed.activity)
    promotion.change(builder, promotion={**found, "state": ROLLING, **({"before": before} if before else {})})
    promotion.tell(builder, False, Reason.PROMOTING, f"Rolling out {message}")
    back = found.get("cause") == RunCause.ROLLBACK
    return (
        RunCause.ROLLBACK if back else RunCause.PROMOTE
    ), f"{'Going back to' if back else 'Rolling out'} {message}"


def ended_badly(builder: DecisionBuilder) -> str:
    """Why the version that was rolled out has to be taken back, "" when there is nothing to take back."""
    found = promotion.current(builder)
    if (
        not found
        or found["state"] != ROLLING
        or builder.run.get("cause") not in (RunCause.PROMOTE, RunCause.ROLLBACK)
    ):
        return ""
    inference_ready = condition(builder.status, ConditionType.INFERENCE_READY) or {}
    why = str(inference_ready.get("message") or "") if inference_ready.get("status") != "True" else ""
    return f"it did not become ready{f': {why}' if why else ''}"


def bake(builder: DecisionBuilder, gone: list[str]) -> str:
    """Watch a version that has just been rolled out; returns why it has to be taken back, "" while it does well."""
    found, now = promotion.current(builder), builder.case.now
    if found.get("state") not in (ROLLING, BAKING):
        return ""
    counted = baking.counted(builder.case.observed.activity)
    if found["state"] == ROLLING:
        if builder.run.get("state") not in OVER:
            return ""
        until = now + timedelta(seconds=float(found.get("bakeSeconds") or 0.0))
        found = {**found, "state": BAKING, "until": timestamp(until), "restarts": promotion.restarts(builder)}
        promotion.entry(
            builder, str(found["version"]), state=State.PROMOTED, promotedAt=timestamp(now), reason=None
        )
    if found.get("begun") is None and counted is not None:
        found = {**found, "begun": counted}
    promotion.change(builder, promotion=found)
    until_then = moment(found.get("until")) or now
    if gone:
        return ""  # a machine that is lost is no fault of the version: it is repaired
    if why := _trouble(builder, found, counted):
        return why
    if now < until_then:
        promotion.tell(
            builder,
            False,
            Reason.PROMOTING,
            f"Watching version {found['version']} until {timestamp(until_then)}",
        )
        builder.look_again(min((until_then - now).total_seconds(), baking.LOOK_SECONDS))
        return ""
    _good(builder, found, f"Version {found['version']} ({promotion.short(found)}) is served")
    return ""


def _trouble(builder: DecisionBuilder, found: Mapping[str, Any], counted: Mapping[str, float] | None) -> str:
    """What speaks against a version that is watched, "" for nothing."""
    if (more := promotion.restarts(builder) - int(found.get("restarts") or 0)) > 0:
        return f"its server has restarted {plural(more, 'time')} within the bake time"
    if not service.answers(builder.case):
        return "its server stopped being ready within the bake time"
    limits = baking.Limits.of(found.get("limits"))
    wrong = str(found.get("breach") or "")
    return wrong or baking.breach(limits, found.get("before"), found.get("begun"), counted)


def take_back(builder: DecisionBuilder, why: str) -> str:
    """Make the last good adapter the one to serve again; returns the message of the run that rolls it out."""
    found = promotion.current(builder)
    earlier = found.get("earlier") or {}
    builder.status = retraining.take_over(builder.status, earlier)
    promotion.change(builder, promotion=None)
    promotion.entry(builder, str(found["version"]), state=State.ROLLED_BACK, reason=why)
    message = f"Version {found['version']} was taken back: {why}. Back to {promotion.short(earlier)}"
    promotion.tell(builder, False, Reason.ROLLED_BACK, message)
    return message


def _good(builder: DecisionBuilder, found: Mapping[str, Any], message: str) -> None:
    promotion.change(builder, promotion=None)
    now = timestamp(builder.case.now)
    known = {str(one.get("version")): one for one in retraining.of(builder.status).get("versions") or ()}
    since = (known.get(str(found["version"])) or {}).get("promotedAt")
    promotion.entry(
        builder, str(found["version"]), state=State.PROMOTED, promotedAt=since or now, reason=None
    )
    promotion.tell(builder, True, Reason.PROMOTED, message)


# -- when to look --------------------------------------------------------------------------------------------------


def waits(status: Mapping[str, Any], last_look: datetime, now: datetime) -> list[float]:
    """Seconds until a Workspace is due for its retraining: asked often, so it only reads moments."""
    known = status.get("retrain")
    if not known:
        return []
    since = (now - last_look).total_seconds()
    found = known.get("promotion") or {}
    if found.get("state") == WANTED:
        return [SOON_SECONDS - since]
    left = [progress.QUIET_SECONDS - since] if retraining.working(status) else []
    if found.get("state") in (BAKING, CANARY, WITHDRAWING):
        answers = found["state"] == BAKING or (found["state"] == CANARY and found.get("until"))
        left.append((baking.LOOK_SECONDS if answers else canary.SOON_SECONDS) - since)
    moments = (known.get("next") if not left else None, found.get("until"))
    for at in map(moment, moments):
        if at is not None:
            left.append((at - now).total_seconds() if at > last_look else progress.QUIET_SECONDS - since)
    return left


def asks_for_metrics(status: Mapping[str, Any]) -> bool:
    """Whether a decision needs what the servers count: a version is on its way to be served, or is watched."""
    return bool((status.get("retrain") or {}).get("promotion"))


def runs_to_ask(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(DAG id, run id) of the retraining that is under way."""
    run = retraining.working(status)
    return [(str(run["dag"]), str(run["id"]))] if run else []
