"""What the dataset step tells Airflow: all numbers in 4 KiB, and of the first rows what may be shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.workloads.contract import TERMINATION_LIMIT, fit_result
from include.workloads.dataset.brief import LEFT_OUT, MOST_PIECES, brief
from include.workloads.dataset.description import SAMPLES
from include.workloads.dataset.job import run_job
from include.workloads.dataset.personal import kinds_in_each, masked
from include.workloads.dataset.request import Request, from_environment
from tests.support.dataset_server import LOOPBACK, Web

NUMBERS = (
    "tokens",
    "scripts",
    "languages",
    "personal",
    "held_out",
    "scanned_rows",
    "duplicate_rows",
    "layouts",
)


def report(files: int = 1) -> dict[str, Any]:
    source = {"sha256": "a" * 64, "bytes": 10**9, "rows": 10**6, "layout": "question and answer", "etag": "x"}
    shares = {f"language-{number}": 0.1234 for number in range(8)}
    return {
        "rows": 10**6,
        "format": "chat",
        "columns": ["question", "answer"],
        "digest": "sha256:" + "a" * 64,
        "bytes": 10**9,
        "dropped_rows": 7,
        "dropped": {f"reason {number}": 1 for number in range(9)},
        "duplicate_rows": 5,
        "unread": [],
        "sentence": "1000000 of 1000007 rows used",
        "findings": ["5 of 1000000 rows repeat an earlier row"],
        "characters": {"total": 10**9},
        "sources": [
            {"url": f"https://data.example/part-{number}.parquet", **source} for number in range(files)
        ],
        "content": {
            "scanned_rows": 20_000,
            "tokens": {
                **{
                    "rows": 2000,
                    "p50": 120,
                    "p95": 900,
                    "max": 4000,
                    "max_length": 2048,
                    "cut_share": 0.0123,
                },
                **{"lost_share": 0.001, "histogram": {"width": 167, "rows": [1234] * 24}},
            },
            "scripts": {"latin": 1.0},
            "languages": shares,
            "personal": {"email addresses": 3, "phone numbers": 0},
            "held_out": {"share": 0.1, "rows": 2000, "asked_in_training": 4, "whole": False},
        },
    }


ROW = [("Q" * 3000, False), ("A" * 3000, True)]


def test_numbers_and_rows_are_in_the_result_and_fit_a_termination_message() -> None:
    found = brief(report(), [ROW] * 3)
    assert set(NUMBERS) <= set(found)
    assert found["layouts"] == ["question and answer"]
    assert len(found["dropped"]) == 5
    assert fit_result(found) == json.dumps(found, separators=(",", ":")).encode()
    for row in found["samples"]:
        (question, asked), (answer, learnt) = row
        assert (asked, learnt) == (False, True)
        assert question.startswith("QQQ")
        assert LEFT_OUT in question
        assert answer.endswith("AAA")
    assert len(found["samples"]) == 3


def test_rows_give_way_to_numbers() -> None:
    few, some, many = (brief(report(files), [ROW] * 3) for files in (1, 10, 99))
    assert 0 < len(json.dumps(some["samples"])) < len(json.dumps(few["samples"]))
    assert "samples" not in many
    fitted = json.loads(fit_result(many))
    assert fitted["truncated"] == ["sources"]
    assert set(NUMBERS) <= set(fitted)


def test_letters_of_several_bytes_count_as_such() -> None:
    found = brief(report(), [[("語" * 3000, False), ("答" * 3000, True)]] * 3)
    assert found["samples"]
    assert len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()) <= TERMINATION_LIMIT


def test_a_short_text_leaves_its_room_to_a_long_one_and_many_turns_are_cut() -> None:
    ((row,), turns) = (
        brief(report(), [[("Hi", False), ("A" * 700, True)]])["samples"],
        brief(report(), [[("x", number % 2 == 1) for number in range(50)]])["samples"],
    )
    assert row == [["Hi", False], ["A" * 700, True]]
    assert len(turns[0]) == MOST_PIECES + 1
    assert turns[0][-1] == [LEFT_OUT, False]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("write to me@example.org now", "write to [email address] now"),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("DE89 3704 0044 0532 0130 00", "[account]"),
        ("call +49 30 1234 5678", "call [phone]"),
        ("hf_" + "a" * 34, "[key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- x", "[key] x"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", "[key]"),
        ("1 plus 1 is 2", "1 plus 1 is 2"),
    ],
)
def test_what_looks_personal_is_masked(text: str, shown: str) -> None:
    assert masked([text]) == [shown]
    assert kinds_in_each([shown]) == [[]]
    assert brief(report(), [[(text, True)]])["samples"] == [[[shown, True]]]


def asked(web: Web, output: Path, **more: Any) -> Request:
    row = json.dumps({"question": "Who is at me@example.org?", "answer": "Nobody."}).encode()
    return Request(output=output, urls=(web.serve("/d.jsonl", row),), network=LOOPBACK, **more)


def test_a_second_run_over_the_same_data_shows_the_same_rows(web: Web, tmp_path: Path) -> None:
    first = run_job(asked(web, tmp_path))
    assert "".join(text for text, _ in first["samples"][0]).startswith("Who is at [email address]?")
    assert run_job(asked(web, tmp_path))["samples"] == first["samples"]
    assert "me@example.org" not in (tmp_path / "report.json").read_text()
    assert SAMPLES in {one.name for one in tmp_path.iterdir()}


def test_an_installation_may_keep_rows_on_the_volume(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASET_PATH", str(tmp_path))
    assert from_environment().samples
    monkeypatch.setenv("DATASET_SAMPLES", "false")
    assert not from_environment().samples
    found = run_job(asked(web, tmp_path / "out", samples=False))
    assert "samples" not in found
    assert "Nobody" not in json.dumps(found)
