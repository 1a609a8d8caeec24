"""From a row as people publish it to the one shape that the tuning reads: chat messages, or plain text.

A row that cannot be used gives a reason instead, in words that the report can count. Never guesses: a row is used
as its columns say or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

QUESTIONS = ("instruction", "prompt", "question")
CONTEXTS = ("context", "input")
ANSWERS = ("completion", "output", "response", "answer")
ROLES = frozenset({"system", "user", "assistant", "tool"})
# OpenAI renamed the system role for its newer models.
ROLE_ALIASES = {"developer": "system"}

ACCEPTED = (
    "messages | prompt, completion | instruction, (context or input), (output or response) | question, answer "
    "| text"
)
NO_COLUMNS = "no usable columns"

Message = dict[str, str]


class Kind(Enum):
    """The shapes of a normalised dataset; the value is the name of its one column."""

    MESSAGES = "messages"
    TEXT = "text"


@dataclass(frozen=True)
class Usable:
    """A normalised row."""

    kind: Kind
    value: list[Message] | str


@dataclass(frozen=True)
class Dropped:
    """Why a row is not used."""

    reason: str


@dataclass(frozen=True)
class Mapped:
    """Which columns of a file carry what, by the names that the file uses."""

    messages: str | None = None
    question: str | None = None
    context: str | None = None
    answer: str | None = None
    text: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns to read; the others need not be."""
        named = (self.messages, self.question, self.context, self.answer, self.text)
        return [name for name in named if name is not None]


@lru_cache(maxsize=1024)
def map_columns(names: tuple[str, ...]) -> Mapped | None:
    """The mapping for a row or file with these columns (any case), or None. Chat wins over plain text."""
    by_name = {name.strip().lower(): name for name in reversed(names)}

    def first(candidates: Sequence[str]) -> str | None:
        return next((by_name[name] for name in candidates if name in by_name), None)

    if "messages" in by_name:
        return Mapped(messages=by_name["messages"])
    question, answer = first(QUESTIONS), first(ANSWERS)
    if question is not None and answer is not None:
        return Mapped(question=question, context=first(CONTEXTS), answer=answer)
    if "text" in by_name:
        return Mapped(text=by_name["text"])
    return None


def normalise(row: Mapping[str, Any]) -> Usable | Dropped:
    """One row in the normalised shape, or why not."""
    mapped = map_columns(tuple(row))
    if mapped is None:
        return Dropped(NO_COLUMNS)
    if mapped.text is not None:
        return _text(row[mapped.text])
    if mapped.messages is not None:
        return _checked(_list(row[mapped.messages]))
    question, context, answer = (
        row.get(name or "") for name in (mapped.question, mapped.context, mapped.answer)
    )
    return _pair(question, context, answer, mapped)


def _text(value: object) -> Usable | Dropped:
    if not isinstance(value, str):
        return Dropped("text is not a string" if value is not None else "text is empty")
    return Usable(Kind.TEXT, value) if value.strip() else Dropped("text is empty")


def _list(value: object) -> object:
    """A list of messages may come as JSON text: CSV has no other way."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _checked(messages: object) -> Usable | Dropped:
    if messages is None or messages == []:
        return Dropped("messages is empty")
    if not isinstance(messages, list):
        return Dropped("messages is not a list")
    checked: list[Message] = []
    for message in messages:
        found = _message(message)
        if isinstance(found, Dropped):
            return found
        checked.append(found)
    if not any(message["role"] == "assistant" for message in checked):
        return Dropped("no assistant message to learn from")
    return Usable(Kind.MESSAGES, checked)


def _message(message: object) -> Message | Dropped:
    if not isinstance(message, Mapping):
        return Dropped("a message is not an object with role and content")
    role, content = message.get("role"), _content(message.get("content"))
    if not isinstance(role, str):
        return Dropped("a message has no role")
    role = ROLE_ALIASES.get(role.strip().lower(), role.strip().lower())
    if role not in ROLES:
        return Dropped("a message has an unknown role (known: system, user, assistant, tool)")
    if not isinstance(content, str):
        return Dropped("a message has no text")
    if role in ("user", "assistant") and not content.strip():
        return Dropped(f"a message of the {role} is empty")
    return {"role": role, "content": content}


def _content(content: object) -> object:
    """Text of a message; OpenAI's list of parts is joined when every part is text."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    if all(isinstance(text, str) for text in texts):
        return "\n".join(str(text) for text in texts)
    return None


def _pair(question: object, context: object, answer: object, mapped: Mapped) -> Usable | Dropped:
    question, answer = _list(question), _list(answer)
    if isinstance(question, list) or isinstance(answer, list):
        return _conversation(question, answer)
    for value, name in ((question, mapped.question), (answer, mapped.answer)):
        if value is not None and not isinstance(value, str):
            return Dropped(f"{name} is not a string")
        if value is None or not str(value).strip():
            return Dropped(f"{name} is empty")
    asked = str(question)
    if isinstance(context, str) and context.strip():
        asked = f"{asked}\n\n{context}"
    return _checked([{"role": "user", "content": asked}, {"role": "assistant", "content": str(answer)}])


def _conversation(prompt: object, completion: object) -> Usable | Dropped:
    """TRL's conversational prompt and completion: lists of messages, either of them may be plain text."""
    parts: list[object] = []
    for value, role in ((prompt, "user"), (completion, "assistant")):
        if isinstance(value, list):
            parts.extend(value)
        else:
            parts.append({"role": role, "content": value})
    return _checked(parts)
