"""Looks at the rows that will be learnt: how long they are, what of them is cut, what repeats, what may be personal.

It reads the finished train.parquet on a CPU, before a GPU is paid for. Long datasets are looked at in part, evenly over
the whole, and the report says how many rows that were. Nothing here changes the data.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.contracts import held_out
from include.workloads import chat
from include.workloads.chat import Conversation
from include.workloads.contract import UserDataError
from include.workloads.dataset.languages import LOOKED_AT, languages
from include.workloads.dataset.personal import KINDS, kinds_in
from include.workloads.tuning import preferences
from include.workloads.tuning import rows as tuning_rows
from include.workloads.tuning.rows import IGNORE

#: Rows that are looked at, and of these the ones that are tokenised: some 2 ms each.
SCANNED_ROWS, TOKENISED_ROWS = 20_000, 2_000
SAMPLES, SAMPLE_CHARS, BINS = 3, 4_000, 24
#: Small, and read by one thread without reading ahead: this part shall take less memory than the one before it.
BATCH_ROWS = 512
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
    trained: set[bytes] = field(default_factory=set)
    held: list[bytes] = field(default_factory=list)
    samples: list[list[tuple[str, bool]]] = field(default_factory=list)


def look_at(parquet: Path, look: Look) -> dict[str, Any]:
    """The report's part about the content of the rows, as plain JSON values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(parquet, buffer_size=1 << 20, pre_buffer=False) as file:
        total = file.metadata.num_rows
        found, scanned, tokenised = _Found(), 0, 0
        stride, token_stride = (max(1, -(-total // most)) for most in (SCANNED_ROWS, TOKENISED_ROWS))
        for index, value in _rows(file, stride, token_stride):
            first, chosen = index < SAMPLES, index % stride == 0
            if chosen:
                scanned += 1
                _scan(value, look, found)
            if index % token_stride == 0:
                found.begins.append("\n".join(text[:LOOKED_AT] for text in _texts(value))[:LOOKED_AT])
            if look.tokenizer is not None and index % token_stride == 0:
                tokenised += _measure(value, index, look, found)
            if first:
                found.samples.append(_sample(value, look))
    pa.default_memory_pool().release_unused()  # it would stand beside the model that knows the languages
    return {
        "rows": total,
        "scanned_rows": scanned,
        "tokens": _tokens(found, tokenised, look) if tokenised else None,
        "scripts": _shares(found.scripts, scanned),
        "languages": _shares(languages(found.begins), len(found.begins)),
        "personal": {name: found.personal.get(name, 0) for name in KINDS},
        "held_out": _overlap(found, look, scanned == total) if look.held_out_share > 0 else None,
        "samples": found.samples,
    }


def _rows(file: Any, *strides: int) -> Iterator[tuple[int, str | Conversation]]:
    """The first rows, and each of these strides' rows, with their places. Only those leave Arrow's memory."""
    start = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
        places = range(start, start + batch.num_rows)
        wanted = [n for n in places if n < SAMPLES or any(n % stride == 0 for stride in strides)]
        start += batch.num_rows
        for index, row in zip(
            wanted, batch.take([n - places.start for n in wanted]).to_pylist(), strict=True
        ):
            text = row.get("text")
            yield index, text if text is not None else chat.from_row(row)


def _texts(value: str | Conversation) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(message["content"]) for message in value.messages]


def _scan(value: str | Conversation, look: Look, found: _Found) -> None:
    texts = _texts(value)
    if isinstance(value, chat.Pair):
        texts += _texts(value.worse)[len(value.prompt) :]
    text = "\n".join(texts)[:SEARCHED_CHARS]
    found.personal.update(kinds_in(text))
    found.scripts[script_of(text)] += 1
    if look.held_out_share > 0:
        [digest] = tuning_rows.digests([value])
        key = question_key(value)
        if held_out.is_held_out(digest, look.held_out_share):
            found.held.append(key)
        else:
            found.trained.add(key)


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
    same = sum(key in found.trained for key in found.held)
    return {"share": look.held_out_share, "rows": len(found.held), "asked_in_training": same, "whole": whole}


def _shares(counts: Mapping[str, int], total: int) -> dict[str, float]:
    most = Counter(counts).most_common(8)
    return {name: round(count / total, 4) for name, count in most} if total else {}
