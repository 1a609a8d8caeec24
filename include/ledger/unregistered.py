"""Machines that a cloud charges for and the cluster does not show: those of a pool that have not joined yet.

A cloud bills a machine from its creation, whether it ever becomes a Node or not. Only who has asked it knows of them,
so a record of one stays open until the cloud is asked again or its Node shows up, which takes the record over. It must
never begin a second record for a machine that has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from include.ledger.machines import HeldMachine
from include.pools.observed import UnregisteredCapacity
from include.workspace.status.conditions import moment, timestamp

Record = dict[str, Any]
#: In the uid of such a record, which is POOL/ASKED/NUMBER; no uid of Kubernetes has one.
MARK = "/"


def is_unregistered(record: Record) -> bool:
    """Whether a record is of a machine whose Node nobody has seen."""
    return MARK in str(record.get("uid"))


def expected(cost: dict[str, Any] | None) -> bool:
    """Whether a ledger has a machine that costs and whose Node nobody has seen: its cloud alone knows when it goes."""
    return any(
        is_unregistered(record) and "until" not in record for record in (cost or {}).get("claims") or ()
    )


def joined(records: Sequence[Record], machine: HeldMachine, since: datetime) -> Record | None:
    """The record that a Node's machine had before it joined, none when it had none that was open since then."""
    for record in records:
        until = moment(record.get("until"))
        mine = (
            is_unregistered(record) and record.get("run") == machine.run and _of(_pool(record), machine.node)
        )
        if mine and (until is None or until >= since):
            return record
    return None


def account(
    records: Sequence[Record],
    unregistered: Sequence[UnregisteredCapacity],
    now: datetime,
    price_of: Callable[[str], float | None],
) -> list[Record]:
    """The records with those of unregistered machines as their cloud shows them: ended, going on, or begun."""
    kept = [dict(record) for record in records]
    there = {(one.pool, one.run) for one in unregistered}
    for record in kept:
        if (
            is_unregistered(record)
            and "until" not in record
            and (_pool(record), record.get("run")) not in there
        ):
            record["until"] = timestamp(now)
    for one in unregistered:
        own = [record for record in kept if _is_of(record, one)]
        kept += [_begin(one, number, price_of) for number in range(len(own), one.count)]
    return kept


def _begin(one: UnregisteredCapacity, number: int, price_of: Callable[[str], float | None]) -> Record:
    uid = MARK.join((one.pool, str(int(one.since.timestamp())), str(number)))
    result: Record = {"name": one.pool, "uid": uid, "run": one.run, "purpose": one.purpose}
    result |= {"machine": one.instance_type, "since": timestamp(one.since)}
    price = price_of(one.instance_type)
    return result if price is None else {**result, "usdPerHour": price}


def _pool(record: Record) -> str:
    return str(record.get("uid")).split(MARK)[0]


def _of(pool: str, node: str) -> bool:
    """Whether a Node is of a pool, by its name, as clouds give it: PREFIX-POOL-NUMBER."""
    return f"-{pool}-" in node


def _is_of(record: Record, one: UnregisteredCapacity) -> bool:
    since = moment(record.get("since"))
    named = _pool(record) == one.pool if is_unregistered(record) else _of(one.pool, str(record.get("name")))
    return named and record.get("run") == one.run and since is not None and since >= one.since
