"""Turns /mnt/data/train.parquet into token ids and labels, with the loss on what the assistant says.

The mask is made from the chat template's own text: whatever the template adds between "the assistant speaks now" and
the end of that turn is learnt, end-of-turn token included, and nothing else. That needs no markers in the template.
Where a template does not allow it (it rewrites earlier turns), the row falls back and the report counts it. An answer
of weight 0 is read and never learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts import held_out
from include.workloads import chat
from include.workloads.chat import Conversation
from include.workloads.chat_template import TemplateCheck, renderer, shown
from include.workloads.contract import UserConfigError, UserDataError

IGNORE = -100  # the label that no loss is computed for (torch.nn.CrossEntropyLoss.ignore_index)
FILE = "train.parquet"
MAX_DROPPED_SHARE = 0.5  # above it most rows would be lost, which nobody means by a training

#: `input_ids` and `labels`; of preference data what include.workloads.tuning.preferences says.
Row = dict[str, Any]
Span = tuple[int, int]


@dataclass(frozen=True)
class Tokenised:
    """Rows as `input_ids` and `labels`, and what happened on the way."""

    rows: list[Row]
    answers_only: bool
    unmasked: int  # chat rows whose template hides where the answers are: loss on all tokens
    partly: int = (
        0  # chat rows some of whose answers are not learnt, because the template rewrites earlier turns
    )

    @property
    def lengths(self) -> list[int]:
        return [len(row["input_ids"]) for row in self.rows]


def read_table(folder: Path) -> tuple[str, list[Any]]:
    """The dataset step's table: ("messages", conversations) or ("text", texts).

    Of preference data the conversations are Pairs or Marked, with what they are compared by.
    """
    import pyarrow.parquet as parquet

    path = folder / FILE
    if not path.is_file():
        raise UserDataError(f"There is no {FILE} in the data folder; the dataset step writes it.")
    names = parquet.read_schema(path).names
    column = next((name for name in (chat.MESSAGES, "text") if name in names), None)
    if column is None:
        raise UserDataError(f"{FILE} has no column messages or text, only {', '.join(names) or 'none'}.")
    wanted = [name for name in (column, chat.TOOLS, chat.REJECTED, chat.GOOD) if name in names]
    table = parquet.read_table(path, columns=wanted)
    if not table.num_rows:
        raise UserDataError(f"{FILE} has no rows.")
    if column == "text":
        return column, table.column(column).to_pylist()
    rows = table.to_pylist()
    return column, list(map(chat.from_row, rows))


def tokenise(column: str, values: Sequence[Any], tokenizer: Any, answers_only: bool = True) -> Tokenised:
    """Token ids and labels for each row; plain text is learnt whole and ends with the end-of-text token.

    `values` are texts or Conversations, as `read_table` gives them.
    """
    if column == "text":
        return Tokenised([_text_row(tokenizer, str(value)) for value in values], False, 0)
    require_template(tokenizer)
    check = TemplateCheck(renderer(tokenizer))
    rows, unmasked, partly = [], 0, 0
    for number, conversation in enumerate(values, 1):
        if reason := check.refused(conversation):
            raise UserDataError(f"Row {number} does not fit this model: {reason}.")
        row, found = _chat_row(tokenizer, conversation, number, answers_only)
        rows.append(row)
        unmasked += answers_only and not found
        partly += answers_only and 0 < found < sum(map(chat.is_learnt, conversation.messages))
    return Tokenised(rows, answers_only, unmasked, partly)


def tokenised_row(tokenizer: Any, value: str | Conversation, number: int, answers_only: bool) -> Row:
    """One row as `tokenise` makes it. UserDataError where the model's chat template cannot show it."""
    if isinstance(value, str):
        return _text_row(tokenizer, value)
    return _chat_row(tokenizer, value, number, answers_only)[0]


def require_template(tokenizer: Any) -> None:
    """UserConfigError for a model that has no chat template."""
    if not tokenizer.chat_template:
        raise UserConfigError(
            "The dataset holds chat messages, but this model has no chat template: choose an instruct model, or "
            "give a template's text in ModelConfig.chat_template."
        )


def _text_row(tokenizer: Any, text: str) -> Row:
    ids = list(tokenizer(text)["input_ids"])
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(tokenizer.eos_token_id)
    return {"input_ids": ids, "labels": list(ids)}


def _chat_row(tokenizer: Any, conversation: Conversation, number: int, answers_only: bool) -> tuple[Row, int]:
    """One row, and in how many answers of it the loss is."""
    if not any(map(chat.is_learnt, conversation.messages)):
        raise UserDataError(f"Row {number} has no assistant message, so there is nothing to learn from it.")
    turns = list(map(shown, conversation.messages))

    def render(part: Sequence[Mapping[str, Any]], ask: bool) -> str:
        return rendered(tokenizer, part, conversation.tools, number, ask)

    full = render(turns, False)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = list(encoded["input_ids"]), encoded["offset_mapping"]
    answers = [message for message in conversation.messages if message["role"] == "assistant"]
    spans = dict(zip(map(id, answers), answer_spans(full, turns, render), strict=True))
    learnt = [spans[id(answer)] for answer in answers if chat.is_learnt(answer)]
    silent = [spans[id(answer)] for answer in answers if not chat.is_learnt(answer)]
    found = [span for span in learnt if span]
    if None in silent or (silent and not found):
        raise UserDataError(
            f"Row {number} has an answer of weight 0, and this model's chat template does not show where it is."
        )
    if not answers_only or not found:
        labels = [
            IGNORE if _within(place, silent) else token for token, place in zip(ids, places, strict=True)
        ]
        return {"input_ids": ids, "labels": labels}, 0
    labels = [token if _within(place, found) else IGNORE for token, place in zip(ids, places, strict=True)]
    return {"input_ids": ids, "labels": labels}, len(found)


