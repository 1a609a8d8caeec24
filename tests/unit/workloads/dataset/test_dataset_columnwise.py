"""Rows that are taken as columns give what they give one by one: the same file, the same digest, the same report."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from include.workloads.chat_template import TemplateCheck
from include.workloads.contract import UserDataError
from include.workloads.dataset import blocks, columnwise, job, writer
from include.workloads.dataset.columnwise import usable_rows
from include.workloads.dataset.digests import Digests
from include.workloads.dataset.job import run_job
from include.workloads.dataset.options import Options
from include.workloads.dataset.request import Request

PLAIN = st.sampled_from(
    ["a", "b c", 'say "x"\n\\', "\u00e9\u4f60", "2024-01-01", "12", "\u2028x", "\x7f\x00\x1f"]
)
ODD = st.sampled_from(["", "  ", "\u00a0", "a</b>", None, 3, 1.10, True, [], ["a"], {"a": 1}, "\ud800"])
TEXT = st.one_of(PLAIN, PLAIN, PLAIN, ODD)
ROLE = st.sampled_from(
    ["user", "assistant", "assistant", "human", "gpt", "system", " User", "tool", "x", None, 1]
)


def message(role: str, content: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {role: ROLE, content: TEXT}, optional={"weight": st.sampled_from([0, 1, None]), "id": ODD}
    )


MESSAGES = st.one_of(
    st.just([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]),
    st.lists(st.one_of(message("role", "content"), message("from", "value")), max_size=3),
    TEXT,
)
PAIR = st.fixed_dictionaries(
    {"instruction": TEXT, "output": TEXT},
    optional={"input": TEXT, "context": TEXT, "system": TEXT, "id": ODD, "History": ODD},
)
ROW = st.one_of(
    st.fixed_dictionaries({"messages": MESSAGES}, optional={"id": ODD, "tools": ODD, "ID": ODD}),
    st.fixed_dictionaries({"conversations": MESSAGES}),
    PAIR,
    st.fixed_dictionaries({"question": TEXT, "answer": TEXT}),
    st.fixed_dictionaries({"input": TEXT, "output": TEXT}),
    st.fixed_dictionaries({"text": TEXT}, optional={"id": ODD}),
)
#: Lines of one file: most files hold one layout, and some lines are nothing at all.
LINES = st.one_of(
    *(st.lists(one, min_size=1, max_size=8) for one in (ROW, PAIR, st.fixed_dictionaries({"text": PLAIN}))),
    st.lists(st.fixed_dictionaries({"messages": MESSAGES}), min_size=1, max_size=8),
)


class Judging(Options):
    """Options with a model's chat template, which has no model."""

    _tokenizer = None
    _template = TemplateCheck(
        lambda messages, tools: "".join(f"<{one['role']}>{one['content']}" for one in messages)
    )


def outcome(folder: Path, rows: str | pa.Table, options: Options) -> tuple[Any, ...]:
    """What a run over one file leaves: its fault, or its report and rows."""
    source, output = folder / "in", folder / "out"
    source.mkdir(parents=True)
    if isinstance(rows, str):
        (source / "rows.jsonl").write_text(rows, encoding="utf-8")
    else:
        pq.write_table(rows, source / "rows.parquet", row_group_size=3)
    try:
        run_job(Request(output=output, folder=source, options=options))
    except UserDataError as error:
        return (str(error).replace(str(folder), ""),)
    report = json.loads((output / "report.json").read_text())
    report["unread"].sort()
    for source_report in report["sources"]:
        source_report["url"] = ""
    report["fingerprint"] = ""
    return report, (output / "train.parquet").read_bytes()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("rows")
    return (root / str(number) for number in range(100_000))


