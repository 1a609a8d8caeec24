"""Looks at the rows that will be learnt: how long they are, what of them is cut, what repeats, what may be personal.

It reads the finished train.parquet on a CPU, before a GPU is paid for. Long datasets are looked at in part, evenly over
the whole, and the report says how many rows that were. Nothing here changes the data.
"""

from __future__ import annotations

import hashlib
import json
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.contracts import held_out
from include.workloads import chat
from include.workloads.chat import Conversation
from include.workloads.contract import UserDataError
from include.workloads.dataset.languages import LOOKED_AT, Loading, languages
from include.workloads.dataset.personal import KINDS, kinds_in_each
from include.workloads.tuning import preferences
from include.workloads.tuning import rows as tuning_rows
from include.workloads.tuning.rows import IGNORE

#: Rows that are looked at, and of these the ones that are tokenised: some 2 ms each.
SCANNED_ROWS, TOKENISED_ROWS = 20_000, 2_000
SAMPLES, SAMPLE_CHARS, BINS = 3, 4_000, 24
#: Rows that are decoded at once, and rows and bytes that are looked at once: each call has its own cost, and this part
#: shall take less memory than the one before it.
BATCH_ROWS, LOOKED_ROWS, LOOKED_BYTES = 2048, 1024, 8 << 20
#: Characters of a row that are searched: more would only say the same again.
SEARCHED_CHARS = 50_000


@dataclass(frozen=True)
class Look:
    """What the rows are looked at with.

    :param tokenizer: the model's; None where it is not on this machine, and then nothing is said of tokens.
    :param max_length: tokens after which the training cuts a row.
    :param held_out_share: of the rows that are not trained on.
    :param answers_only: whether the loss is on the assistant's answers.
    """

    tokenizer: Any = None
    max_length: int | None = None
    held_out_share: float = 0.0
    answers_only: bool = True


@dataclass
class _Found:
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    cut: int = 0
    lost: int = 0
    scripts: Counter[str] = field(default_factory=Counter)
    begins: list[str] = field(default_factory=list)
    personal: Counter[str] = field(default_factory=Counter)
    questions: list[tuple[str, bytes]] = field(default_factory=list)  # each row's digest, and what it asks
    samples: list[list[tuple[str, bool]]] = field(default_factory=list)


