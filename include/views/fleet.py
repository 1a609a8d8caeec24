"""The table of all Workspaces: one row each, made of its object and its service's requests, searched and sorted.

A thousand rows are made in some hundredths of a second, so that a page may ask again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from include.contracts.plural import plural
from include.contracts.redaction import redact
from include.ledger import records
from include.views import state as states
from include.views.words import due, per_second, until, usd
from include.workspace.api import names
from include.workspace.api.dialect import serves
from include.workspace.status.conditions import ConditionType, condition, moment, timestamp
from include.workspace.status.startup import is_of_a_server, share

Object = Mapping[str, Any]
TUNING, SERVING, BOTH = "tuning", "serving", "tuning and serving"
#: Runs that are over: what status.progress says of them is history.
OVER = ("success", "failed")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training or the start of a server is, and the seconds that are left at its speed (None: not known).

    :param step: optimizer steps; MiB or percent of a server's weights.
    :param stage: what a server that starts does, "" for a training.
    """

    step: int
    total: int
    eta_seconds: float | None
    stage: str = ""

    @property
    def percent(self) -> int:
        return share(self.step, self.total)

    @property
    def words(self) -> str:
        """The numbers with what they count."""
        if self.stage:
            return f"{self.stage}, {self.percent}%"
        return f"step {self.step} of {self.total}"


@dataclass(frozen=True, slots=True)
class Row:
    """One Workspace in the table. Moments are UTC, amounts US dollars at list prices."""

    name: str
    namespace: str
    model: str
    kind: str
    state: str
    tone: str
    reason: str
    machine: str
    progress: Progress | None
    adapter: str
    served_since: datetime | None
    requests_per_second: float | None
    usd: float
    unpriced: bool
    usd_per_hour: float
    next_retraining: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """The row for programs: moments as text, as Kubernetes writes them."""
        result = asdict(self)
        for key in ("served_since", "next_retraining"):
            result[key] = timestamp(result[key]) if result[key] else None
        if self.progress is not None:
            result["progress"]["percent"] = self.progress.percent
        return result


def model(workspace: Object) -> str:
    """The model that a Workspace names: a preset, or that it brings a pod template of its own."""
    for part in ("tuning", "inference"):
        found = workspace.get(part)
        if isinstance(found, Mapping):
            preset = found.get("preset") or {}
            name = preset.get("name") if isinstance(preset, Mapping) else preset
            return str(name) if name else "own pod template"
    return ""


def kind(workspace: Object) -> str:
    """What a Workspace is for."""
    if parent := (workspace["metadata"].get("labels") or {}).get(names.RETRAIN_OF):
        return f"candidate of {parent}"
    if workspace.get("tuning") is None:
        return SERVING
    return BOTH if serves(workspace) else TUNING


def progress(status: Object) -> Progress | None:
    """How far the training, or the start of the server, is that goes on; None while none goes on."""
    told = status.get("progress") or {}
    stage = str(told["stage"]) if is_of_a_server(told) else ""
    started = condition(status, ConditionType.JOB_STARTED) or {}
    published = condition(status, ConditionType.ADAPTER_PUBLISHED) or {}
    trains = started.get("status") == "True" and published.get("status") != "True"
    over = (status.get("run") or {}).get("state") in OVER
    if over or not (trains or stage) or not told.get("total"):
        return None
    eta = told.get("etaSeconds")
    left = None if eta is None else float(eta)
    return Progress(int(told.get("step") or 0), int(told["total"]), left, stage)


def next_retraining(status: Object) -> datetime | None:
    """When the next training is due, as the retraining says; None where none is planned."""
    retrain = status.get("retrain")
    if not isinstance(retrain, Mapping):
        return None
    return moment(retrain.get("next"))


def row(workspace: Object, now: datetime, requests_per_second: float | None = None) -> Row:
    """The row of one Workspace as of `now`.

    :param requests_per_second: of its service, None where that is not known.
    """
    status, meta = workspace.get("status") or {}, workspace["metadata"]
    cost, how = status.get("cost"), states.state(workspace)
    adapter = status.get("adapter") or {}
    return Row(
        name=str(meta["name"]),
        namespace=names.namespace(workspace),
        model=redact(model(workspace)),
        kind=kind(workspace),
        state=how.word,
        tone=str(how.tone),
        reason=how.reason,
        machine=str((workspace.get("resource") or {}).get("instanceType") or "own nodes"),
        progress=progress(status),
        adapter=str(adapter.get("digest") or ""),
        served_since=states.served_since(status),
        requests_per_second=requests_per_second,
        usd=records.spent(cost, now),
        unpriced=bool((cost or {}).get("unpriced")),
        usd_per_hour=records.usd_per_hour(cost),
        next_retraining=next_retraining(status),
    )


_TONES = {tone: place for place, tone in enumerate((*states.Tone.__members__.values(),))}
_ORDERS: dict[str, Callable[[Row], Any]] = {
    "name": lambda one: (one.name, one.namespace),
    "namespace": lambda one: (one.namespace, one.name),
    "model": lambda one: one.model,
    "kind": lambda one: one.kind,
    "state": lambda one: (-_TONES[states.Tone(one.tone)], one.state),
    "machine": lambda one: one.machine,
    "progress": lambda one: -(one.progress.percent if one.progress else -1),
    "served": lambda one: one.served_since.timestamp() if one.served_since else float("inf"),
    "requests": lambda one: -1.0 * (-1.0 if one.requests_per_second is None else one.requests_per_second),
    "cost": lambda one: -one.usd,
    "rate": lambda one: -one.usd_per_hour,
    "retraining": lambda one: one.next_retraining.timestamp() if one.next_retraining else float("inf"),
}
SORTS = tuple(_ORDERS)


def arranged(
    rows: Iterable[Row], search: str = "", sort: str = "name", descending: bool = False
) -> list[Row]:
    """The rows that hold every word of `search` in any of their texts, in the order of a column.

    :param sort: one of `SORTS`; anything else is the name. Amounts begin with the dearest, states with the worst.
    """
    words = search.lower().split()
    result = [one for one in rows if all(word in _haystack(one) for word in words)] if words else list(rows)
    result.sort(key=_ORDERS["name"])
    result.sort(key=_ORDERS.get(sort, _ORDERS["name"]), reverse=descending)
    return result


def _haystack(one: Row) -> str:
    texts = one.name, one.namespace, one.model, one.kind, one.state, one.reason, one.machine, one.adapter
    return " ".join(texts).lower()


def summary(rows: Sequence[Row]) -> str:
    """The table in a sentence: how many, how many need somebody, what they cost an hour."""
    bad = sum(one.tone == states.Tone.BAD for one in rows)
    rate = sum(one.usd_per_hour for one in rows)
    trouble = "" if not bad else f", {bad} of them in trouble" if len(rows) > 1 else ", in trouble"
    return f"{plural(f'{len(rows):,}', 'Workspace')}{trouble}; {usd(rate)} an hour."


def cells(one: Row, now: datetime) -> dict[str, str]:
    """The texts of a row that depend on the moment of reading."""
    return {
        "served": until(one.served_since, now),
        "requests": per_second(one.requests_per_second) if one.served_since else "",
        "cost": usd(one.usd) + (" and unpriced machines" if one.unpriced else ""),
        "rate": usd(one.usd_per_hour) if one.usd_per_hour else "",
        "retraining": due(one.next_retraining, now),
    }
