"""What the data report says of the rows, and the limits that stop a run on a CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.workloads.contract import UserDataError
from include.workloads.dataset import content, job, layouts
from include.workloads.dataset.content import Look, look_at, question_key, script_of
from include.workloads.dataset.job import run_job
from include.workloads.dataset.languages import language_model, languages
from include.workloads.dataset.options import Options, options_of
from include.workloads.dataset.page import page
from include.workloads.dataset.request import Request
from include.workloads.tuning import rows as tuning_rows
from include.workloads.tuning.standin import TEMPLATE, _tokenizer
from tests.support.dataset_server import LOOPBACK, Web, send


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    return folder


def write(folder: Path, *pairs: tuple[str, str]) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "tools": None}
        for q, a in pairs
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder / "train.parquet"


def test_lengths_cuts_and_lost_answers(tokenizer: Any, tmp_path: Path) -> None:
    table = write(tmp_path, ("a", "b"), ("a", "b" * 100), ("a" * 100, "b"), ("a", "c"))
    tokens = look_at(table, Look(tokenizer, max_length=60))["tokens"]
    assert (tokens["rows"], tokens["cut_share"], tokens["lost_share"]) == (4, 0.5, 0.25)
    histogram = tokens["histogram"]
    assert sum(histogram["rows"]) == 4
    assert (len(histogram["rows"]) - 1) * histogram["width"] <= tokens["max"]


def test_without_a_tokenizer_nothing_is_said_of_tokens(tmp_path: Path) -> None:
    found = look_at(write(tmp_path, ("a", "b")), Look())
    assert found["tokens"] is None
    assert [piece for sample in found["samples"] for piece in sample] == [("a\n", False), ("b\n", False)]


def test_the_first_three_rows_show_what_is_learnt(tokenizer: Any, tmp_path: Path) -> None:
    found = look_at(write(tmp_path, *((f"q{n}", f"a{n}") for n in range(5))), Look(tokenizer))
    assert len(found["samples"]) == 3
    learnt = ["".join(text for text, is_learnt in sample if is_learnt) for sample in found["samples"]]
    assert [text.partition("<|end|>")[0] for text in learnt] == ["a0", "a1", "a2"]
    assert "q0" in "".join(text for text, is_learnt in found["samples"][0] if not is_learnt)
    assert TEMPLATE  # the stand-in's


def test_long_datasets_are_looked_at_evenly(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "SCANNED_ROWS", 10)
    monkeypatch.setattr(content, "TOKENISED_ROWS", 4)
    table = write(tmp_path, *((f"{n}", "x@y.org" if n % 2 else "none") for n in range(40)))
    found = look_at(table, Look(tokenizer, held_out_share=0.5))
    assert (found["rows"], found["scanned_rows"], found["tokens"]["rows"]) == (40, 10, 4)
    assert found["held_out"]["whole"] is False


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_of_a_small_dataset_as_many_rows_are_told_as_the_training_holds_out(
    share: float, tmp_path: Path
) -> None:
    pairs = [(f"{n}", "a") for n in range(3)]
    told = look_at(write(tmp_path, *pairs), Look(held_out_share=share))["held_out"]
    _, values = tuning_rows.read_table(tmp_path)
    parts = tuning_rows.split([{}] * 3, tuning_rows.digests(values), 1 - share, False, 1)
    assert told["rows"] == len(parts.held_out) > 0


def test_personal_data_is_found_in_thoughts_and_in_what_tools_are_called_with(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "send", "arguments": {"to": "eve@example.com"}}}
    answers: list[dict[str, Any]] = [
        {"role": "assistant", "content": "sent", "reasoning_content": "bob@example.com asks"},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([call])},
    ]
    kind = pa.struct({name: pa.string() for name in ("role", "content", "reasoning_content", "tool_calls")})
    asked = {"role": "user", "content": "send it"}
    table = pa.table({"messages": pa.array([[asked, one] for one in answers], pa.list_(kind))})
    pq.write_table(table, tmp_path / "train.parquet")
    assert look_at(tmp_path / "train.parquet", Look())["personal"]["email addresses"] == 2


def test_a_row_cannot_turn_or_hide_what_the_page_shows(tokenizer: Any, tmp_path: Path) -> None:
    odd = "\u202ednoces \x1b[8mhidden\x00\x85 \u2067\u05d0"
    found = look_at(write(tmp_path, (odd, "a\tb\nc")), Look(tokenizer))
    shown = page(REPORT, found["samples"])
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert "[U+202E]dnoces \u241b[8mhidden\u2400[U+0085] [U+2067]\u05d0" in shown
    assert "a\tb\nc" in shown
    pieces = re.search("<pre>(.*?)</pre>", shown, re.DOTALL)
    assert pieces
    assert re.sub("<bdi[^>]*>[^<]*</bdi>", "", pieces[1]) == "", "each piece is apart from the others"


def test_a_held_out_question_that_is_trained_on_is_counted(tmp_path: Path) -> None:
    same = [(" What is  it?" if n % 2 else "what is it?", f"answer {n}") for n in range(20)]
    held = look_at(write(tmp_path, *same), Look(held_out_share=0.5))["held_out"]
    assert 0 < held["rows"] < 20
    assert held["asked_in_training"] == held["rows"]
    other = look_at(write(tmp_path, *((f"{n}", "a") for n in range(20))), Look(held_out_share=0.5))[
        "held_out"
    ]
    assert other["asked_in_training"] == 0


REPORT = {"sentence": "<i>", "sources": [], "dropped": {}, "digest": "sha256:0", "content": {}}


@given(st.text(max_size=300))
def test_any_text_can_be_searched(text: str) -> None:
    script_of(text)
    question_key(text)


@pytest.mark.parametrize(
    ("text", "script"), [("hello", "latin"), ("привет", "cyrillic"), ("你好", "cjk"), ("12 ?", "none")]
)
def test_writing_systems(text: str, script: str) -> None:
    assert script_of(text) == script


def test_languages_are_named_where_they_can_be_told() -> None:
    texts = [
        "What is the capital of France? The capital is Paris, of course.",
        "Was ist die Hauptstadt von Frankreich? Nat\u00fcrlich Paris.",
        "\u041a\u0430\u043a\u0430\u044f \u0441\u0442\u043e\u043b\u0438\u0446\u0430?",
        "def f(x): return x+1",
        "2 + 2 = 4",
        "",
    ]
    model = language_model()
    assert languages(model, texts) == {"en": 1, "de": 1, "ru": 1, "unknown": 3}
    assert languages(model, []) == {}


def test_the_report_tells_the_languages_of_rows(tmp_path: Path) -> None:
    english = ("Where does the quick brown fox jump?", "It jumps over the lazy dog.")
    german = ("Wo liegt der Hund heute?", "Der Hund liegt auf dem Sofa und schl\u00e4ft.")
    found = look_at(write(tmp_path, english, german, english, english), Look())
    assert found["languages"] == {"en": 0.75, "de": 0.25}


@pytest.mark.parametrize("layout", layouts.LAYOUTS, ids=lambda layout: layout.name)
def test_each_layout_is_known_by_its_columns(layout: layouts.Layout) -> None:
    assert layouts.layout_of(layout.example) == layout.name


def rows(count: int, answer: str = "a") -> bytes:
    return "\n".join(json.dumps({"question": f"q{n}", "answer": answer}) for n in range(count)).encode()


def ask(web: Web, output: Path, body: bytes, options: Options) -> Request:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        known = "If-None-Match" in handler.headers
        send(handler, b"" if known else body, 304 if known else 200, ETag='"e"')

    web.routes["/d.jsonl"] = answer
    return Request(output=output, urls=(web.url("/d.jsonl"),), network=LOOPBACK, options=options)


def test_the_report_and_its_page_lie_beside_the_rows(web: Web, model: Path, tmp_path: Path) -> None:
    body = rows(4, "mail <b>me@example.org</b>")
    result = run_job(ask(web, tmp_path, body + b"\n" + body, Options(tokenizer=model)))
    assert result["findings"] == [
        "4 of 8 rows repeat an earlier row",
        "may be personal data or secrets: email addresses in 8 of 8 rows",
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sources"][0]["layout"] == "question and answer"
    assert report["content"]["personal"]["email addresses"] == 8
    assert "samples" not in report["content"]
    html = (tmp_path / "report.html").read_text()
    assert '<bdi class="learnt">mail &lt;b&gt;me@example.org&lt;/b&gt;' in html
    assert "<b>me@" not in html
    assert re.findall(r"\s(?:src|href)=|url\(", html) == []
    assert "<script" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_duplicate_share": 0.4}, "4 of 8 rows repeat an earlier row, more than 40.0%"),
        (
            {"max_cut_share": 0.05},
            "100.0% of the rows are longer than 16 tokens (TrainingArguments.max_length) and would be cut, more than "
            "5.0%",
        ),
    ],
)
def test_a_limit_stops_the_run_and_the_page_shows_why(
    limits: dict[str, float],
    told: str,
    web: Web,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = rows(4, "a" * 20) + b"\n" + rows(4, "a" * 20)
    strict = Options(tokenizer=model, max_length=16, **limits)
    with pytest.raises(UserDataError, match=re.escape(told)):
        run_job(ask(web, tmp_path, body, strict))
    assert (tmp_path / "report.html").is_file()
    monkeypatch.setattr(job, "_build", lambda *_: pytest.fail("a raised limit fetches nothing again"))
    loose = Options(tokenizer=model, max_length=16, **dict.fromkeys(limits, 1.0))
    assert run_job(ask(web, tmp_path, body, loose))["rows"] == 8


@pytest.mark.parametrize(("count", "told"), [(1, "there is 1 row"), (5, "all 5 rows are the same")])
def test_nothing_to_hold_out_is_told_on_a_cpu(web: Web, tmp_path: Path, count: int, told: str) -> None:
    body = b"\n".join([b'{"question": "q", "answer": "a"}'] * count)
    with pytest.raises(UserDataError, match=f"Rows are to be held out .*, but {told}: none would be left"):
        run_job(ask(web, tmp_path, body, Options(held_out_share=0.1)))
    assert run_job(ask(web, tmp_path, body, Options()))["rows"] == count


def test_another_length_is_looked_at_again_and_nothing_is_fetched(
    web: Web, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in (16, 500):
        if length == 500:
            monkeypatch.setattr(job, "_build", lambda *_: pytest.fail("nothing is fetched again"))
        run_job(ask(web, tmp_path, rows(3), Options(tokenizer=model, max_length=length)))
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["content"]["tokens"]["max_length"] == length


def test_the_limits_are_keys_of_the_training_config() -> None:
    text = (
        "training_config:\n  DatasetConfig: {max_cut_share: 0.05, max_duplicate_share: 0.1, train_test_split: 0.8}\n"
        "  TrainingArguments: {max_length: 512, assistant_only_loss: false}\n"
    )
    options = options_of(text, held_out_share=0.1)
    assert (options.max_cut_share, options.max_duplicate_share, options.max_length) == (0.05, 0.1, 512)
    assert options.held_out_share == pytest.approx(0.2)
    assert options.answers_only is False


def test_a_page_of_a_report_without_anything_is_a_page() -> None:
    assert "&lt;i&gt;" in page(REPORT)


@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 60))
def test_only_the_rows_that_are_looked_at_are_read(count: int, first: int, second: int) -> None:
    """In batches of which some have none of these."""
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(count)]}), out, row_group_size=37)
    with pq.ParquetFile(pa.BufferReader(out.getvalue())) as file, mock.patch.object(content, "BATCH_ROWS", 7):
        read: dict[int, Any] = dict(chain.from_iterable(content._rows(file, first, second)))
    assert sorted(read) == [n for n in range(count) if n < 3 or n % first == 0 or n % second == 0]
    assert all(text == f"row {n}" for n, text in read.items())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_pod_imports_neither_pandas_nor_a_registry_client(tmp_path: Path, form: str) -> None:
    """Both together took as long as the start of all the rest, and 60 MB."""
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3
    (tmp_path / "in").mkdir()
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "rows.parquet")
    else:
        (tmp_path / "in" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = (
        "import sys; from include.workloads.dataset import __main__ as pod; pod.hide_pandas_from_arrow();"
        "found = pod.run_job(pod.from_environment()); assert found['rows'] == 3;"
        "print(sorted({'pandas', 'oras', 'requests'} & set(sys.modules)))"
    )
    env = {**os.environ, "DATASET_PATH": str(tmp_path / "in"), "DATASET_OUTPUT": str(tmp_path / "out")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_the_page_draws_the_lengths_of_rows() -> None:
    tokens = {
        "rows": 6,
        "p50": 12,
        "p95": 31,
        "max": 39,
        "max_length": 20,
        "cut_share": 0.5,
        "lost_share": 0.0,
    }
    tokens |= {"histogram": {"width": 10, "rows": [1, 2, 0, 3]}}
    report = {
        "sentence": "six rows",
        "sources": [],
        "dropped": {},
        "digest": "sha256:1",
        "bytes": 1,
        "rows": 6,
    }
    drawn = page(report | {"content": {"tokens": tokens}})
    assert (
        "Median 12, 95th percentile 31, longest 39 tokens, of 6 rows. 50.0% are longer than 20 and cut"
        in drawn
    )
    assert drawn.count("<rect ") == 4
    assert "<title>30 to 39 tokens: 3 rows</title>" in drawn
    assert 'd="M320.0 0V160"' in drawn, "the line is in the middle of 40 tokens"
    assert ">cut at 20</text>" in drawn
