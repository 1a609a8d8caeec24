"""Rows of preference data as token ids: the prompt, and the answers that are compared after it.

As in TRL's DPOTrainer and KTOTrainer, an answer begins where the rendered prompt and the whole conversation part.
Nothing is packed: each answer's likelihood is one number. It must never decide which answer is the better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from include.contracts.methods import Objective
from include.workloads import chat
from include.workloads.chat import Conversation, Marked, Pair
from include.workloads.chat_template import TemplateCheck, renderer, shown
from include.workloads.contract import UserDataError
from include.workloads.dataset.preferences import one_sided
from include.workloads.tuning import rows

PROMPT, CHOSEN, REJECTED, COMPLETION, LABEL = (
    *("prompt_ids", "chosen_ids", "rejected_ids"),
    *("completion_ids", "label"),
)
_ANSWERS = (CHOSEN, REJECTED, COMPLETION)

#: Token ids under PROMPT and either CHOSEN and REJECTED, or COMPLETION with a LABEL: the columns of TRL's collators.
ComparedRow = rows.Row


def tokenise(values: Sequence[Any], tokenizer: Any, objective: str) -> list[ComparedRow]:
    """Token ids of each row of the dataset step's table.

    :raises UserDataError: the table is of another objective, or a row does not fit the model's chat template.
    """
    wanted: type[Conversation] = Pair if objective == Objective.DPO else Marked
    if not all(isinstance(value, wanted) for value in values):
        raise UserDataError(
            f"The dataset's table holds no rows for {objective}: the dataset step has to run with the same annotation "
            "kaito.sh/tuning-objective."
        )
    rows.require_template(tokenizer)
    check = TemplateCheck(renderer(tokenizer))
    found = []
    for number, value in enumerate(values, 1):
        for conversation in (value, value.worse) if isinstance(value, Pair) else (value,):
            if reason := check.refused(conversation):
                raise UserDataError(f"Row {number} does not fit this model: {reason}.")
        found.append(compared_row(tokenizer, value, number))
    return found


def compared_row(tokenizer: Any, value: Pair | Marked, number: int) -> ComparedRow:
    """One row; `number` is its place, for the sentence of a UserDataError."""
    asked = value.prompt if isinstance(value, Pair) else value.messages[:-1]
    prompt = _ids(tokenizer, asked, value, number, ask=True)
    whole = _ids(tokenizer, value.messages, value, number)
    if isinstance(value, Marked):
        same = _common(prompt, whole)
        return {PROMPT: whole[:same], COMPLETION: whole[same:], LABEL: value.good}
    worse = _ids(tokenizer, value.rejected, value, number)
    same = min(_common(prompt, whole), _common(prompt, worse))
    return {PROMPT: whole[:same], CHOSEN: whole[same:], REJECTED: worse[same:]}


def _ids(
    tokenizer: Any, turns: Iterable[chat.Message], value: Conversation, number: int, *, ask: bool = False
) -> list[int]:
    text = rows.rendered(tokenizer, list(map(shown, turns)), value.tools, number, ask)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    both = zip(first, second, strict=False)
    shorter = min(len(first), len(second))
    return next((place for place, (one, other) in enumerate(both) if one != other), shorter)


def require_both(train: Sequence[ComparedRow]) -> None:
    """UserDataError when marked answers that are trained on are all good, or all bad; rows are held out and cut."""
    marks = [row[LABEL] for row in train if LABEL in row]
    if marks and (told := one_sided(sum(marks), len(marks))):
        raise UserDataError(f"Of the rows that are left to train on: {told}")


def length(row: Mapping[str, Any]) -> int:
    """Tokens of the prompt with its longest answer."""
    return len(row[PROMPT]) + max(len(row[name]) for name in _ANSWERS if name in row)


def is_lost(row: Mapping[str, Any], max_length: int) -> bool:
    """Whether a cut after `max_length` tokens leaves nothing to compare: no answer, or two that are the same."""
    room = max_length - len(row[PROMPT])
    left = [row[name][: max(room, 0)] for name in _ANSWERS if name in row]
    return not all(left) or (len(left) == 2 and left[0] == left[1])


def cut(found: Iterable[ComparedRow], max_length: int) -> tuple[list[ComparedRow], int, int]:
    """Rows no longer than `max_length` tokens: (rows, how many were cut, how many had nothing left to compare)."""
    kept: list[ComparedRow] = []
    shortened = dropped = 0
    for row in found:
        shortened += length(row) > max_length
        if is_lost(row, max_length):
            dropped += 1
            continue
        room = max_length - len(row[PROMPT])
        kept.append({name: value[:room] if name in _ANSWERS else value for name, value in row.items()})
    if not kept:
        raise UserDataError(
            f"No row has an answer within {max_length} tokens; set TrainingArguments.max_length higher."
        )
    return kept, shortened, dropped
