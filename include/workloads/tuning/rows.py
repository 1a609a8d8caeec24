"""Turns /mnt/data/train.parquet into token ids and labels, with the loss on what the assistant says.

The mask is made from the chat template's own text: whatever the template adds between "the assistant speaks now" and
the end of that turn is learnt, end-of-turn token included, and nothing else. That needs no markers in the template.
Where a template does not allow it (it rewrites earlier turns), the row falls back and the report counts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.workloads.contract import UserConfigError, UserDataError

IGNORE = -100  # the label that no loss is computed for (torch.nn.CrossEntropyLoss.ignore_index)
FILE = "train.parquet"

Row = dict[str, list[int]]


@dataclass(frozen=True)
class Tokenised:
    """Rows as `input_ids` and `labels`, and what happened on the way."""

    rows: list[Row]
    answers_only: bool
    unmasked: int  # chat rows whose template hides where the answers are: loss on all tokens

    @property
    def lengths(self) -> list[int]:
        return [len(row["input_ids"]) for row in self.rows]


def read_table(folder: Path) -> tuple[str, list[Any]]:
    """The dataset step's table: ("messages" or "text", its values)."""
    import pyarrow.parquet as parquet

    path = folder / FILE
    if not path.is_file():
        raise UserDataError(f"There is no {FILE} in the data folder; the dataset step writes it.")
    names = parquet.read_schema(path).names
    column = next((name for name in ("messages", "text") if name in names), None)
    if column is None:
        raise UserDataError(f"{FILE} has no column messages or text, only {', '.join(names) or 'none'}.")
    values = parquet.read_table(path, columns=[column]).column(column).to_pylist()
    if not values:
        raise UserDataError(f"{FILE} has no rows.")
    return column, values


def tokenise(column: str, values: Sequence[Any], tokenizer: Any, answers_only: bool = True) -> Tokenised:
    """Token ids and labels for each row; plain text is learnt whole and ends with the end-of-text token."""
    if column == "text":
        return Tokenised([_text_row(tokenizer, str(value)) for value in values], False, 0)
    if not tokenizer.chat_template:
        raise UserConfigError(
            "The dataset holds chat messages, but this model has no chat template: choose an instruct model, or "
            "give a template's text in ModelConfig.chat_template."
        )
    rows, unmasked = [], 0
    for number, messages in enumerate(values, 1):
        row, masked = _chat_row(tokenizer, messages, number, answers_only)
        rows.append(row)
        unmasked += answers_only and not masked
    return Tokenised(rows, answers_only, unmasked)


def _text_row(tokenizer: Any, text: str) -> Row:
    ids = list(tokenizer(text)["input_ids"])
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(tokenizer.eos_token_id)
    return {"input_ids": ids, "labels": list(ids)}


def _chat_row(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], number: int, answers_only: bool
) -> tuple[Row, bool]:
    turns = [{"role": turn["role"], "content": turn["content"] or ""} for turn in messages]
    if not any(turn["role"] == "assistant" for turn in turns):
        raise UserDataError(f"Row {number} has no assistant message, so there is nothing to learn from it.")
    full = _render(tokenizer, turns, number)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    spans = answer_spans(full, turns, lambda part, ask: _render(tokenizer, part, number, ask))
    if not answers_only or not spans:
        return {"input_ids": ids, "labels": list(ids)}, False
    labels = [
        token if any(begin < end and begin >= first and end <= last for first, last in spans) else IGNORE
        for token, (begin, end) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": ids, "labels": labels}, True


def answer_spans(full: str, turns: Sequence[Mapping[str, str]], render: Any) -> list[tuple[int, int]]:
    """Where in the rendered text the assistant's turns are: (first, last) characters, end-of-turn included.

    `render(turns, ask)` is the template; `ask` adds the words that invite the assistant to speak. A turn whose
    invitation is not a true beginning of the whole text is left out.
    """
    spans = []
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = render(turns[:index], True)
        after = full if index == len(turns) - 1 else render(turns[: index + 1], False)
        end = _common(after, full)
        if full.startswith(before) and end > len(before):
            spans.append((len(before), end))
    return spans


def _common(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _render(tokenizer: Any, turns: Sequence[Mapping[str, str]], number: int, ask: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))
    except TemplateError as error:
        raise UserDataError(
            f"Row {number} does not fit this model's chat template: {error}; "
            f"its roles are {', '.join(turn['role'] for turn in turns)}."
        ) from error


def cut(rows: Iterable[Row], max_length: int) -> tuple[list[Row], int, int]:
    """Rows no longer than `max_length` tokens: (rows, how many were cut, how many had no answer left and went)."""
    kept: list[Row] = []
    shortened = dropped = 0
    for row in rows:
        shortened += len(row["input_ids"]) > max_length
        short = {key: value[:max_length] for key, value in row.items()}
        # The first token is never predicted, so its label does not count.
        if any(label != IGNORE for label in short["labels"][1:]):
            kept.append(short)
        else:
            dropped += 1
    if not kept:
        raise UserDataError(
            f"No row has an answer within {max_length} tokens; set TrainingArguments.max_length higher."
        )
    return kept, shortened, dropped


def split(rows: list[Row], share: float, shuffle: bool, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, evaluation rows): `share` of the rows train (1 = all); the same seed, the same order."""
    import random

    ordered = list(rows)
    if shuffle:
        random.Random(seed).shuffle(ordered)  # noqa: S311 - an order, not a secret
    count = len(ordered) if share >= 1 else max(1, min(len(ordered) - 1, round(len(ordered) * share)))
    return ordered[:count], ordered[count:]
