"""Many rows of one plain layout normalised at once, column by column, with the same result as row by row.

Most files hold one layout with nothing unusual in it. For those, a walk over each row's fields is all of the cost, so
a block of rows is taken as columns where that surely says the same; anything doubtful gives None, and the block goes
row by row (`include.workloads.dataset.columns`), which alone decides what is used and why not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.workloads.dataset import layouts
from include.workloads.dataset.columns import Kind
from include.workloads.dataset.layouts import CONTEXTS, INPUT, TEXT, fold
from include.workloads.dataset.messages import Refused, known_role
from include.workloads.dataset.text import MAX_ROW_CHARS
from include.workloads.dataset.usable_rows import UsableRows, strings_of
from include.workloads.dataset.values import is_empty

#: The names of a message's role and text, as a block may have them.
_MESSAGE_FIELDS = (("role", "content"), ("from", "value"))
_TEXTS = frozenset({pa.string(), pa.large_string()})
#: Of each byte, whether a character that says nothing may begin with it in UTF-8; there are none above these.
_SPACES = {chr(code).encode()[0] for code in range(0x3001) if chr(code).isspace()}
_MAY_BE_BLANK = np.array([byte in _SPACES for byte in range(256)])
#: Spellings of roles in one block; more are no roles.
MOST_ROLES = 64


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
    # In bytes, which are no less than the characters.
    if _blank(contents).any() or np.diff(strings_of(contents)[1]).max() > MAX_ROW_CHARS // 2:
        return None
    unread = tuple(fold(name) for name in names if name not in read and _says_something(table[name]))
    return UsableRows(kind, contents, *roles, starts, unread)


#: The kind, the texts, the names of roles and each message's place in them, and where rows begin.
_Found = tuple[Kind, pa.Array, tuple[Sequence[str], Any], Any]
_NO_ROLES: tuple[Sequence[str], Any] = ((), np.empty(0, np.uint8))


def _of_layout(table: pa.Table, read: frozenset[str]) -> _Found | None:
    for column in layouts.MESSAGES[:2]:
        if read == {column}:
            return _conversations(table[column])
    if read == {TEXT}:
        texts = _strings(table[TEXT])
        return None if texts is None else (Kind.TEXT, texts, _NO_ROLES, np.arange(len(texts) + 1))
    return _pairs(table, read)


def _pairs(table: pa.Table, read: frozenset[str]) -> _Found | None:
    answers = read & {*layouts.ANSWERS}
    asked = read & {*layouts.QUESTIONS} or read & {INPUT}
    contexts = read - answers - asked
    if len(answers) != 1 or len(asked) != 1 or not (contexts <= {*CONTEXTS} and len(contexts) < 2):
        return None
    questions, replies = _strings(table[min(asked)]), _strings(table[min(answers)])
    if questions is None or replies is None or _blank(questions).any():
        return None
    if contexts:
        given = table[min(contexts)]
        if given.type not in _TEXTS and not pa.types.is_null(given.type):
            return None
        told = _one(given).fill_null("")
        with_context = pc.binary_join_element_wise(questions, "\n\n", told, "")
        questions = pc.if_else(pa.array(~_blank(told)), with_context, questions)
    count = len(questions)
    places = np.arange(2 * count).reshape(2, count).T.ravel()
    contents = pa.concat_arrays([questions, replies]).take(pa.array(places))
    roles = np.tile(np.array([0, 1], np.uint8), count)
    return Kind.MESSAGES, contents, (("user", "assistant"), roles), np.arange(0, 2 * count + 1, 2)


def _conversations(column: pa.ChunkedArray) -> _Found | None:
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or not pa.types.is_struct(column.type.value_type):
        return None
    fields = {field.name: field.type for field in column.type.value_type}
    names_of_fields = next((pair for pair in _MESSAGE_FIELDS if set(fields) == set(pair)), None)
    if names_of_fields is None or column.null_count or not set(fields.values()) <= _TEXTS:
        return None
    rows = _joined(column)
    messages = rows.flatten()
    parts = dict(zip([field.name for field in messages.type], messages.flatten(), strict=True))
    if messages.null_count or any(part.null_count for part in parts.values()):
        return None
    counts = pc.list_value_length(rows).to_numpy(zero_copy_only=False)
    if not counts.all():
        return None
    starts = np.concatenate(([0], np.cumsum(counts)))
    given = parts[names_of_fields[0]].dictionary_encode()
    try:
        known = [known_role(role) for role in given.dictionary.to_pylist()]
    except Refused:
        return None
    places = given.indices.to_numpy(zero_copy_only=False)
    answered = np.array([role == "assistant" for role in known])[places]
    if len(known) > MOST_ROLES or not np.logical_or.reduceat(answered, starts[:-1]).all():
        return None
    names = sorted(set(known))
    roles = np.array([names.index(role) for role in known], np.uint8)[places]
    return Kind.MESSAGES, parts[names_of_fields[1]].cast(pa.string()), (names, roles), starts


def _strings(column: pa.ChunkedArray) -> pa.Array | None:
    if column.type not in _TEXTS or column.null_count:
        return None
    return _one(column)


def _one(column: pa.ChunkedArray) -> pa.Array:
    """A column of a block as one array of strings."""
    return _joined(column.cast(pa.string()))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which is a copy only where it has to be."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _blank(texts: pa.Array) -> Any:
    """Which texts say nothing: an array of truth values. Python says so of those that begin like a space."""
    content, places = strings_of(texts)
    found = np.frombuffer(content, np.uint8)
    doubtful = np.diff(places) == 0
    doubtful[~doubtful] = _MAY_BE_BLANK[found[places[:-1][~doubtful]]]
    for place in np.flatnonzero(doubtful).tolist():
        doubtful[place] = not texts[place].as_py().strip()
    return doubtful


def _says_something(column: pa.ChunkedArray) -> bool:
    return any(not is_empty(value.as_py()) for value in column if value.is_valid)