def chat(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


GOOD = chat(("user", "q"), ("assistant", "a"))
#: Each is one step away from a row that is taken as columns.
NEAR: list[dict[str, Any]] = [
    {"text": "  "},
    {"text": "\u00a0"},
    {"text": None},
    {"text": 1.10},
    {"text": "a", "Text": "b"},
    {"text": "a", "output": "b"},
    {"text": "a", "image": "x"},
    chat(("user", " "), ("assistant", "a")),
    chat(("user", "q"), ("assistant", "")),
    chat(("user", "q"), ("assistant", None)),
    chat(("user", "q"), (None, "a")),
    chat(("user", "q"), ("critic", "a")),
    chat(("user", "q")),
    chat((" Human ", "q"), ("GPT", "a")),
    chat(("user", "q"), ("assistant", "<think>x</think>a")),
    chat(("user", "q"), ("assistant", "a"), ("tool", "t")),
    {"messages": []},
    {"messages": None},
    {"messages": [{"role": "user", "content": "q"}, None]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},
    GOOD | {"system": "s"},
    GOOD | {"label": True},
    GOOD | {"id": " "},
    GOOD | {"ID": 1, "id": 2},
    {"instruction": "q", "output": "a", "input": " "},
    {"instruction": "q", "output": "a", "input": "i", "context": "c"},
    {"instruction": "q", "output": "a", "input": ["i"]},
    {"instruction": " ", "output": "a", "input": "i"},
    {"instruction": "q", "output": " "},
    {"instruction": "q", "prompt": "p", "output": "a"},
    {"input": "q", "output": "a", "context": "c"},
]


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("near", NEAR, ids=json.dumps)
def test_one_row_that_is_not_plain_among_plain_ones(
    near: dict[str, Any], place: int, folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    like = {"text": "a"} if "text" in near else GOOD
    if "instruction" in near or near.keys() == {"input", "output", "context"}:
        like = {"instruction": "q", "output": "a"} if "instruction" in near else {"input": "q", "output": "a"}
    rows = [like] * 3
    rows.insert(place, near)
    as_columns, one_by_one = both(folders, "".join(json.dumps(row) + "\n" for row in rows), monkeypatch)
    assert as_columns == one_by_one


def both(folders: Iterator[Path], text: str, patch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Outcome as columns in blocks of a few lines, and row by row; both are judged by a template as well."""
    options = Judging(max_dropped_share=1.0)
    found = []
    for bytes_of_a_block, of_columns in ((400, blocks.json_table), (1 << 20, lambda _: None)):
        patch.setattr(blocks, "BLOCK_BYTES", bytes_of_a_block)
        patch.setattr("include.workloads.dataset.json_rows.json_table", of_columns)
        found.append(outcome(next(folders), text, options))
    return found


def both_of_parquet(folders: Iterator[Path], table: pa.Table) -> list[tuple[Any, ...]]:
    """The outcome of a Parquet file as columns, and row by row."""
    options = Judging(max_dropped_share=1.0)
    found = [outcome(next(folders), table, options)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "usable_rows", lambda _: None)
        found.append(outcome(next(folders), table, options))
    return found


@pytest.mark.parametrize("near", [GOOD, *NEAR[::4]], ids=json.dumps)
def test_parquet_is_read_as_columns_with_the_same_result(
    near: dict[str, Any], folders: Iterator[Path]
) -> None:
    try:
        table = pa.Table.from_pylist([GOOD | near, near] if "messages" in near else [near] * 2)
    except pa.ArrowException:
        pytest.skip("no column has such values")
    as_columns, one_by_one = both_of_parquet(folders, table)
    assert as_columns == one_by_one


SAID = pa.array([[{"role": "user", "content": "q"}, {"role": "assistant", "content": 'a "b"\n'}]] * 5)


@pytest.mark.parametrize(
    "column",
    [
        SAID,
        SAID.cast(pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))),
        SAID.cast(
            pa.list_(pa.struct([("role", pa.dictionary(pa.int32(), pa.string())), ("content", pa.string())]))
        ),
        SAID.slice(2, 2),
    ],
    ids=["plain", "large", "dictionary", "slice"],
)
def test_conversations_of_every_type_of_arrow_are_taken_as_columns(
    column: pa.Array, folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(job, "usable_rows", lambda table: taken.append(table.num_rows) or usable_rows(table))
    table = pa.table({"messages": column, "id": pa.array(range(len(column)))})
    found = outcome(next(folders), table, Options())
    assert not isinstance(found[0], str), found
    assert found[0]["rows"] == sum(taken) == len(column)
    assert both_of_parquet(folders, table)[1] == found


@given(LINES, st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
@example([{"text": "a"}] * 5, "\r")
@example([{"text": "2024-01-01"}, {"text": "2024-01-02"}], "\n")
@example([{"text": "\ud800"}], "\n")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_columns_is_as_row_by_row(folders: Iterator[Path], rows: list[Any], end: str) -> None:
    text = "".join(json.dumps(row) + end for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "GROUP_ROWS", 3)
        as_columns, one_by_one = both(folders, text, patch)
    assert as_columns == one_by_one


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "a"}{"text": "b"}\n',
        '{"text":\n"a"}\n{"text": "b"}\n',
        '{"text": "a"} x\n{"text": "b"}\n',
        '{"text": "a", "text": "b"}\n{"text": "c"}\n',
        '{"text": "a", "x": {"y": 1, "y": 2}}\n{"text": "c"}\n',
        '\ufeff{"text": "a"}\n{"text": "b"}',
        '{"text": "a", "n": 1e999, "m": 123456789012345678901234567890}\n',
        '{"text": "a"}\rx\n{"text": "b"}\n',
        '{"text": "a"}\n{"text":\n"b"}{"text": "c"}\n',
        '{"text": "a"}\n{"text": "b"}{"text": "c"}\n',
        '{"text": "a"}\n{"text": "b"\r}\n',
        '{"text": "a"}\n[1]\n3\nnull\n{"text": "b"}\n',
        '{"text": "\\ud83d\\ude00 \\u0000"}\n',
        '{"text": "a", "n": NaN}\n',
        '{"text": "a"}\n{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n',
    ],
)
def test_lines_that_readers_take_for_different_things(
    text: str, folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_columns, one_by_one = both(folders, text, monkeypatch)
    assert as_columns == one_by_one


@pytest.mark.parametrize(
    "block",
    [
        b'{"text": "a"}\n{"text":\n"b"}{"text": "c"}\n',
        b'{"text": "a"}\n{"text": "b"}{"text": "c"}\n',
        b'{"text": "a"}\n{"text": "b"\r}\n{"text": "c"}\n',
    ],
    ids=["a line that is no object", "two objects a line", "a line that ends in CR alone"],
)
def test_what_arrow_takes_for_rows_and_python_does_not_is_no_table(block: bytes) -> None:
    taken = pyarrow.json.read_json(io.BytesIO(block))
    assert taken.num_rows == 3, "else another guard than the one that is meant would refuse it"
    assert blocks.json_table(block) is None


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "input": "", "output": "a"},
        {"question": "q", "answer": "a", "source": "2024-01-01"},
        {"text": "a"},
    ],
)
def test_plain_layouts_are_taken_as_columns(row: dict[str, Any]) -> None:
    """Else the test above would hold and nothing be won."""
    found = blocks.json_table((json.dumps(row) + "\n").encode() * 10)
    assert found is not None
    rows = usable_rows(found[0])
    assert rows is not None
    assert len(rows) == 10


@given(
    st.lists(st.text(st.sampled_from("a \t\x1c\x85\u00a0\u3000\u3042\u200b\x00"), max_size=3)),
    st.integers(0, 3),
)
def test_a_text_is_blank_where_python_says_so(texts: list[str], skipped: int) -> None:
    array = pa.array(["\u3000", *texts, "x"], pa.string())[1:-1][skipped:]
    assert columnwise._blank(array).tolist() == [not text.strip() for text in texts[skipped:]]


def test_every_space_of_unicode_begins_as_the_table_says() -> None:
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    assert all(columnwise._MAY_BE_BLANK[space.encode()[0]] for space in spaces)


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ('{"a": 1}', 1),
        ('{"a": 1}\n{}\n', 2),
        ('\n{"a": 1}\r\n\n  {}  \n', 2),
        ('{"a":\n1}', 0),
        ("{}\n[]\n{}", 0),
        ("{}\n}{\n{}", 0),
        ("\n\n", 0),
        ("\n", 0),
    ],
)
def test_lines_are_counted_where_all_of_them_look_like_objects(lines: str, count: int) -> None:
    assert blocks._objects(lines.encode()) == count


@given(
    st.lists(st.sampled_from(["{}", '{"a": "\u00e9"}', "", "x" * 30]), min_size=1),
    st.integers(1, 40),
    st.booleans(),
)
def test_blocks_are_the_file_in_whole_lines(lines: list[str], size: int, marked: bool) -> None:
    text = "\n".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", size)
        (Path(folder) / "rows").write_bytes((b"\xef\xbb\xbf" if marked else b"") + text)
        found = list(blocks.line_blocks(Path(folder) / "rows"))
    assert b"".join(found) == text
    assert all(block.endswith(b"\n") for block in found[:-1])


def test_groups_end_where_they_end_row_by_row(
    folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GROUP_CHARS", 40)
    text = "".join(json.dumps({"text": "x" * (number % 23 + 1)}) + "\n" for number in range(300))
    as_columns, one_by_one = both(folders, text, monkeypatch)
    assert as_columns == one_by_one


def test_a_fault_of_the_writing_thread_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(job.WorkloadError, match=r"(?i)space|full"):  # type: ignore[attr-defined]
        run_job(Request(output=tmp_path / "out", folder=tmp_path / "in"))


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_fault_of_any_group_ends_the_run(
    broken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = pq.ParquetWriter.write_table, iter(range(100))

    def once_full(self: Any, *args: Any, **options: Any) -> None:
        if next(calls) == broken:
            raise OSError(28, "No space left on device")
        write(self, *args, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", once_full)
    monkeypatch.setattr(writer, "GROUP_ROWS", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text('{"text": "a"}\n' * 3)
    with pytest.raises(job.WorkloadError, match=r"(?i)space|full"):  # type: ignore[attr-defined]
        run_job(Request(output=tmp_path / "out", folder=tmp_path / "in"))
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_digest_is_over_all_rows_in_their_order_however_they_came(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * number}) for number in range(1, 40)]
    lines[20] = json.dumps(
        {"Text": "x" * 21}
    )  # this block goes row by row, those before and after it as columns
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", 100)
        found = run_job(Request(output=tmp_path / "out", folder=tmp_path / "in"))
    wanted = Digests()
    wanted.add(pa.record_batch({"text": ["x" * number for number in range(1, 40)]}))
    assert found["digest"] == wanted.dataset


@pytest.mark.parametrize(
    ("said", "doubtful"), [("<think>x</think>", True), ("a <", True), ("a < b / c", False)]
)
def test_texts_that_a_template_may_cut_are_looked_at_one_by_one(said: str, doubtful: bool) -> None:
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": "/b"}]
    rows = usable_rows(pa.Table.from_pylist([{"messages": messages}]))
    assert rows is not None
    assert (rows.shapes() is None) is doubtful
