"""Many rows of one plain layout normalised at once, column by column, with the same result as row by row.

Most files hold one layout with nothing unusual in it. For those, a walk over each row's fields is all of the cost, so
a block of rows is taken as columns where that surely says the same; anything doubtful gives None, and the block goes
row by row (`include.workloads.dataset.columns`), which alone decides what is used and why not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.workloads import chat
from include.workloads.chat import Conversation
from include.workloads.dataset import layouts
from include.workloads.dataset.columns import Kind
from include.workloads.dataset.layouts import CONTEXTS, INPUT, TEXT, fold
from include.workloads.dataset.messages import Refused, known_role
from include.workloads.dataset.text import MAX_ROW_CHARS
from include.workloads.dataset.values import is_empty

#: The names of a message's role and text, as a block may have them.
_MESSAGE_FIELDS = (("role", "content"), ("from", "value"))
_TEXTS = frozenset({pa.string(), pa.large_string()})


@dataclass(frozen=True)
class UsableRows:
    """Normalised rows: for messages their texts and roles one after the other, and where each row begins.

    :ivar contents: the text of each message, or of each row of plain text.
    :ivar roles: the role of each message; empty for plain text.
    :ivar starts: the place of each row's first message and, at the end, their number; for plain text as well.
    :ivar unread: names of columns that say something and have no meaning here.
    """

    kind: Kind
    contents: Sequence[str]
    roles: Sequence[str]
    starts: Any
    unread: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def encoded(self) -> list[str]:
        """What each row is known by, as the row writer has it."""
        texts = map(encode_basestring, self.contents)
        if self.kind is Kind.TEXT:
            return list(texts)
        ends = {role: f',"role":"{role}"}}' for role in set(self.roles)}
        said = [f'{{"content":{text}{ends[role]}' for text, role in zip(texts, self.roles, strict=True)]
        return [f"[{','.join(said[begin:end])}]" for begin, end in pairwise(self.starts.tolist())]

    @cached_property
    def lengths(self) -> Any:
        """Characters of each row."""
        sizes = np.fromiter(map(len, self.contents), np.int64, len(self.contents))
        return sizes if self.kind is Kind.TEXT else np.add.reduceat(sizes, self.starts[:-1])

    def table(self, schema: pa.Schema) -> pa.Table:
        """The rows as the file holds them."""
        if self.kind is Kind.TEXT:
            return pa.table([pa.array(self.contents, pa.string())], schema=schema)
        message = schema.field(chat.MESSAGES).type.value_type
        given = {"role": self.roles, "content": self.contents}
        fields = [
            pa.array(given[field.name], field.type)
            if field.name in given
            else pa.nulls(len(self.roles), field.type)
            for field in message
        ]
        values = pa.StructArray.from_arrays(fields, fields=list(message))
        starts = pa.array(self.starts, pa.int32())
        messages = pa.ListArray.from_arrays(starts, values, type=schema.field(chat.MESSAGES).type)
        return pa.table([messages, pa.nulls(len(self), pa.string())], schema=schema)

    def shapes(self) -> list[Conversation] | None:
        """One conversation of each order of roles; None where what a template shows may hang on the texts."""
        if self.kind is Kind.TEXT:
            return []
        if "tool" in self.roles or any("</" in text for text in self.contents):
            return None
        found = dict[tuple[str, ...], int]()
        for begin, end in pairwise(self.starts.tolist()):
            found.setdefault(tuple(self.roles[begin:end]), begin)
        return [
            Conversation(
                [
                    {"role": role, "content": text}
                    for role, text in zip(roles, self.contents[begin : begin + len(roles)], strict=True)
                ]
            )
            for roles, begin in found.items()
        ]


def usable_rows(table: pa.Table) -> UsableRows | None:
    """The table's rows where all of them are surely used, else None.

    :param table: one block of a file, with all of its columns that have a meaning.
    """
    names = table.column_names
    if not table.num_rows or layouts.twice(names):
        return None
    read = layouts.read_columns(tuple(names))
    if any(fold(name) != name for name in read):
        return None
    found = _of_layout(table, frozenset(read))
    if found is None:
        return None
    kind, contents, roles, starts = found
    if not all(map(str.strip, contents)) or max(map(len, contents)) > MAX_ROW_CHARS // 2:
        return None
    unread = tuple(fold(name) for name in names if name not in read and _says_something(table[name]))
    return UsableRows(kind, contents, roles, starts, unread)


_Found = tuple[Kind, list[str], list[str], Any]


def _of_layout(table: pa.Table, read: frozenset[str]) -> _Found | None:
    for column in layouts.MESSAGES[:2]:
        if read == {column}:
            return _conversations(table[column])
    if read == {TEXT}:
        texts = _strings(table[TEXT])
        return None if texts is None else (Kind.TEXT, texts, [], np.arange(len(texts) + 1))
    return _pairs(table, read)


def _pairs(table: pa.Table, read: frozenset[str]) -> _Found | None:
    answers = read & {*layouts.ANSWERS}
    asked = read & {*layouts.QUESTIONS} or read & {INPUT}
    contexts = read - answers - asked
    if len(answers) != 1 or len(asked) != 1 or not (contexts <= {*CONTEXTS} and len(contexts) < 2):
        return None
    questions, replies = _strings(table[min(asked)]), _strings(table[min(answers)])
    if questions is None or replies is None or not all(map(str.strip, questions)):
        return None
    if contexts:
        given = table[min(contexts)]
        if given.type not in _TEXTS and not pa.types.is_null(given.type):
            return None
        questions = [
            f"{question}\n\n{context}" if context and context.strip() else question
            for question, context in zip(questions, given.to_pylist(), strict=True)
        ]
    contents = [text for pair in zip(questions, replies, strict=True) for text in pair]
    return (
        Kind.MESSAGES,
        contents,
        ["user", "assistant"] * len(questions),
        np.arange(0, len(contents) + 1, 2),
    )


def _conversations(column: pa.ChunkedArray) -> _Found | None:
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or not pa.types.is_struct(column.type.value_type):
        return None
    fields = {field.name: field.type for field in column.type.value_type}
    names = next((pair for pair in _MESSAGE_FIELDS if set(fields) == set(pair)), None)
    if names is None or column.null_count or not set(fields.values()) <= _TEXTS:
        return None
    rows = column.combine_chunks()
    messages = rows.flatten()
    parts = dict(zip([field.name for field in messages.type], messages.flatten(), strict=True))
    if messages.null_count or any(part.null_count for part in parts.values()):
        return None
    counts = pc.list_value_length(rows).to_numpy(zero_copy_only=False)
    if not counts.all():
        return None
    starts = np.concatenate(([0], np.cumsum(counts)))
    given = parts[names[0]].dictionary_encode()
    try:
        known = [known_role(role) for role in given.dictionary.to_pylist()]
    except Refused:
        return None
    places = given.indices.to_numpy(zero_copy_only=False)
    answered = np.array([role == "assistant" for role in known])[places]
    if not np.logical_or.reduceat(answered, starts[:-1]).all():
        return None
    roles = [known[place] for place in places.tolist()]
    return Kind.MESSAGES, parts[names[1]].to_pylist(), roles, starts


def _strings(column: pa.ChunkedArray) -> list[str] | None:
    if column.type not in _TEXTS or column.null_count:
        return None
    found: list[str] = column.to_pylist()
    return found


def _says_something(column: pa.ChunkedArray) -> bool:
    return any(not is_empty(value.as_py()) for value in column if value.is_valid)
