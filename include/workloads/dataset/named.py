"""Columns of a dataset that its training config names, where their own names do not say what they hold.

KAITO has these keys and reads none of them. Here a named column takes the place of the layouts' columns: what is not
named and would be another question, answer or conversation is not read, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from include.workloads.dataset.layouts import (
    ANSWERS,
    CONTEXTS,
    INPUT,
    MESSAGES,
    QUESTIONS,
    TEXT,
    WEAK_MESSAGES,
    fold,
    has_layout,
)

CONTEXT_KEY, RESPONSE_KEY, MESSAGES_KEY = "context_column", "response_column", "messages_column"
_REPLACED = frozenset((*MESSAGES, *WEAK_MESSAGES, *QUESTIONS, INPUT, *CONTEXTS, *ANSWERS, TEXT))


@dataclass(frozen=True)
class NamedColumns:
    """The columns that DatasetConfig names; none of them by default.

    `context` holds what is asked and `response` the answer; a response alone is plain text; `messages` holds chats.
    """

    context: str = ""
    response: str = ""
    messages: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> NamedColumns:
        """The names in a config's DatasetConfig. `response_column: text` alone is KAITO's default and names nothing."""
        context, response, messages = (
            str(given.get(key) or "").strip() for key in (CONTEXT_KEY, RESPONSE_KEY, MESSAGES_KEY)
        )
        if not context and fold(response) == TEXT:
            response = ""
        return cls(context, response, messages)

    @property
    def roles(self) -> dict[str, str]:
        """By each named column (as names are compared), the column of a layout that it stands for."""
        if self.messages:
            return {fold(self.messages): MESSAGES[0]}
        if self.context:
            return {fold(self.context): QUESTIONS[1], fold(self.response): ANSWERS[0]}
        return {fold(self.response): TEXT} if self.response else {}

    def __bool__(self) -> bool:
        return bool(self.roles)

    def missing(self, columns: Iterable[str]) -> list[str]:
        """Those that are named and that these columns lack, each with its key."""
        have = set(map(fold, columns))
        named = (
            (CONTEXT_KEY, self.context),
            (RESPONSE_KEY, self.response),
            (MESSAGES_KEY, self.messages),
        )
        return [f"{name!r} (DatasetConfig.{key})" for key, name in named if name and fold(name) not in have]

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as one of the layouts; what it says beside that (a system prompt, tools) stays."""
        roles = self.roles
        if not roles:
            return dict(row)
        kept = {name: value for name, value in row.items() if fold(name) not in _REPLACED | set(roles)}
        return kept | {role: row[name] for name in row if (role := roles.get(fold(name)))}

    def unread(self, columns: Iterable[str]) -> list[str]:
        """Columns of a layout that are not read because others were named."""
        roles = self.roles
        return [name for name in columns if roles and fold(name) in _REPLACED and fold(name) not in roles]


def usable(columns: Iterable[str], named: Iterable[str]) -> bool:
    """Whether a file with these columns can be a dataset, with those that are named (as names are compared)."""
    found, wanted = set(columns), set(named)
    return wanted <= set(map(fold, found)) if wanted else has_layout(found)
