"""Which rows of a dataset are new and which are gone, by the digests that lie beside the last version's adapter."""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts import adapter_record
from include.contracts.network_policy import NetworkPolicy
from include.contracts.row_changes import RowChanges
from include.workloads.adapter.referrer import push_files, push_record
from include.workloads.contract import UserDataError
from include.workloads.dataset.job import run_job
from include.workloads.dataset.request import Request, from_environment
from include.workloads.dataset.row_digests import compare, write
from tests.support.dataset_server import Web
from tests.support.registry_server import Registry, registry

__all__ = ["registry"]
NETWORK = NetworkPolicy.of(("127.0.0.0/8",))
SUBJECT = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "sha256:" + "a" * 64,
    "size": 7,
}


def kept(folder: Path, name: str, rows: list[str]) -> Path:
    path = folder / name
    write(array("Q", map(ord, rows)), path)
    return path


ROWS = st.lists(st.sampled_from("abcdefgh"), max_size=30)


@given(ROWS, ROWS, st.integers(1, 5))
def test_each_row_counts_as_often_as_it_is_there_in_any_order_and_in_parts_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], now: list[str], at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    found = compare(kept(folder, "now", now), kept(folder, "before", before), at_once)
    assert found.added == (Counter(now) - Counter(before)).total()
    assert found.removed == (Counter(before) - Counter(now)).total()
    assert len(before) + found.added - found.removed == len(now)


def test_a_file_that_is_cut_short_is_no_list_of_digests(tmp_path: Path) -> None:
    now = kept(tmp_path, "now", ["a"])
    (tmp_path / "cut").write_bytes(b"1234567")
    with pytest.raises(UserDataError, match="its 7 bytes are no multiple of 8"):
        compare(now, tmp_path / "cut")


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(1, 3))
def test_what_is_no_sorted_list_comes_to_an_end_all_the_same(
    tmp_path_factory: pytest.TempPathFactory, now: bytes, before: bytes, at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "now").write_bytes(now)
    (folder / "before").write_bytes(before)
    with contextlib.suppress(UserDataError):
        compare(folder / "now", folder / "before", at_once)


def test_changes_are_words_for_people() -> None:
    assert str(RowChanges(120, 3)) == "+120 \u22123 rows"


def lines(*questions: str) -> bytes:
    return "\n".join(json.dumps({"question": one, "answer": "a"}) for one in questions).encode()


def pushed(registry: Registry, data: Path, folder: Path) -> str:
    """The digests of a finished dataset beside an adapter, as a tuning leaves them."""
    folder.mkdir()
    (folder / adapter_record.REPRODUCE).write_text(json.dumps({"adapter_sha256": "abc"}))
    (folder / adapter_record.ROW_DIGESTS).write_bytes((data / adapter_record.ROW_DIGESTS).read_bytes())
    digest = push_record(registry.client(), folder, SUBJECT, "abc")["rows"]
    return f"127.0.0.1:{registry.port}/team/phi@{digest}"


def test_the_next_version_is_compared_with_what_lies_beside_the_adapter(
    web: Web,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    first, second = tmp_path / "first", tmp_path / "second"
    url = web.serve("/rows.jsonl", lines("one", "two", "three"))
    result = run_job(Request(output=first, urls=(url,), network=NETWORK))
    assert "added" not in result
    known = pushed(registry, first, tmp_path / "record")

    # Other formats and another order are the same rows.
    parts = [json.dumps([{"answer": "a", "question": one} for one in ("four", "two", "one", "five")])]
    url = web.serve("/rows.json", parts[0].encode())
    again = Request(output=second, urls=(url,), network=NETWORK, known_rows=known)
    result = run_job(again)
    assert (result["rows"], result["added"], result["removed"]) == (4, 2, 1)
    assert not [path for path in second.iterdir() if path.is_dir()]
    assert run_job(again)["added"] == 2, "also when there is nothing else to do"

    gone = Request(output=second, urls=(url,), network=NETWORK, known_rows=f"{known[:-64]}{'b' * 64}")
    assert "added" not in run_job(gone), "what cannot be told stops nobody"
    assert "only their number counts" in caplog.text


CALL = {"function": {"arguments": {"b": 1, "a": "\u00e9"}, "name": "f"}}
ASKED, CALLED = {"role": "user", "content": "one"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}
#: What a row was known by in releases before: its JSON text, with sorted keys and without what is null.
FORMER = [
    ({"text": 'say "\u00e9"'}, '"say \\"\u00e9\\""'),
    (
        {"question": "one", "answer": "a"},
        '[{"content":"one","role":"user"},{"content":"a","role":"assistant"}]',
    ),
    (
        {
            "messages": [
                ASKED,
                CALLED,
                {"role": "tool", "content": "2"},
                {"role": "assistant", "content": "2"},
            ]
        },
        '[{"content":"one","role":"user"},{"content":"","role":"assistant",'
        r'"tool_calls":"[{\"function\":{\"name\":\"f\",\"arguments\":{\"b\":1,\"a\":\"é\"}}}]"},'
        '{"content":"2","role":"tool"},{"content":"2","role":"assistant"}]',
    ),
    (
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": "a", "weight": 0},
                ASKED,
                {**CALLED, "content": "b"},
            ]
        }
        | {"tools": [{"name": "f"}]},
        '[[{"content":"one","role":"user"},{"content":"a","role":"assistant","weight":0},'
        '{"content":"one","role":"user"},{"content":"b","role":"assistant",'
        r'"tool_calls":"[{\"function\":{\"name\":\"f\",\"arguments\":{\"b\":1,\"a\":\"é\"}}}]"}],'
        r'"[{\"name\":\"f\"}]"]',
    ),
]


def _sorted(*rows: bytes) -> bytes:
    return array(
        "Q", sorted(array("Q", b"".join(hashlib.sha256(row).digest()[:8] for row in rows)))
    ).tobytes()


@pytest.mark.parametrize(("row", "text"), FORMER)
def test_what_an_earlier_release_left_beside_an_adapter_is_compared_with(
    row: dict[str, object], text: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    before = tmp_path / "before"
    before.write_bytes(_sorted(text.encode(), b"gone"))
    digest = push_files(
        registry.client(), SUBJECT, adapter_record.FORMER_ROWS, {"rows.digests": ("a/b", before)}
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.json").write_text(json.dumps([row, row]))
    known = f"127.0.0.1:{registry.port}/team/phi@{digest}"
    result = run_job(Request(output=tmp_path / "out", folder=tmp_path / "in", known_rows=known))
    assert (result["rows"], result["added"], result["removed"]) == (2, 1, 1)


def test_the_pod_is_told_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATASET_PATH", str(tmp_path))
    monkeypatch.setenv("KNOWN_ROWS", "r.io/phi@sha256:1 ")
    assert from_environment().known_rows == "r.io/phi@sha256:1"
