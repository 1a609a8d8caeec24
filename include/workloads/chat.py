"""A conversation as the dataset step writes it and the tuning reads it, and its form in a Parquet file.

A message has `role` and `content`, and where its row had them `reasoning_content`, `tool_calls`, `tool_call_id`,
`name` and `weight` (0: not learnt). Tools and calls are kept as JSON text in the file: their shapes differ by row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MESSAGES, TOOLS = "messages", "tools"
#: Columns of preference data beside messages, which hold the better answer (or the one that is marked).
REJECTED, GOOD = "rejected", "good"
#: Fields of the file's message beside role and content; all of them may be null.
TEXT_FIELDS = ("reasoning_content", "tool_calls", "tool_call_id", "name")
WEIGHT = "weight"

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages in their order, and the tools that the assistant may call."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None

    @property
    def roles(self) -> list[str]:
        return [str(message["role"]) for message in self.messages]


@dataclass(frozen=True)
class Pair(Conversation):
    """A conversation with the better answer, and beside it the whole conversation with the worse one."""

    rejected: Sequence[Message] = ()

    @property
    def prompt(self) -> Sequence[Message]:
        """The messages that both begin with."""
        both = zip(self.messages, self.rejected, strict=False)
        same = next((n for n, (one, other) in enumerate(both) if one != other), None)
        return self.messages[: min(len(self.messages), len(self.rejected)) if same is None else same]

    @property
    def worse(self) -> Conversation:
        """The conversation with the worse answer."""
        return Conversation(self.rejected, self.tools)


@dataclass(frozen=True)
class Marked(Conversation):
    """A conversation whose last message is a good answer, or a bad one."""

    good: bool = True


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Whether the model shall learn to say this message."""
    return message["role"] == "assistant" and message.get(WEIGHT) != 0


def to_columns(conversation: Conversation) -> tuple[Any, ...]:
    """The values of the file's columns: messages, tools and, of preference data, what it is compared by.

    ValueError for a number that JSON cannot hold.
    """
    values = (_to_column(conversation.messages), _json(conversation.tools) if conversation.tools else None)
    if isinstance(conversation, Pair):
        return (*values, _to_column(conversation.rejected))
    return (*values, conversation.good) if isinstance(conversation, Marked) else values


def _to_column(messages: Sequence[Message]) -> list[Message]:
    return [
        {**message, "tool_calls": _json(message["tool_calls"])} if "tool_calls" in message else message
        for message in messages
    ]


def from_row(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row of the file, with what it is compared by where the row has that."""
    plain = from_columns(row[MESSAGES], row.get(TOOLS))
    if (rejected := row.get(REJECTED)) is not None:
        return Pair(plain.messages, plain.tools, from_columns(rejected, None).messages)
    if (good := row.get(GOOD)) is not None:
        return Marked(plain.messages, plain.tools, bool(good))
    return plain


def from_columns(messages: Sequence[Mapping[str, Any]], tools: str | None) -> Conversation:
    """The conversation that the columns hold; fields that are null are left out."""
    found = []
    for message in messages:
        kept = {name: value for name, value in message.items() if value is not None}
        kept["content"] = kept.get("content", "")
        if "tool_calls" in kept:
            kept["tool_calls"] = json.loads(kept["tool_calls"])
        found.append(kept)
    return Conversation(found, json.loads(tools) if tools else None)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
