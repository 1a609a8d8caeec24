"""Rows that teach by comparing: a better and a worse answer for one prompt (dpo), or one that is good or bad (kto).

A row's two answers are read as two rows of any layout that has a chosen answer, so whatever a conversation may hold,
they may. It must never guess which answer is the better one, or what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.contracts.methods import Objective
from include.workloads.chat import Conversation, Marked, Pair
from include.workloads.dataset import layouts
from include.workloads.dataset.columns import Dropped, Kind, Preference, Usable, normalise
from include.workloads.dataset.values import is_empty

_ANNOTATION = "the annotation kaito.sh/tuning-objective"


def compared(row: Mapping[str, Any], objective: str) -> Usable | Dropped:
    """One row in the shape that an objective learns from, or why not.

    :param objective: `dpo` or `kto`.
    """
    return _marked(row) if objective == Objective.KTO else _pair(row)


def _pair(row: Mapping[str, Any]) -> Usable | Dropped:
    names = {layouts.fold(name): name for name, value in row.items() if not is_empty(value)}
    chosen = [names[name] for name in layouts.CHOSEN if name in names]
    rejected = [names[name] for name in layouts.REJECTED if name in names]
    if layouts.LABEL in names and not chosen:
        return Dropped(f"label marks one answer: that is data for {_ANNOTATION}: kto")
    for found, wanted in ((chosen, layouts.CHOSEN), (rejected, layouts.REJECTED)):
        if len(found) != 1:
            return Dropped(
                f"{' and '.join(found)} stand beside each other"
                if found
                else f"there is no {wanted[0]} answer"
            )
    better = _answered(row, {}, "chosen")
    worse = _answered(row, {chosen[0]: row[rejected[0]]}, "rejected")
    for one in (better, worse):
        if isinstance(one, Dropped):
            return one
    if not isinstance(better, Usable) or not isinstance(worse, Usable):
        return Dropped("the answers are not text")
    return _compared(better, worse)


def _answered(row: Mapping[str, Any], instead: Mapping[str, Any], which: str) -> Usable | Dropped:
    """The row with one of its answers."""
    found = normalise({**row, **instead}, Preference.CHOSEN)
    return found if isinstance(found, Usable) else Dropped(f"{which}: {found.reason}")


def _compared(better: Usable, worse: Usable) -> Usable | Dropped:
    if not isinstance(better.value, Conversation) or not isinstance(worse.value, Conversation):
        return Dropped("plain text has no prompt and no answer")
    pair = Pair(better.value.messages, better.value.tools, worse.value.messages)
    asked = len(pair.prompt)
    answers = [list(messages[asked:]) for messages in (pair.messages, pair.rejected)]
    if not any(answers):
        return Dropped("chosen and rejected are the same")
    if not all(answers):
        return Dropped("one of chosen and rejected is only the beginning of the other")
    if any(answer[0]["role"] != "assistant" for answer in answers):
        return Dropped("chosen and rejected answer different prompts")
    if not asked:
        return Dropped("chosen and rejected have no prompt")
    return Usable(Kind.PAIRS, pair, better.unread | worse.unread)


def _marked(row: Mapping[str, Any]) -> Usable | Dropped:
    names = {layouts.fold(name): name for name, value in row.items() if not is_empty(value)}
    if {*layouts.CHOSEN, *layouts.REJECTED} & set(names):
        return Dropped(f"chosen and rejected are a pair: that is data for {_ANNOTATION}: dpo")
    if layouts.LABEL not in names:
        return Dropped("there is no label, true or false")
    good = row[names[layouts.LABEL]]
    if good is not True and good is not False:
        return Dropped("label is neither true nor false")
    found = normalise({name: value for name, value in row.items() if name != names[layouts.LABEL]})
    if isinstance(found, Dropped):
        return found
    if not isinstance(found.value, Conversation):
        return Dropped("plain text has no prompt and no answer")
    marked = Marked(found.value.messages, found.value.tools, good)
    if marked.messages[-1]["role"] != "assistant":
        return Dropped("the last message is not the assistant's: there is no answer to judge")
    if len(marked.messages) < 2:
        return Dropped("the answer has no prompt")
    return Usable(Kind.MARKED, marked, found.unread)


def one_sided(good: int, rows: int) -> str:
    """Why answers that are all good, or all bad, teach nothing by comparing; "" where both are there."""
    if 0 < good < rows:
        return ""
    return (
        f"All {rows} rows have label {'true' if good else 'false'}: kto learns from good and bad answers, so give both"
        + (
            f", or train on the answers themselves without {_ANNOTATION} and without the column label."
            if good
            else "."
        )
    )


__all__ = ["compared", "one_sided"]
