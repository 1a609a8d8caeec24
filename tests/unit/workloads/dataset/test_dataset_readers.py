"""Files whose rows must not be lost, and files that want more of the machine than they look."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from include.workloads.contract import UserDataError
from include.workloads.dataset import columnar, text
from include.workloads.dataset.columns import Dropped
from include.workloads.dataset.readers import read_rows
from include.workloads.dataset.sniff import Format, sniff
from include.workloads.dataset.unzip import unzipped

A, B = {"question": "1", "answer": "a"}, {"question": "2", "answer": "b"}
MIB = 1 << 20


def rows_of(path: Path) -> list[Any]:
    return list(read_rows(path, sniff(path, "the file"), "the file", {}))


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "x"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        f"[{json.dumps(A)}]\n[{json.dumps(B)}]",
        f"[{json.dumps(A)}]\n{json.dumps(B)}",
        f"[]\n{json.dumps(B)}",
        '{"data": [' + json.dumps(A) + "]}\n" + json.dumps(B),
    ],
)
def test_what_follows_the_end_of_an_array_is_never_passed_over(content: str, tmp_path: Path):
    with pytest.raises(UserDataError, match="something follows its end"):
        rows_of(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps(A, indent=2), [A]),
        (json.dumps(A, indent=2) + "\n" + json.dumps(B, indent=2), [A, B]),
        (json.dumps({"data": [A, B]}), [A, B]),
        (json.dumps({"version": "1.1", "n": 12, "data": [A, B], "note": {"x": 1}}, indent=1), [A, B]),
        (json.dumps({"rows": [A]}) + "\n\n", [A]),
        (json.dumps({"data": [{"role": "user", "content": "x"}]}), [{"data": [{"role": "user", "content": "x"}]}]),
        (json.dumps({"question": "q", "answer": "a", "items": [A]}),
         [{"question": "q", "answer": "a", "items": [A]}]),
        (f"\n{json.dumps(A)}\n\n{json.dumps(B)}\n", [A, B]),
        (f"[{json.dumps(A)},\n{json.dumps(B)}]\n\n ", [A, B]),
    ],
)  # fmt: skip
def test_json_is_read_however_it_is_laid_out(content: str, expected: list[Any], tmp_path: Path):
    assert rows_of(written(tmp_path, content)) == expected


def test_an_object_that_holds_several_sets_of_rows_is_refused(tmp_path: Path):
    with pytest.raises(UserDataError, match="rows in 'train' and in 'validation'"):
        rows_of(written(tmp_path, json.dumps({"train": [A], "validation": [B]})))


def test_rows_in_one_object_need_no_more_memory_than_rows_in_an_array(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(text, "MAX_ROW_CHARS", 200)
    assert rows_of(written(tmp_path, json.dumps({"data": [A] * 100}))) == [A] * 100


@pytest.mark.parametrize("write", ["csv", "parquet", "arrow"])
def test_a_column_that_stands_twice_is_named(write: str, tmp_path: Path):
    path = tmp_path / "x"
    table = pa.table(
        [["q"], ["a"], ["b"]], names=["question", "answer", "Answer" if write == "csv" else "answer"]
    )
    if write == "csv":
        path.write_text("question,answer,Answer\nq,a,b\n")
    elif write == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(UserDataError, match="two columns named 'answer'"):
        rows_of(path)


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACK = {"gzip": lambda content: gzip.compress(content, mtime=0), "zstd": zstd}


@pytest.mark.parametrize("kind", PACK)
def test_packed_files_are_unpacked(kind: str, tmp_path: Path):
    content = json.dumps(A).encode() + b"\n"
    path = written(tmp_path, PACK[kind](content) + PACK[kind](content))
    with unzipped(path, tmp_path / "work", "the file", 1000) as (plain, packed):
        assert packed == kind
        assert rows_of(plain) == [A, A]
    assert not plain.exists()


@pytest.mark.parametrize("kind", PACK)
def test_packed_files_stop_at_the_limit(kind: str, tmp_path: Path):
    path = written(tmp_path, PACK[kind](b"x" * (30 * MIB)))
    assert path.stat().st_size < MIB
    with (
        pytest.raises(UserDataError, match="unpacks to more than 2 MiB"),
        unzipped(path, tmp_path, "x", 2 * MIB),
    ):
        pass
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < MIB


@pytest.mark.parametrize("kind", PACK)
def test_packed_files_that_are_cut_short_are_refused(kind: str, tmp_path: Path):
    path = written(tmp_path, PACK[kind](os.urandom(5000))[:3000])
    with pytest.raises(UserDataError, match=f"cut short.*{kind}"), unzipped(path, tmp_path, "x", MIB):
        pass


def test_a_dictionary_that_unpacks_without_end_meets_the_limit_on_memory(tmp_path: Path, monkeypatch):
    """Each of 60 rows is the dictionary's one entry of 20 MiB."""
    monkeypatch.setattr(columnar, "MAX_CHILD_BYTES", 512 * MIB)
    big = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), pa.array(["a" * (20 * MIB)]))
    pq.write_table(pa.table({"text": big}), tmp_path / "x", compression="zstd")
    assert (tmp_path / "x").stat().st_size < 10_000
    with pytest.raises(UserDataError, match=r"needs more than .* of memory"):
        rows_of(tmp_path / "x")


