"""What the demo's numbers mean."""

import datetime as dt
import json

import pytest

from demo.report import Answer, human_seconds, idle_seconds, write_summary

T0 = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("work", "idle"),
    [
        ([], 100),
        ([(0, 100)], 0),
        ([(-5, 200)], 0),
        ([(10, 20), (15, 30), (50, 60)], 70),
        ([(50, 60), (10, 20)], 80),
        ([(90, 150)], 90),
        ([(10, 60), (20, 30)], 50),
        ([(200, 300)], 100),
    ],
)
def test_idle_is_the_time_that_no_span_covers(work: list[tuple[int, int]], idle: float) -> None:
    assert idle_seconds((at(0), at(100)), [(at(a), at(b)) for a, b in work]) == idle


@pytest.mark.parametrize(
    ("text", "knows"),
    [
        ("Standard_NC6s_v3 has 1 NVIDIA V100 GPU.", True),
        ("standard_nc6s_v3 has 1 nvidia  v100 gpu", True),
        ("It has an A100.", False),
        ("", False),
    ],
)
def test_an_answer_knows_only_with_every_fact(text: str, knows: bool) -> None:
    assert Answer("q", ["1 NVIDIA V100"], text, 0.1).knows is knows


def test_an_answer_with_one_of_two_facts_does_not_know() -> None:
    facts = ["8 NVIDIA H200", "141 GiB"]
    assert Answer("q", facts, "It has 8 NVIDIA H200 GPUs with 141 GiB each.", 0.1).knows
    assert not Answer("q", facts, "It has 8 NVIDIA H200 GPUs with 80 GiB each.", 0.1).knows


def test_the_summary_is_replaced_in_one_piece(tmp_path) -> None:
    path = tmp_path / "demo" / "summary.json"
    write_summary(path, {"passed": False})
    write_summary(path, {"passed": True})
    assert json.loads(path.read_text()) == {"passed": True}
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.4, "59s"), (95, "1m35s"), (600, "10m00s")])
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
