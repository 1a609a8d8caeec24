"""The report: every source's books together count each second once, whatever the grouping, window or format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.cli import cost as command
from include.ledger import events, records, report, sources
from include.ledger.books import EARLIER, Book, entries, of_event, of_workspace, within
from include.workspace.status.conditions import timestamp

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TYPES = {"Standard_NC6s_v3": 3.06, "Standard_NC24ads_A100_v4": 3.673, "Standard_NC4_A16": None}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def record(uid: str, run: str, since: float, until: float | None, **more: Any) -> dict[str, Any]:
    kind = more.pop("machine", "Standard_NC6s_v3")
    found = {
        "name": uid,
        "uid": uid,
        "run": run,
        "purpose": "tuning",
        "machine": kind,
        "since": timestamp(at(since)),
    }
    if until is not None:
        found["until"] = timestamp(at(until))
    if TYPES[kind] is not None:
        found["usdPerHour"] = TYPES[kind]
    return {**found, **more}


def live(name: str, claims: list[dict[str, Any]], now: float, **cost: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": f"ns-{name[0]}", "uid": f"uid-{name}"}
    return {"metadata": meta, "status": {"cost": {**records.summed(claims, at(now)), **cost}}}


def event_of(workspace: dict[str, Any], run: str, now: float) -> dict[str, Any]:
    meta = workspace["metadata"]
    subject = events.Subject(meta["name"], meta["namespace"], meta["uid"])
    cost = workspace["status"]["cost"]
    return events.of_run(cost, run=run, dag="kaito_tune", workspace=subject, outcome="success", now=at(now))


def books(*found: Book | None) -> list[Book]:
    return [book for book in found if book]


def hours(found: list[Any]) -> float:
    return sum(entry.seconds for entry in found) / 3600


def test_a_run_in_status_and_event_is_counted_once() -> None:
    workspace = live("a", [record("m", "r1", 0, 3600)], 4000)
    found = entries(books(of_workspace(workspace, at(4000)), of_event(event_of(workspace, "r1", 3700))))
    assert [(e.run, e.seconds, round(e.usd, 4)) for e in found] == [("r1", 3600, 3.06)]


def test_a_run_that_tuned_and_served_on_one_machine_has_both_counted() -> None:
    claims = [record("m", "r1", 0, 3600), record("m", "r1", 3600, 5400, purpose="serving")]
    workspace = live("a", claims, 6000)
    told = of_workspace(workspace, at(6000)), of_event(event_of(workspace, "r1", 5500))
    for some in (told, told[:1], told[1:]):
        found = entries(books(*some))
        assert sorted((e.purpose, e.seconds) for e in found) == [("serving", 1800), ("tuning", 3600)]
        assert report.total(found).machines == 1, "it is one machine"


def test_the_end_that_a_later_event_tells_wins_over_a_machine_that_was_held() -> None:
    serving = live("a", [record("m", "r1", 0, None, purpose="serving")], 600)
    gone = live("a", [record("m", "r1", 0, 7200, purpose="serving")], 7300)
    first, last = of_event(event_of(serving, "r1", 600)), of_event(event_of(gone, "r1", 7300))
    for told in ([first, last], [last, first]):
        assert hours(entries(books(*told))) == 2.0
    held = entries(books(first))
    assert (held[0].open, held[0].seconds) == (True, 600), "counted to the moment that it was last heard of"


def test_a_machine_that_is_held_is_counted_up_to_now() -> None:
    found = entries(books(of_workspace(live("a", [record("m", "r1", 0, None)], 10), at(3600))))
    assert (found[0].open, hours(found)) == (True, 1.0)


def test_what_a_status_only_sums_up_is_told_apart_by_events() -> None:
    claims = [record(f"m{n}", f"r{n}", n * 100, n * 100 + 60) for n in range(25)]
    workspace = live("a", claims, 9000)
    assert workspace["status"]["cost"]["earlier"]["nodeSeconds"] == 5 * 60
    alone = entries(books(of_workspace(workspace, at(9000))))
    assert [round(e.seconds) for e in alone if e.run == EARLIER] == [300]
    first = live("a", claims[:3], 500)
    told = [of_event(event_of(first, f"r{n}", 500)) for n in range(3)]
    both = entries(books(of_workspace(workspace, at(9000)), *told))
    assert [round(e.seconds) for e in both if e.run == EARLIER] == [120]
    assert hours(both) == hours(alone) == 25 * 60 / 3600


def test_a_window_takes_its_share() -> None:
    found = entries(
        books(of_workspace(live("a", [record("m", "r1", 0, 3600, workedSeconds=1800)], 4000), NOW))
    )
    half = within(found, at(900), at(2700))
    assert (half[0].seconds, half[0].useful_seconds, round(half[0].usd, 2)) == (1800, 900, 1.53)
    assert within(found, at(3600), None) == []


CLAIMS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 5000), st.integers(1, 5000),
        st.integers(0, 9000), st.sampled_from(sorted(TYPES)), st.sampled_from([None, "failed", "success"]),
    ),
    max_size=40,
)  # fmt: skip


@given(CLAIMS, st.integers(0, 10000))
def test_the_sum_of_any_grouping_is_the_sum_of_all(claims: Any, cut: int) -> None:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for number, (name, run, begin, length, worked, kind, outcome) in enumerate(claims):
        more = {"workedSeconds": worked, **({"outcome": outcome} if outcome else {})}
        by_name.setdefault(name, []).append(
            record(f"m{number}", f"r{run}", begin, begin + length, machine=kind, **more)
        )
    told: list[Book | None] = []
    for name, found in by_name.items():
        workspace = live(name, found, 20000)
        told += [
            of_workspace(workspace, at(20000)),
            of_event(event_of(live(name, found[:5], 9), "r1", 20000)),
        ]
    counted = entries(books(*told))
    exact = sum(length for _, _, _, length, *_ in claims)
    assert sum(e.seconds for e in counted) == pytest.approx(exact, abs=1)
    whole = report.total(counted)
    for by in report.GROUPINGS:
        rows = report.grouped(counted, by)
        assert sum(row.seconds for row in rows) == pytest.approx(whole.seconds)
        assert sum(row.usd for row in rows) == pytest.approx(whole.usd)
        assert sum(row.useful_seconds for row in rows) == pytest.approx(whole.useful_seconds)
        assert all(0 <= row.useful_seconds <= row.seconds + 1e-6 for row in rows)
    timed = [e for e in counted if e.since]
    before, after = within(timed, None, at(cut)), within(timed, at(cut), None)
    assert hours(before) + hours(after) == pytest.approx(hours(timed)), "a cut loses nothing"


# -- the command -----------------------------------------------------------------------------------------------------


def airflow(extras: list[Any]) -> Callable[[httpx.Request], httpx.Response]:
    """An Airflow that knows one user and gives its events by two."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            known = request.method == "POST" and json.loads(request.content)["password"] == "right"
            return httpx.Response(201 if known else 401, json={"access_token": "t"})
        assert request.headers["Authorization"] == "Bearer t"
        assert request.url.params["name_pattern"] == "kaito_ledger"
        offset = int(request.url.params["offset"])
        page = [{"name": "kaito_ledger", "extra": extra} for extra in extras[offset : offset + 2]]
        return httpx.Response(200, json={"asset_events": page, "total_entries": len(extras)})

    return answer


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = live("gone", [record("m", "ns-g.gone.r1", 0, 3600, workedSeconds=2880)], 4000)
    dear = live("dear", [record("n", "ns-d.dear.r1", 0, 7200, machine="Standard_NC24ads_A100_v4")], 8000)
    odd = live("odd", [record("o", "ns-o.odd.r1", 0, 1800, machine="Standard_NC4_A16")], 8000)
    extras = [
        event_of(gone, "ns-g.gone.r1", 4000),
        {},
        event_of(gone, "ns-g.gone.r1", 4000),
        events.refused("kaito_tune", "never"),
        event_of(dear, "ns-d.dear.r1", 8000),
        event_of(odd, "ns-o.odd.r1", 8000),
    ]
    transport = httpx.MockTransport(airflow(extras))
    monkeypatch.setattr(sources.httpx, "Client", partial(httpx.Client, transport=transport))  # type: ignore[attr-defined]
    monkeypatch.setenv(sources.USERNAME, "admin")
    monkeypatch.setenv(sources.PASSWORD, "right")


