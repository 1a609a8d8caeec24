"""What is learnt from, whatever the objective: the tokenised rows, how long each is, and how they are cut.

Answers (`sft`) and compared answers (`dpo`, `kto`) are read in modules of their own; the run asks here and nowhere else
which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.methods import Objective
from include.workloads.tuning import preferences, rows
from include.workloads.tuning.config import TuningConfig
from include.workloads.tuning.rows import Row

Cut = Callable[[Sequence[Row], int], tuple[list[Row], int, int]]


@dataclass(frozen=True)
class Material:
    """Tokenised rows.

    :ivar length: tokens of a row.
    :ivar cut: (rows no longer than so many tokens, how many were cut, how many had nothing left to learn).
    :ivar learnt: what of the rows is learnt, for a sentence.
    """

    rows: list[Row]
    length: Callable[[Row], int]
    cut: Cut
    learnt: str

    def sentence(self, shortened: int, dropped: int, max_length: int) -> str:
        """What is learnt of how many rows."""
        count = len(self.rows)
        cuts = f"; {rows.cut_sentence(count, shortened, dropped, max_length)}" if shortened else ""
        return f"{count} rows; {self.learnt}{cuts}."


def read(config: TuningConfig, column: str, values: Sequence[Any], tokenizer: Any) -> Material:
    """The rows of the dataset step's table (`rows.read_table`) as this training's objective learns from them.

    :raises UserDataError: they are of another objective, or a row does not fit the model's chat template.
    """
    if config.objective != Objective.SFT:
        found = preferences.tokenise(values, tokenizer, config.objective)
        return Material(found, preferences.length, preferences.cut, _compared(config.objective))
    answers_only = bool(config.training.get("assistant_only_loss", True))
    tokenised = rows.tokenise(column, values, tokenizer, answers_only)
    return Material(tokenised.rows, lambda row: len(row["input_ids"]), rows.cut, _learnt(column, tokenised))


def _compared(objective: str) -> str:
    if objective == Objective.DPO:
        return "each has a better and a worse answer, compared with those of the model without the adapter"
    return "each has an answer that is good or bad, compared with that of the model without the adapter"


def _learnt(column: str, tokenised: rows.Tokenised) -> str:
    if column == "text":
        return "the loss is on all tokens, because the rows are plain text"
    if not tokenised.answers_only:
        return "the loss is on all tokens, as assistant_only_loss is false"
    if tokenised.unmasked:
        return (
            f"the loss is on the assistant's answers, except in {tokenised.unmasked} rows whose chat template "
            "does not show where they are: there it is on all tokens"
        )
    if tokenised.partly:
        return (
            f"the loss is on the assistant's answers, except on earlier ones in {tokenised.partly} rows, which the "
            "chat template rewrites"
        )
    return "the loss is on the assistant's answers only"
