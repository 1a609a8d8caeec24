"""Normalised rows as Arrow's arrays: how long each is, and how the file holds it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.workloads import chat
from include.workloads.chat import Conversation
from include.workloads.dataset.columns import Kind

_CLOSES = re.compile(b"</")  # as a pattern: it searches Arrow's own bytes, without a copy


@dataclass(frozen=True)
class UsableRows:
    """Normalised rows: for messages their texts and roles one after the other, and where each row begins.

    :ivar contents: the text of each message, or of each row of plain text; an array of strings without nulls.
    :ivar names: roles that occur; none for plain text.
    :ivar roles: the role of each message, as its place in `names`; an array of bytes, empty for plain text.
    :ivar starts: the place of each row's first message and, at the end, their number; for plain text as well.
    :ivar unread: names of columns that say something and have no meaning here.
    """

    kind: Kind
    contents: pa.Array
    names: Sequence[str]
    roles: Any
    starts: Any
    unread: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> Any:
        """Characters of each row."""
        sizes = pc.utf8_length(self.contents).to_numpy().astype(np.int64)
        return sizes if self.kind is Kind.TEXT else np.add.reduceat(sizes, self.starts[:-1])

    @property
    def role_counts(self) -> Counter[str]:
        """How often each role speaks."""
        found = Counter[str]()
        counts = np.bincount(self.roles, minlength=len(self.names)).tolist()
        for name, count in zip(self.names, counts, strict=True):
            found[name] += count
        return found

    def table(self, schema: pa.Schema) -> pa.Table:
        """The rows as the file holds them."""
        if self.kind is Kind.TEXT:
            return pa.table([self.contents], schema=schema)
        message = schema.field(chat.MESSAGES).type.value_type
        given = {"role": self._by_role(self.names), "content": self.contents}
        fields = [given.get(field.name, pa.nulls(len(self.roles), field.type)) for field in message]
        values = pa.StructArray.from_arrays(fields, fields=list(message))
        starts = pa.array(self.starts, pa.int32())
        messages = pa.ListArray.from_arrays(starts, values, type=schema.field(chat.MESSAGES).type)
        return pa.table([messages, pa.nulls(len(self), pa.string())], schema=schema)

    def shapes(self) -> list[Conversation] | None:
        """One conversation of each order of roles; None where what a template shows may hang on the texts."""
        if self.kind is Kind.TEXT:
            return []
        # Two texts that only together have it are doubtful too: then each row is looked at.
        if "tool" in self.names or _CLOSES.search(strings_of(self.contents)[0]):
            return None
        roles, found = bytes(self.roles), dict[bytes, int]()
        for begin, end in pairwise(self.starts.tolist()):
            found.setdefault(roles[begin:end], begin)
        return [
            Conversation(
                [
                    {"role": self.names[role], "content": text}
                    for role, text in zip(
                        places, self.contents[begin : begin + len(places)].to_pylist(), strict=True
                    )
                ]
            )
            for places, begin in found.items()
        ]

    def _by_role(self, texts: Sequence[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(
            pa.array(self.roles, pa.uint8()), pa.array(texts, pa.string())
        ).dictionary_decode()


def strings_of(texts: pa.Array) -> tuple[memoryview, Any]:
    """The bytes of an array of strings, one after the other, and where each begins, with the end of the last."""
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    view = memoryview(data or b"").cast("B")[int(places[0]) : int(places[-1])]
    return view, places - places[0]
