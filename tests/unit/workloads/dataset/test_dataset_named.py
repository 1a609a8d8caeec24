"""Columns that the training config names are the ones that are learnt, or it is said that they are not there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.workloads.contract import UserDataError
from include.workloads.dataset.job import run_job
from include.workloads.dataset.options import Options, options_of
from include.workloads.dataset.request import Request
from include.workspace.validation.training_config import config_faults, config_notices
from tests.support.dataset_server import LOOPBACK, Web

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def config(**columns: str) -> str:
    return json.dumps({"training_config": {"DatasetConfig": columns}})


def options(**columns: str) -> Options:
    assert config_faults(config(**columns), "lora") == []
    assert config_notices(config(**columns)) == []
    return options_of(config(**columns))


def body(form: str, rows: list[dict[str, Any]]) -> bytes:
    if form == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    if form == "csv":
        return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]).encode()
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def learnt(
    web: Web, output: Path, content: bytes, **columns: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    asked = Request(
        output=output, urls=(web.serve("/d", content),), network=LOOPBACK, options=options(**columns)
    )
    result = run_job(asked)
    return pq.read_table(output / "train.parquet").to_pylist(), result


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_question_and_an_answer_under_any_name(web: Web, tmp_path: Path, form: str) -> None:
    rows = [{"Ticket": "broken", "Reply": "mended", "prompt": "not this", "n": 1}]
    found, result = learnt(web, tmp_path, body(form, rows), context_column="ticket ", response_column="Reply")
    assert [(m["role"], m["content"]) for m in found[0]["messages"]] == [
        ("user", "broken"),
        ("assistant", "mended"),
    ]
    assert sorted(result["unread"]) == ["n", "prompt"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_chats_under_any_name_keep_their_system_prompt(web: Web, tmp_path: Path, form: str) -> None:
    rows = [{"thread": CHAT, "system": "Be short.", "messages": [{"role": "user", "content": "other"}]}]
    found, _ = learnt(web, tmp_path, body(form, rows), messages_column="thread")
    assert [m["content"] for m in found[0]["messages"]] == ["Be short.", "q", "a"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_response_alone_is_plain_text(web: Web, tmp_path: Path, form: str) -> None:
    found, _ = learnt(web, tmp_path, body(form, [{"story": "once", "text": "no"}]), response_column="story")
    assert found == [{"text": "once"}]


def test_kaitos_default_names_nothing(web: Web, tmp_path: Path) -> None:
    found, _ = learnt(web, tmp_path, body("jsonl", [{"messages": CHAT}]), response_column="text")
    assert [m["content"] for m in found[0]["messages"]] == ["q", "a"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(web: Web, tmp_path: Path, form: str) -> None:
    content = body(form, [{"question": "q", "answer": "a"}])
    with pytest.raises(UserDataError) as told:
        learnt(web, tmp_path, content, context_column="ticket", response_column="answer")
    assert "no column 'ticket' (DatasetConfig.context_column); found: 'question', 'answer'" in str(told.value)


def test_a_row_without_the_column_is_dropped_and_counted(web: Web, tmp_path: Path) -> None:
    rows = [{"story": "once"}, {"story": "twice"}, {"text": "thrice"}]
    found, result = learnt(web, tmp_path, body("jsonl", rows), response_column="story")
    assert len(found) == 2
    assert result["dropped"] == {"there is no column 'story' (DatasetConfig.response_column)": 1}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"context_column": "a"}, "needs response_column"),
        ({"context_column": "a", "response_column": "A"}, "the same column"),
        ({"messages_column": "m", "response_column": "a"}, "cannot stand beside"),
        ({"messages_column": "m", "context_column": "a", "response_column": "b"}, "cannot stand beside"),
    ],
)
def test_columns_that_make_no_layout_are_refused_by_check(columns: dict[str, str], words: str) -> None:
    assert any(
        words in str(fault) and fault.rule == "F12" for fault in config_faults(config(**columns), "lora")
    )


def test_other_columns_make_another_dataset() -> None:
    identities = [options(**c).identity for c in ({}, {"response_column": "a"}, {"response_column": "b"})]
    assert len({json.dumps(one) for one in identities}) == 3