AIRFLOW = ["--no-cluster", "--airflow", "http://airflow.example"]


def test_the_table_is_for_people(remembered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*AIRFLOW, "--by", "workspace"]) == 0
    assert capsys.readouterr().out == (
        "NAMESPACE  WORKSPACE  MACHINES  HOURS  USEFUL     USD  WASTED\n"
        "ns-d       dear              1   2.00      0%    7.35    7.35\n"
        "ns-g       gone              1   1.00     80%    3.06    0.61\n"
        "ns-o       odd               1   0.50      0%   0.00*    0.00\n"
        "TOTAL                        3   3.50     23%  10.41*    7.96\n"
        "* with machines whose price is not known: the dollars are too few\n"
    )


def test_csv_and_json_say_the_same(remembered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*AIRFLOW, "--by", "machine", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert command.main([*AIRFLOW, "--by", "machine", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["machine"] for row in rows] == [row["machine"] for row in told["rows"]]
    assert sum(float(row["usd"]) for row in rows) == pytest.approx(told["total"]["usd"])
    assert sum(int(row["nodeSeconds"]) for row in rows) == told["total"]["nodeSeconds"] == 3.5 * 3600


def test_one_namespace_and_a_window(remembered: None, capsys: pytest.CaptureFixture[str]) -> None:
    window = ["--since", "2026-11-23T12:30", "--until", "2026-11-24", "-n", "ns-g", "-o", "json"]
    assert command.main([*AIRFLOW, *window]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["nodeSeconds"] == 1800


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--since", "yesterday"], 2, "no day and no moment"),
        (["--since", "2026-11-24", "--until", "2026-11-23"], 2, "--since must be before --until"),
        (["--no-cluster"], 2, "--airflow says whom to ask"),
        (["--by", "team"], 2, "invalid choice"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIRFLOW_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(401), "set AIRFLOW_TOKEN"),
        (httpx.Response(500), "answers 500"),
        (httpx.Response(200, text="<html>"), "does not answer as its API server does"),
        (httpx.ConnectError("refused"), "does not answer as its API server does: ConnectError"),
    ],
)
def test_an_airflow_that_cannot_be_read_is_a_sentence(
    answer: Any, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sources.httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(reply)))  # type: ignore[attr-defined]
    monkeypatch.setenv(sources.USERNAME, "admin")
    monkeypatch.setenv(sources.PASSWORD, "s3cret")
    assert command.main(AIRFLOW) == 1
    told = capsys.readouterr()
    assert words in told.err
    assert "s3cret" not in told.err + told.out
    assert told.out == ""
