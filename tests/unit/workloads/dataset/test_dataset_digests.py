"""What a dataset and its rows are known by: the same in whatever batches they come, and of nothing but their values."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from include.workloads.dataset.columns import Kind
from include.workloads.dataset.digests import Digests
from include.workloads.dataset.writer import SCHEMAS

TEXT = st.one_of(st.sampled_from(["", "a", "ab", "\u00e9\u4f60", '"\n\\']), st.text(max_size=5))
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": TEXT},
    optional={"reasoning_content": TEXT, "name": TEXT, "tool_calls": TEXT, "weight": st.just(0)},
)
MESSAGES = st.lists(MESSAGE, min_size=1, max_size=3)
TOOLS = st.one_of(st.none(), TEXT)
ROWS = {
    Kind.TEXT: st.fixed_dictionaries({"text": TEXT}),
    Kind.MESSAGES: st.fixed_dictionaries({"messages": MESSAGES, "tools": TOOLS}),
    Kind.PAIRS: st.fixed_dictionaries({"messages": MESSAGES, "tools": TOOLS, "rejected": MESSAGES}),
    Kind.MARKED: st.fixed_dictionaries({"messages": MESSAGES, "tools": TOOLS, "good": st.booleans()}),
}
KINDS = st.sampled_from([*Kind])


def digests(kind: Kind, rows: Sequence[dict[str, Any]], *ends: int) -> Digests:
    found = Digests()
    for begin, end in zip([0, *ends], [*ends, len(rows)], strict=True):
        found.add(pa.RecordBatch.from_pylist(rows[begin:end], schema=SCHEMAS[kind]))
    return found


def plain(kind: Kind, rows: Sequence[dict[str, Any]]) -> tuple[str, list[int]]:
    """The same as the module's docstring says it, a value at a time."""
    streams: dict[str, bytes] = {}
    digests = []
    for row in rows:
        seed = 0
        for place, column in enumerate(SCHEMAS[kind]):
            cells, texts = b"", dict[str, bytes]()
            value = row.get(column.name)
            listed = pa.types.is_list(column.type)
            names = [f"{column.name}.{field.name}" for field in column.type.value_type] if listed else []
            for message in value if listed else [{column.name: value}]:
                for number, name in enumerate(names or [column.name]):
                    said = message.get(name.rpartition(".")[2])
                    if said is None:
                        continue
                    size = len(said.encode()) if isinstance(said, str) else int(said)
                    cells += struct.pack("<Q", (place * 32 + number) << 56 | size)
                    if isinstance(said, str):
                        texts[name] = texts.get(name, b"") + said.encode()
            parts = {f"{column.name}.rows": struct.pack("<Q", len(cells) // 8)}
            parts |= {f"{column.name}.cells": cells} if cells else {}
            parts |= {name: texts[name] for name in names or [column.name] if name in texts}
            for name, part in parts.items():
                streams[name] = streams.get(name, b"") + part
                if part and not name.endswith(".rows"):
                    seed = xxhash.xxh3_64_intdigest(part, seed)
        digests.append(seed)
    told = "".join(f"{name} {hashlib.sha256(part).hexdigest()}\n" for name, part in sorted(streams.items()))
    return f"sha256+columns:{hashlib.sha256(told.encode()).hexdigest()}", digests


@given(st.data(), KINDS)
def test_they_are_what_is_said_of_them_in_batches_of_any_size(data: st.DataObject, kind: Kind) -> None:
    rows = data.draw(st.lists(ROWS[kind], min_size=1, max_size=8))
    ends = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    found = digests(kind, rows, *ends)
    assert (found.dataset, found.rows.tolist()) == plain(kind, rows)


@given(st.data(), KINDS)
def test_other_rows_have_other_digests(data: st.DataObject, kind: Kind) -> None:
    before, after = (data.draw(st.lists(ROWS[kind], min_size=1, max_size=4)) for _ in range(2))
    left, right = digests(kind, before), digests(kind, after)
    assert (left.dataset == right.dataset) == (before == after)
    known = {json.dumps(row, sort_keys=True): digest for row, digest in zip(before, left.rows, strict=True)}
    known |= {json.dumps(row, sort_keys=True): digest for row, digest in zip(after, right.rows, strict=True)}
    assert len(set(known.values())) == len(known)


def message(*said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in said]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([message("ab", "")], [message("a", "b")]),
        ([message("a"), message("b", "c")], [message("a", "b"), message("c")]),
        ([[{"role": "user", "content": "a", "name": "x"}]], [[{"role": "user", "content": "ax"}]]),
        ([[{"role": "user", "content": "a", "name": ""}]], [message("a")]),
    ],
)
def test_where_a_text_a_message_and_a_row_end_counts(one: list[Any], other: list[Any]) -> None:
    left, right = (digests(Kind.MESSAGES, [{"messages": row} for row in rows]) for rows in (one, other))
    assert left.dataset != right.dataset
    assert left.rows != right.rows


def test_they_stay_what_they_are() -> None:
    """Beside adapters lie such digests: a change of their form needs another name, and the former one is still read."""
    rows = [{"messages": message("What is a pod?", "\u00e9\u4f60"), "tools": None}]
    found = digests(Kind.MESSAGES, rows)
    assert found.dataset == "sha256+columns:ee729572b44ebf973a929d9168331a799876727badb01eeb768f260e61be66bc"
    assert [hex(one) for one in found.rows] == ["0xaaec10a203bddfa0"]