def test_a_row_that_is_longer_than_any_model_reads_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a" * (40 * MIB)]}), tmp_path / "x", compression="zstd")
    with pytest.raises(UserDataError, match=r"more than|longer than"):
        rows_of(tmp_path / "x")


def offsets_of(numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)


@pytest.mark.parametrize(
    "bad", [[0, 1, 2**31 - 1], [0, 2**30, 3], [0, -5, 3], [2, 1, 0], [2**30, 2**30, 2**30]]
)
@pytest.mark.parametrize("stream", [True, False])
def test_arrow_offsets_out_of_range_are_a_fault_of_the_file(bad: list[int], stream: bool, tmp_path: Path):
    path = tmp_path / "x"
    table = pa.table({"text": ["a", "bc"]})
    with pa.OSFile(str(path), "wb") as sink:
        opener = pa.ipc.new_stream if stream else pa.ipc.new_file
        with opener(sink, table.schema) as writer:
            writer.write_table(table)
    content = path.read_bytes()
    assert content.count(offsets_of([0, 1, 3])) == 1
    assert rows_of(path) == [{"text": "a"}, {"text": "bc"}]
    path.write_bytes(content.replace(offsets_of([0, 1, 3]), offsets_of(bad)))
    with pytest.raises(UserDataError, match="damaged or cut short"):
        rows_of(path)


@pytest.mark.parametrize("signal", ["SEGV", "BUS", "KILL"])
def test_a_reader_that_dies_takes_nobody_with_it(signal: str, tmp_path: Path, monkeypatch):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x")
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nkill -{signal} $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(columnar.sys, "executable", str(fake))  # type: ignore[attr-defined]
    with pytest.raises(UserDataError, match="of memory" if signal == "KILL" else f"ended with SIG{signal}"):
        rows_of(tmp_path / "x")


def test_a_reader_that_ends_early_is_not_believed(tmp_path: Path, monkeypatch):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x")
    fake = tmp_path / "python"
    fake.write_text("""#!/bin/sh\necho '{"text": "a"}'\n""")
    fake.chmod(0o755)
    monkeypatch.setattr(columnar.sys, "executable", str(fake))  # type: ignore[attr-defined]
    with pytest.raises(UserDataError, match="cannot be read"):
        rows_of(tmp_path / "x")


def test_the_reader_ends_with_whoever_reads(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a" * 1000] * 20_000}), tmp_path / "x", compression="none")
    rows = iter(read_rows(tmp_path / "x", Format.PARQUET, "x", {}))
    assert next(rows) == {"text": "a" * 1000}
    rows.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while _children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _children()


def _children() -> list[str]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in found if "columnar" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_values_of_parquet_that_json_has_no_form_for_keep_their_kind(tmp_path: Path):
    import datetime
    from decimal import Decimal

    table = pa.table(
        {
            "question": [datetime.date(2024, 1, 1)],
            "answer": [Decimal("1.10")],
            "context": [b"bytes"],
            "x": [1],
        }
    )
    pq.write_table(table, tmp_path / "x")
    [row] = rows_of(tmp_path / "x")
    assert row["answer"].text == "1.10"
    assert not isinstance(row["question"], str)
    assert list(row) == ["question", "answer", "context"]


def test_a_file_without_known_columns_is_not_read(tmp_path: Path):
    pq.write_table(pa.table({"foo": list(range(10_000))}), tmp_path / "x")
    names: dict[str, None] = {}
    assert list(read_rows(tmp_path / "x", Format.PARQUET, "x", names)) == [Dropped("no usable columns")]
    assert list(names) == ["foo"]


def test_a_csv_row_over_many_lines_is_bounded(tmp_path: Path, monkeypatch):
    from include.workloads.dataset import readers

    monkeypatch.setattr(readers, "MAX_ROW_CHARS", 100)
    with pytest.raises(UserDataError, match="row of more than"):
        rows_of(written(tmp_path, 'question,answer\n"' + "x\n" * 200 + '",a\n'))
    assert len(rows_of(written(tmp_path, "question,answer\n" + "q,a\n" * 200))) == 200


def test_faults_quote_no_data(tmp_path: Path):
    for content in ('[{"a": 1} "SECRET"]', '[1, SECRET]', '{"text": SECRET', "<html><title>SECRET</title>",
                    "<?xml SECRET", 'a,b\n"SECRET"SECRET,x\n'):  # fmt: skip
        with pytest.raises(UserDataError) as fault:
            rows_of(written(tmp_path, content))
        assert "SECRET" not in str(fault.value)
        assert "S" not in str(fault.value).replace("CSV", "").replace("JSON", "")
