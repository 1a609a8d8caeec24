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


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Whether the model shall learn to say this message."""
    return message["role"] == "assistant" and message.get(WEIGHT) != 0


def to_columns(conversation: Conversation) -> tuple[list[Message], str | None]:
    """The values of the file's columns messages and tools. ValueError for a number that JSON cannot hold."""
    messages = [
        {**message, "tool_calls": _json(message["tool_calls"])} if "tool_calls" in message else message
        for message in conversation.messages
    ]
    return messages, _json(conversation.tools) if conversation.tools else None


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
