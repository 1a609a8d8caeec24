"""The status's schema says what is written: no field that nobody writes, and none written that it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from include.reconcile.progress import FIELDS
from include.workspace.api import names
from include.workspace.api.crd_status import OURS, status_schema
from tests.support.reconcile.cluster import Obj
from tests.support.reconcile.story import Story, ready, run_ended

#: What these lives do not write: tasks of a run do, retraining, a service that is to sleep, a cloud without machines.
ELSEWHERE = (".adapter", ".model", ".task", ".machines", ".idle", ".retry.reason", ".retrain")


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with nothing unknown allowed, apart from KAITO's own fields."""
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in schema:
        found["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
        found["additionalProperties"] = False
    if isinstance(schema.get("items"), dict):
        found["items"] = strict(schema["items"])
    return found


SCHEMA = jsonschema.Draft202012Validator(strict(status_schema()))


def statuses(story: Story, rounds: int) -> Iterator[Obj]:
    """Every status of a life."""
    for _ in range(rounds):
        if story.cluster.workspace is None:
            return
        said = {"stage": "training", **dict.fromkeys(set(FIELDS) - {"stage"}, 1)}
        look = story.look(progress=said)
        decision = story.shell.decide(look)
        if decision.status is not None:
            yield dict(decision.status)
        story.shell.carry_out(look, decision)
        for run in list(story.airflow.runs.values()):
            story.airflow.advance(run)
        story.cluster.tick()
        story.cluster.advance(5)


def paths(value: Any, path: str = "") -> set[str]:
    """The names of all fields in a value, below one another."""
    if isinstance(value, list):
        return set().union(*(paths(item, path) for item in value))
    if not isinstance(value, dict):
        return {path}
    return {path, *(found for name, child in value.items() for found in paths(child, f"{path}.{name}"))}


def told(schema: dict[str, Any], path: str = "") -> set[str]:
    """The names of all fields that a schema describes."""
    if "items" in schema:
        return told(schema["items"], path)
    inner = schema.get("properties") or {}
    return {path, *(found for name, child in inner.items() for found in told(child, f"{path}.{name}"))}


def life(kind: str, end: str, prices: float | None = 3.6) -> list[Obj]:
    story = Story(kind)
    story.shell.price = prices
    found = list(statuses(story, 25))
    if end == "rerun":
        story.lives(run_ended)
        story.annotate(rerun="again")
    elif end == "budget":
        story.lives(run_ended if kind == "tuning" else ready)
        story.annotate(budget="0.0001")
    elif end == "delete":
        story.cluster.delete("Workspace", story.ws["metadata"]["name"])
    elif end == "secret":
        story.shell.secret = False
        story.edit(variant=7)
    return [*found, *statuses(story, 25)]


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("tuning", "rerun"),
        ("quick", "budget"),
        ("inference", "delete"),
        ("quick", "secret"),
        ("tuning", "budget"),
    ],
)
def test_nothing_is_written_that_the_schema_does_not_know(kind: str, end: str) -> None:
    for status in life(kind, end):
        assert [fault.message for fault in SCHEMA.iter_errors(status)] == []


def test_nothing_is_promised_that_nobody_writes() -> None:
    lives = [life("quick", end) for end in ("rerun", "budget", "secret")] + [life("quick", "", prices=None)]
    lives.append(many_machines())
    written = set().union(*(paths(status) for found in lives for status in found))
    promised = {path for name, schema in OURS.items() for path in told(schema, f".{name}")}
    promised = {path for path in promised if not path.startswith(ELSEWHERE)}
    assert promised - written == set()


def many_machines() -> list[Obj]:
    """So many reruns that the oldest records are summed up."""
    story = Story("tuning")
    for number in range(24):
        story.shell.price = None if number == 1 else 3.6
        story.lives(run_ended)
        story.annotate(rerun=str(number))
        story.reconcile()
    assert story.status["cost"]["earlier"]["nodeSeconds"] > 0
    return [story.status]


def test_a_life_has_a_ledger_that_adds_up() -> None:
    story = Story("quick").lives(ready)
    cost = story.status["cost"]
    assert {record["purpose"] for record in cost["claims"]} == {"tuning", "serving"}
    assert {record["run"] for record in cost["claims"]} == {names.run_id_label(story.status["run"]["id"])}
    assert cost["nodeSeconds"] == cost["usefulNodeSeconds"] + cost["wastedNodeSeconds"]
    assert 0 < cost["usefulNodeSeconds"] < cost["nodeSeconds"]
