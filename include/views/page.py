"""One Workspace on a page: everything that its object, its events and its claims say, in the order of reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from include.contracts.redaction import redact, redacted
from include.contracts.row_changes import RowChanges
from include.ledger import records
from include.views import actions, commands, fleet, state
from include.views.registry_page import registry_page
from include.views.spending import budget_left
from include.views.versions import Version, versions
from include.views.words import NONE, due, duration, per_second, until, usd
from include.workspace.api import names
from include.workspace.api.dialect import as_written
from include.workspace.status import base_model
from include.workspace.status.conditions import condition, moment
from include.workspace.status.phases import ConditionType
from include.workspace.status.transitions import CALM_REASONS, WARNING

Object = Mapping[str, Any]
#: Characters of one value on a page: an annotation may be a megabyte.
LONGEST = 4000


@dataclass(frozen=True, slots=True)
class Line:
    """A condition or an event: when, what, and whether it is bad news."""

    at: datetime | None
    what: str
    status: str
    reason: str
    message: str
    bad: bool
    count: int = 1


@dataclass(frozen=True, slots=True)
class MachineLine:
    """A machine that was held, or what a cloud said to an order."""

    name: str
    machine: str
    purpose: str
    since: datetime | None
    until: datetime | None
    usd: float
    told: str


@dataclass(frozen=True)
class Page:
    """What the page of a Workspace shows, apart from its runs.

    :param registry: the address of its adapter's page in the registry, "" for none.
    :param versions: of its adapter, the youngest first.
    :param retraining: how its retraining stands otherwise, as labels and texts.
    """

    row: fleet.Row
    cells: Mapping[str, str]
    uid: str
    generation: int
    facts: Sequence[tuple[str, str]]
    conditions: Sequence[Line]
    events: Sequence[Line]
    machines: Sequence[MachineLine]
    lineage: Sequence[tuple[str, str]]
    registry: str
    versions: Sequence[Version]
    retraining: Sequence[tuple[str, str]]
    yaml: str
    commands: Sequence[commands.Command]
    offers: Sequence[actions.OfferedAction]
    run: Mapping[str, str]


def page(
    workspace: Object, events: Iterable[Object], now: datetime, requests_per_second: float | None = None
) -> Page:
    """The page of one Workspace as of `now`.

    :param events: the Kubernetes Events about it, or about an earlier Workspace of its name.
    :param requests_per_second: of its service, None where that is not known.
    """
    status, meta = workspace.get("status") or {}, workspace["metadata"]
    row = fleet.row(workspace, now, requests_per_second)
    run, uid = status.get("run") or {}, meta.get("uid")
    # Those of an earlier Workspace of its name are kept for an hour after it has gone.
    events = [one for one in events if (one.get("involvedObject") or {}).get("uid", uid) == uid]
    return Page(
        row=row,
        cells=fleet.cells(row, now),
        uid=str(meta.get("uid") or ""),
        generation=int(meta.get("generation") or 1),
        facts=_facts(workspace, row, now),
        conditions=[_condition(one) for one in state.in_order(status.get("conditions") or ())],
        events=sorted(map(_event, events), key=lambda one: str(one.at)),
        machines=_machines(status, now),
        lineage=_lineage(status),
        registry=registry_page(str((status.get("adapter") or {}).get("reference") or "")),
        versions=versions(status),
        retraining=_retraining(status.get("retrain")),
        yaml=as_yaml(workspace),
        commands=commands.commands(workspace),
        offers=actions.offers(workspace),
        run={key: str(run[key]) for key in ("id", "dag", "state", "cause") if run.get(key)},
    )


def _rate(row: fleet.Row, status: Object) -> str:
    """What its machines cost an hour, as far as that is known: own nodes and new ones have no price (yet)."""
    if row.usd_per_hour:
        return usd(row.usd_per_hour)
    return "not known of its nodes" if status.get("workerNodes") else "nothing, it holds no machines"


def _facts(workspace: Object, row: fleet.Row, now: datetime) -> list[tuple[str, str]]:
    status, meta = workspace.get("status") or {}, workspace["metadata"]
    cost = status.get("cost") or {}
    spent = usd(row.usd) + (" and machines without a price" if row.unpriced else "")
    wasted = (
        f"{usd(float(cost['wastedUsd']))} of it wasted on boot, waiting and failed runs"
        if cost.get("wastedUsd") is not None
        else ""
    )
    unspent = budget_left(workspace, now)
    left = f"{usd(unspent)} of {usd(float(cost['budgetUsd']))}" if unspent is not None else ""
    eta = row.progress.eta_seconds if row.progress else None
    told = [
        ("Model", row.model),
        ("Weights", base_model.in_words(status)),
        ("For", row.kind),
        ("Machine", row.machine),
        ("Nodes", ", ".join(map(str, status.get("workerNodes") or ()))),
        ("Made", until(moment(meta.get("creationTimestamp")), now)),
        (
            "Start" if row.progress and row.progress.stage else "Training",
            row.progress.words if row.progress else "",
        ),
        ("Time left", duration(eta) if eta is not None else ""),
        ("Served since", until(row.served_since, now) if row.served_since else ""),
        ("Requests a second", per_second(row.requests_per_second) if row.served_since else ""),
        ("Cost so far", "; ".join(filter(None, (spent, wasted)))),
        ("Cost an hour", _rate(row, status)),
        ("Budget left", left),
        (
            "Retraining",
            redact(str((condition(status, ConditionType.RETRAIN_READY) or {}).get("message") or "")),
        ),
        ("Next retraining", due(row.next_retraining, now)),
    ]
    return [(label, cut(text)) for label, text in told if text]


def _condition(one: Object) -> Line:
    status, reason = str(one.get("status") or ""), str(one.get("reason") or "")
    bad = status == "False" and reason not in CALM_REASONS
    deleting = one.get("type") == ConditionType.WORKSPACE_DELETING
    message = cut(redact(str(one.get("message") or "")))
    at = moment(one.get("lastTransitionTime"))
    return Line(at, str(one.get("type") or ""), status, reason, message, bad and not deleting)


def _event(one: Object) -> Line:
    at = moment(one.get("lastTimestamp") or one.get("eventTime") or one.get("firstTimestamp"))
    message = cut(redact(str(one.get("message") or one.get("note") or "")))
    kind, reason = str(one.get("type") or ""), str(one.get("reason") or "")
    return Line(at, reason, kind, reason, message, kind == WARNING, int(one.get("count") or 1))


def _machines(status: Object, now: datetime) -> list[MachineLine]:
    found = []
    for claim in (status.get("cost") or {}).get("claims") or ():
        spent = records.seconds(claim, now) / 3600 * float(claim.get("usdPerHour") or 0)
        ended = moment(claim.get("until"))
        message = "" if ended else "held now"
        outcome = str(claim.get("outcome") or "")
        texts = str(claim.get("name") or ""), str(claim.get("machine") or ""), str(claim.get("purpose") or "")
        found.append(MachineLine(*texts, moment(claim.get("since")), ended, spent, message or outcome))
    for asked in status.get("machines") or ():
        message = " ".join(
            filter(None, (str(asked.get("state") or ""), redact(str(asked.get("message") or ""))))
        )
        place = str(asked.get("offer") or ""), str(asked.get("purpose") or "")
        found.append(MachineLine("", *place, moment(asked.get("at")), None, 0.0, cut(message)))
    return sorted(found, key=lambda one: str(one.since))


def _lineage(status: Object) -> list[tuple[str, str]]:
    """Where the adapter comes from, as far as the status tells."""
    adapter = status.get("adapter") or {}
    digest = str(adapter.get("digest") or "")
    pushed = str((condition(status, ConditionType.ADAPTER_PUBLISHED) or {}).get("message") or "")
    data = condition(status, ConditionType.DATASET_READY) or {}
    told = [
        ("Image", str(adapter.get("image") or "")),
        ("Digest", digest),
        ("Pull it by", str(adapter.get("reference") or "")),
        ("Made by run", str((status.get("run") or {}).get("id") or "") if adapter else ""),
        ("Published", "" if digest and digest in pushed else pushed),
        ("Data", str(data.get("message") or "")),
        ("Rows changed", _rows_changed(status)),
    ]
    return [(label, cut(redact(text))) for label, text in told if text]


def _rows_changed(status: Object) -> str:
    """How the dataset of the last version differs from the one before; "" where that is not known."""
    retrain = status.get("retrain")
    known = retrain.get("versions") if isinstance(retrain, Mapping) else None
    last = known[-1] if isinstance(known, list) and known else None
    data = last.get("dataset") if isinstance(last, Mapping) else None
    if not isinstance(last, Mapping) or not isinstance(data, Mapping):
        return ""
    moved = RowChanges.of(data.get("added"), data.get("removed"))
    return f"{moved} (version {last.get('version')})" if moved else ""


def _retraining(told: object) -> Sequence[tuple[str, str]]:
    if not isinstance(told, Mapping):
        return ()
    return _flat({key: one for key, one in told.items() if key != "versions"})


def _flat(value: object, path: str = "") -> list[tuple[str, str]]:
    """A nested value as lines: its path in words, and what is there."""
    if isinstance(value, Mapping):
        return [line for key, one in value.items() for line in _flat(one, f"{path} {key}".strip())]
    if isinstance(value, list | tuple):
        return [
            line for number, one in enumerate(value, 1) for line in _flat(one, f"{path} {number}".strip())
        ]
    return [(redact(path), cut(redact(NONE if value is None else str(value))))]


def as_yaml(workspace: Object) -> str:
    """The Workspace as its author would write it, without what servers and controllers put in, and without secrets."""
    found = as_written(workspace)
    meta = {k: v for k, v in found["metadata"].items() if k in ("name", "namespace", "labels", "annotations")}
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k not in names.BOOKKEEPING}
    meta = {key: value for key, value in {**meta, "annotations": notes}.items() if value}
    order = ("apiVersion", "kind", "metadata", "resource", "tuning", "inference")
    document = {**found, "metadata": meta}
    shown = redacted({key: document[key] for key in order if document.get(key) is not None})
    return yaml.safe_dump(_short(shown), sort_keys=False, allow_unicode=True)


def _short(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_short(one) for one in value]
    return cut(value) if isinstance(value, str) else value


def cut(text: str) -> str:
    """A text that is no longer than a page can bear; what was cut off is said."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST:,} characters more)"