def _within(place: tuple[int, int], spans: Iterable[Span | None]) -> bool:
    begin, end = place
    return any(span and begin < end and begin >= span[0] and end <= span[1] for span in spans)


def answer_spans(full: str, turns: Sequence[Mapping[str, Any]], render: Any) -> list[Span | None]:
    """Where in the rendered text the assistant's turns are: (first, last) characters, end-of-turn included.

    `render(turns, ask)` is the template; `ask` adds the words that invite the assistant to speak. A turn whose
    invitation is not a true beginning of the whole text has None.
    """
    spans: list[Span | None] = []
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        try:
            before = render(turns[:index], True)
            after = full if index == len(turns) - 1 else render(turns[: index + 1], False)
        except UserDataError:  # a template that shows the whole may refuse its beginning alone
            spans.append(None)
            continue
        end = _common(after, full)
        spans.append((len(before), end) if full.startswith(before) and end > len(before) else None)
    return spans


def _common(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def rendered(
    tokenizer: Any, turns: Sequence[Mapping[str, Any]], tools: Any, number: int, ask: bool = False
) -> str:
    """The text of these turns by the model's chat template; `ask` adds the words that invite the assistant to speak.

    :param number: the row's place, for the sentence of a UserDataError.
    """
    try:
        return str(
            tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=ask)
        )
    except Exception as error:  # a template is a program of its own
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


def cut_sentence(count: int, shortened: int, dropped: int, max_length: int) -> str:
    """Such as `3 of 8 rows cut to 512 tokens, 1 of them dropped, because no answer was left`."""
    gone = f", {dropped} of them dropped, because no answer was left" if dropped else ""
    return f"{shortened} of {count} rows cut to {max_length} tokens{gone}"


def check_cut(count: int, shortened: int, max_length: int, share: float | None) -> None:
    """UserDataError when more rows are cut than the config allows (DatasetConfig.max_cut_share; None: any)."""
    if share is not None and shortened > share * count:
        raise UserDataError(
            f"{shortened} of {count} rows are longer than {max_length} tokens and would be cut, more than {share:.1%} "
            "(DatasetConfig.max_cut_share): set TrainingArguments.max_length higher, or raise the share."
        )


def check_share(count: int, dropped: int, max_length: int, share: float | None) -> None:
    """UserDataError when the cut loses more rows than the config allows (DatasetConfig.max_dropped_share)."""
    share = MAX_DROPPED_SHARE if share is None else share
    if dropped > share * count:
        raise UserDataError(
            f"{dropped} of {count} rows have no answer within {max_length} tokens, more than {share:.0%} "
            "(DatasetConfig.max_dropped_share): set TrainingArguments.max_length higher, or raise the share."
        )


@dataclass(frozen=True)
class Split:
    """Rows to train on in their order, rows held out, and the digests of both (`include.contracts.held_out`)."""

    train: list[Row]
    held_out: list[Row]
    trained_digests: list[str]
    held_out_digests: list[str]


def digests(values: Iterable[str | Conversation]) -> list[str]:
    """The digest of each row of the table, by what is learnt from it."""
    return [
        held_out.row_digest(
            value if isinstance(value, str) else {"messages": list(value.messages), "tools": value.tools}
        )
        for value in values
    ]


def nothing_held_out(count: int) -> str:
    """Why no row of a dataset of so many can be held out."""
    rows = "there is 1 row" if count == 1 else f"all {count} rows are the same"
    return (
        f"Rows are to be held out (DatasetConfig.train_test_split, or the evaluation of a retraining), but {rows}: "
        "none would be left to train on. Give more rows, or hold none out."
    )


def split(rows: Sequence[Row], row_digests: Sequence[str], share: float, shuffle: bool, seed: int) -> Split:
    """Hold rows out by their content, and order the rest.

    :param rows: tokenised, one for each digest.
    :param share: of the rows that train; 1 means all.
    :param shuffle: whether the rest is shuffled; the same seed gives the same order.
    :raises UserDataError: rows are to be held out, and equal rows are on one side, which leaves none for the other.
    """
    import random

    sides = held_out.held_out(row_digests, 1 - share)
    if share < 1 and not any(sides):
        raise UserDataError(nothing_held_out(len(rows)))
    kept = [(row, digest) for row, digest, out in zip(rows, row_digests, sides, strict=True) if not out]
    if shuffle:
        random.Random(seed).shuffle(kept)  # noqa: S311 - an order, not a secret
    out = [(row, digest) for row, digest, side in zip(rows, row_digests, sides, strict=True) if side]
    return Split(
        [row for row, _ in kept], [row for row, _ in out], [one for _, one in kept], [one for _, one in out]
    )
