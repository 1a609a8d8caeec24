"""Sniffing, reading and mapping: what files hold, whatever they are called."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.workloads.chat import Conversation
from include.workloads.contract import UserDataError
from include.workloads.dataset import json_rows, text
from include.workloads.dataset.columns import Dropped, Kind, Usable, normalise
from include.workloads.dataset.readers import read_rows
from include.workloads.dataset.sniff import Format, sniff

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def rows_of(path: Path) -> list[Any]:
    return list(read_rows(path, sniff(path, "the file"), "the file", {}))


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("data.pkl", b"x")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as file:
            file.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"<!DOCTYPE html><html><title>Sign in</title>", "HTML page, not a dataset"),
        (b"\xef\xbb\xbf\n<!-- x --><HTML lang=en>", "HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code>', "XML"),
        (pickle.dumps({"a": 1}), "pickle.*can run code"),
        (pickle.dumps({"a": 1}, protocol=2), "pickle"),
        (archive("zip"), "ZIP archive"),
        (archive("tar"), "tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\xff\xfea\x00", "UTF-16"),
        (b"GGUF\x03\x00\x00\x00", "model weights"),
        (b"%PDF-1.7", "PDF"),
        (b"\x00\x01\x02\x03", "unknown kind"),
    ],
)
def test_what_is_no_dataset_is_refused_with_the_reason(content, words, tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(content)
    with pytest.raises(UserDataError, match=words):
        sniff(path, "https://h/train.parquet")


def table() -> pa.Table:
    return pa.table({"messages": [CHAT, CHAT], "extra": [1, 2]})


def write_arrow(path: Path, stream: bool) -> None:
    opener = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, opener(sink, table().schema) as writer:
        writer.write_table(table())


def write_all(folder: Path) -> dict[Path, Format]:
    """The same two rows in every format, all under a name that says nothing."""
    written: dict[Path, Format] = {}
    for form in Format:
        path = folder / f"{form.name}.bin"
        if form is Format.PARQUET:
            pq.write_table(table(), path)
        elif form in (Format.ARROW_FILE, Format.ARROW_STREAM):
            write_arrow(path, form is Format.ARROW_STREAM)
        elif form is Format.JSON_ARRAY:
            path.write_text(json.dumps([{"messages": CHAT}] * 2, indent=2))
        elif form is Format.JSON_LINES:
            path.write_text("\ufeff" + f"{json.dumps({'messages': CHAT})}\n\n" * 2)
        else:
            quoted = json.dumps(CHAT).replace('"', '""')
            path.write_text("\ufeffmessages;n\r\n" + f'"{quoted}";1\r\n' * 2)
        written[path] = form
    return written


def test_every_format_gives_the_same_rows_whatever_its_name(tmp_path):
    for path, form in write_all(tmp_path).items():
        assert sniff(path, "x") is form
        assert [normalise(row) for row in rows_of(path)] == [Usable(Kind.MESSAGES, Conversation(CHAT))] * 2, (
            form
        )


def test_only_the_needed_columns_of_a_parquet_file_are_read(tmp_path):
    pq.write_table(table(), tmp_path / "x")
    names: dict[str, None] = {}
    rows = list(read_rows(tmp_path / "x", Format.PARQUET, "x", names))
    assert list(rows[0]) == ["messages"]
    assert list(names) == ["messages", "extra"]


@pytest.mark.parametrize("form", [Format.PARQUET, Format.ARROW_FILE, Format.ARROW_STREAM, Format.JSON_ARRAY])
def test_a_file_cut_short_is_refused(form, tmp_path):
    path = next(path for path, kind in write_all(tmp_path).items() if kind is form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(UserDataError, match=r"damaged or cut short|not a whole JSON array"):
        rows_of(path)


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "x").write_bytes('text\n"caf\xe9"\n'.encode("latin-1"))
    with pytest.raises(UserDataError, match="UTF-8"):
        rows_of(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1\n', "is not JSON: after 0 values, it ends too early|delimiter"),
        ('{"a": 1\n}\n{"b": \n', "is not JSON: after 1 values"),
        ('[{"a": 1} {"b": 2}]', "',' was expected"),
        ('[{"a": 1}', "ends too early"),
        ('[{"a": 1}, x]', "not a whole JSON array: after 1 values"),
        ("[" * 100_000, "nested too deeply"),
        ('a,b\n"x,y\n', "is not CSV"),
    ],
)
def test_broken_text_is_refused_with_the_place(content, words, tmp_path):
    (tmp_path / "x").write_text(content)
    with pytest.raises(UserDataError, match=words):
        rows_of(tmp_path / "x")


def test_single_bad_rows_are_reasons_not_failures(tmp_path):
    (tmp_path / "x").write_text('{"text": "a"}\n{"text": \n3\n{"text": "b"}\n')
    found = rows_of(tmp_path / "x")
    assert [row.reason for row in found if isinstance(row, Dropped)] == [
        "a line is not JSON",
        "not an object with named values",
    ]
    assert len(found) == 4


def test_an_endless_line_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_ROW_CHARS", 100)
    (tmp_path / "x").write_text('{"text": "' + "y" * 1000)
    with pytest.raises(UserDataError, match="line of more than"):
        rows_of(tmp_path / "x")


def test_csv_keeps_line_breaks_in_cells_and_counts_crooked_rows(tmp_path):
    (tmp_path / "x").write_text('question\tanswer\n"a\nb"\tc\nd\n\ne\tf\n')
    found = rows_of(tmp_path / "x")
    assert found[0] == {"question": "a\nb", "answer": "c"}
    assert found[1] == Dropped("a CSV row has another number of cells than the header")
    assert found[2] == {"question": "e", "answer": "f"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), max_size=12),
    window=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
def test_an_array_reads_the_same_through_any_window(rows, window, indent, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "x"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False).replace("\x00", ""), encoding="utf-8")
    expected = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "WINDOW", window)
        assert list(json_rows.json_array(path, "x")) == expected