def look_at(parquet: Path, look: Look, languages_model: Loading | None = None) -> dict[str, Any]:
    """The report's part about the content of the rows, as plain JSON values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = (languages_model or Loading()).begin()
    with pq.ParquetFile(parquet, buffer_size=1 << 20, pre_buffer=False) as file:
        total = file.metadata.num_rows
        found, scanned, tokenised = _Found(), 0, 0
        stride, token_stride = (max(1, -(-total // most)) for most in (SCANNED_ROWS, TOKENISED_ROWS))
        for rows in _rows(file, stride, token_stride):
            chosen = [value for index, value in rows if index % stride == 0]
            scanned += len(chosen)
            _scan(chosen, look, found)
            for index, value in rows:
                if index % token_stride == 0:
                    found.begins.append("\n".join(text[:LOOKED_AT] for text in _texts(value))[:LOOKED_AT])
                    if look.tokenizer is not None:
                        tokenised += _measure(value, index, look, found)
                if index < SAMPLES:
                    found.samples.append([(visible(text), learnt) for text, learnt in _sample(value, look)])
    pa.default_memory_pool().release_unused()
    return {
        "rows": total,
        "scanned_rows": scanned,
        "tokens": _tokens(found, tokenised, look) if tokenised else None,
        "scripts": _shares(found.scripts, scanned),
        "languages": _shares(languages(model.result(), found.begins), len(found.begins)),
        "personal": {name: found.personal.get(name, 0) for name in KINDS},
        "held_out": _overlap(found, look, scanned == total) if look.held_out_share > 0 else None,
        "samples": found.samples,
    }


def _rows(file: Any, *strides: int) -> Iterator[list[tuple[int, str | Conversation]]]:
    """The first rows, and each of these strides' rows, with their places. Only those leave Arrow's memory.

    The next ones are read in a thread while those before them are looked at.
    """
    chosen = _chosen(file, strides)
    with ThreadPoolExecutor(1, "parquet") as ahead:
        coming = ahead.submit(next, chosen, None)
        while (found := coming.result()) is not None:
            coming = ahead.submit(next, chosen, None)
            places, batches = found
            rows = (row for batch in batches for row in batch.to_pylist())
            yield [(place, _value(row)) for place, row in zip(places, rows, strict=True)]


def _chosen(file: Any, strides: Sequence[int]) -> Iterator[tuple[list[int], list[Any]]]:
    """Batches of the rows to look at with their places, as many as are worth a look."""
    start, places, batches = 0, list[int](), list[Any]()
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=_used(file), use_threads=False):
        end = start + batch.num_rows
        wanted = {*range(start, min(end, SAMPLES))}
        wanted.update(*(range(-(-start // stride) * stride, end, stride) for stride in strides))
        if wanted:
            here = sorted(wanted)
            places += here
            batches.append(batch.take([place - start for place in here]))
        start = end
        if len(places) >= LOOKED_ROWS or sum(batch.nbytes for batch in batches) >= LOOKED_BYTES:
            yield places, batches
            places, batches = [], []
    if places:
        yield places, batches


def _used(file: Any) -> list[str]:
    """The columns that say something in a row: most fields of messages do not, and Python would be given them all."""
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    columns = (group.column(place) for group in groups for place in range(group.num_columns))
    return list(
        dict.fromkeys(
            one.path_in_schema
            for one in columns
            if one.statistics is None or one.statistics.null_count < one.num_values
        )
    )


def _value(row: dict[str, Any]) -> str | Conversation:
    text = row.get("text")
    return chat.from_row(row) if text is None else str(text)


def _texts(value: str | Conversation) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(message["content"]) for message in value.messages]


def _scan(values: Sequence[str | Conversation], look: Look, found: _Found) -> None:
    searched = [_searched(value) for value in values]
    for value, text, kinds in zip(values, searched, kinds_in_each(searched), strict=True):
        found.personal.update(kinds)
        found.scripts[script_of(text)] += 1
        if look.held_out_share > 0:
            [digest] = tuning_rows.digests([value])
            found.questions.append((digest, question_key(value)))


def _searched(value: str | Conversation) -> str:
    """All that is learnt or learnt from, thoughts and what tools are called with among it."""
    if isinstance(value, str):
        return value[:SEARCHED_CHARS]
    messages = list(value.messages)
    if isinstance(value, chat.Pair):
        messages += value.rejected[len(value.prompt) :]
    return "\n".join(text for message in messages for text in _said_in(message))[:SEARCHED_CHARS]


def _said_in(message: Mapping[str, Any]) -> Iterator[str]:
    yield str(message["content"])
    if thought := message.get("reasoning_content"):
        yield str(thought)
    for call in message.get("tool_calls") or ():
        yield json.dumps(call["function"]["arguments"], ensure_ascii=False)


def question_key(value: str | Conversation) -> bytes:
    """What a row asks, without regard to case and spaces: rows with the same question test nothing new."""
    asked = [value] if isinstance(value, str) else _texts(value)[:-1]
    plain = "\x00".join(" ".join(text.split()).casefold() for text in asked)
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def script_of(text: str) -> str:
    """The writing system of most letters, as Unicode names it (`latin`, `cyrillic`, `cjk`); `none` without letters."""
    begin = text[:200]
    if begin.isascii():
        return "latin" if any(map(str.isalpha, begin)) else "none"
    counts: Counter[str] = Counter()
    for letter in begin:
        if letter.isalpha():
            counts["latin" if letter.isascii() else unicodedata.name(letter, "other").split()[0].lower()] += 1
    return counts.most_common(1)[0][0] if counts else "none"


def _measure(value: str | Conversation, index: int, look: Look, found: _Found) -> int:
    try:
        size, lost = _size(value, index, look)
    except UserDataError:
        return 0  # the training says of which row and why
    found.lengths.append(size)
    if look.max_length and size > look.max_length:
        found.cut += 1
        found.lost += lost
    return 1


def _size(value: str | Conversation, index: int, look: Look) -> tuple[int, bool]:
    """Tokens of a row (of the longer answer's, where two are compared), and whether the cut leaves nothing to learn."""
    if isinstance(value, chat.Pair | chat.Marked):
        compared = preferences.compared_row(look.tokenizer, value, index + 1)
        return preferences.length(compared), preferences.is_lost(compared, look.max_length or sys.maxsize)
    row = tuning_rows.tokenised_row(look.tokenizer, value, index + 1, look.answers_only)
    return len(row["input_ids"]), all(label == IGNORE for label in row["labels"][1 : look.max_length])


#: What turns the direction of the text after it, so that a page shows another order than the model reads.
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_VISIBLE = {ord(one): f"[U+{ord(one):04X}]" for one in [*_TURNING, *map(chr, range(0x7F, 0xA0))]} | {
    code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"
}


def visible(text: str) -> str:
    """The text with a sign in place of each character that controls how a text is shown (Unicode TR36)."""
    return text.translate(_VISIBLE)


def _sample(value: str | Conversation, look: Look) -> list[tuple[str, bool]]:
    """Pieces of the row as the model reads it, and whether each is learnt."""
    if isinstance(value, chat.Pair | chat.Marked):
        return _compared_sample(value, look)
    if look.tokenizer is None:
        return [(f"{text}\n"[:SAMPLE_CHARS], False) for text in _texts(value)]
    try:
        row = tuning_rows.tokenised_row(look.tokenizer, value, 1, look.answers_only)
    except UserDataError as error:
        return [(str(error), False)]
    pieces: list[tuple[list[int], bool]] = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        learnt = label != IGNORE
        if not pieces or pieces[-1][1] is not learnt:
            pieces.append(([], learnt))
        pieces[-1][0].append(token)
    left, shown = SAMPLE_CHARS, []
    for tokens, learnt in pieces:
        text = look.tokenizer.decode(tokens[:left])[:left]
        left -= len(text)
        shown.append((text, learnt))
        if left <= 0:
            return [*shown, (" ...", False)]
    return shown


def _compared_sample(value: chat.Pair | chat.Marked, look: Look) -> list[tuple[str, bool]]:
    """The prompt and its answers by name; what is learnt to be said is the better answer, or one that is good."""
    asked = value.prompt if isinstance(value, chat.Pair) else value.messages[:-1]
    good = not isinstance(value, chat.Marked) or value.good
    answers = [
        ("chosen" if isinstance(value, chat.Pair) else "good" if good else "bad", value.messages, good)
    ]
    if isinstance(value, chat.Pair):
        answers.append(("rejected", value.rejected, False))
    prompt = "\n".join(message["content"] for message in asked)
    pieces = [(f"{prompt}\n"[:SAMPLE_CHARS], False)]
    for name, messages, learnt in answers:
        text = "\n".join(message["content"] for message in messages[len(asked) :])
        pieces += [(f"\n{name}: ", False), (text[:SAMPLE_CHARS], learnt and look.tokenizer is not None)]
    return pieces


def _tokens(found: _Found, tokenised: int, look: Look) -> dict[str, Any]:
    ordered = sorted(found.lengths)
    width = max(1, -(-(ordered[-1] + 1) // BINS))
    counts = [0] * (ordered[-1] // width + 1)
    for length in ordered:
        counts[length // width] += 1
    last = len(ordered) - 1
    return {
        "rows": tokenised,
        "p50": ordered[last * 50 // 100],
        "p95": ordered[last * 95 // 100],
        "max": ordered[-1],
        "histogram": {"width": width, "rows": counts},
        "max_length": look.max_length,
        "cut_share": found.cut / tokenised,
        "lost_share": found.lost / tokenised,
    }


def _overlap(found: _Found, look: Look, whole: bool) -> dict[str, Any]:
    digests, share = [digest for digest, _ in found.questions], look.held_out_share
    # What holds for the whole of a small dataset cannot be told from a part of a large one.
    sides = (
        held_out.held_out(digests, share) if whole else [held_out.is_held_out(one, share) for one in digests]
    )
    trained = {key for (_, key), out in zip(found.questions, sides, strict=True) if not out}
    held = [key for (_, key), out in zip(found.questions, sides, strict=True) if out]
    same = sum(key in trained for key in held)
    return {"share": share, "rows": len(held), "asked_in_training": same, "whole": whole}


def _shares(counts: Mapping[str, int], total: int) -> dict[str, float]:
    most = Counter(counts).most_common(8)
    return {name: round(count / total, 4) for name, count in most} if total else {}
