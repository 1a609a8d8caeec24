"""From a row as people publish it to the one shape that the tuning reads: chat messages, or plain text.

A row that cannot be used gives a reason instead, in words that the report can count. Never guesses: a row is used
as its columns say, with all that changes what is learnt, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from include.workloads.chat import Conversation, Message
from include.workloads.dataset import layouts, messages
from include.workloads.dataset.layouts import CONTEXTS, HISTORY, INPUT, LABEL, REASONING, TEXT, TOOLS
from include.workloads.dataset.messages import Refused
from include.workloads.dataset.values import Twice, as_list, as_text, is_empty

NO_COLUMNS = "no usable columns"


class Kind(Enum):
    """The shapes of a normalised dataset, by the names that a report has for them."""

    MESSAGES = "messages"
    TEXT = "text"
    PAIRS = "pairs"
    MARKED = "marked answers"


class Preference(Enum):
    """What becomes of rows that hold a good and a bad answer, or a mark of one."""

    REFUSE = "refuse"
    CHOSEN = "chosen"


@dataclass(frozen=True)
class Usable:
    """A normalised row, and the names in it that have no meaning here."""

    kind: Kind
    value: Conversation | str
    unread: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True)
class Dropped:
    """Why a row is not used."""

    reason: str


def normalise(row: Mapping[str, Any], preference: Preference = Preference.REFUSE) -> Usable | Dropped:
    """One row in the normalised shape, or why not."""
    if (name := layouts.twice(row)) or isinstance(row, Twice):
        return Dropped(f"the column {name} stands twice" if name else "a column stands twice")
    if not layouts.has_layout(row):
        return Dropped(NO_COLUMNS)
    try:
        return _Row(row).used(preference)
    except Refused as reason:
        return Dropped(str(reason))


class _Row:
    """One row on its way: `has` are its columns, `says` those that say something."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.has = {layouts.fold(name): value for name, value in row.items()}
        self.says = {name: value for name, value in self.has.items() if not is_empty(value)}
        self.unread = {name for name in self.says if name not in layouts.read_columns((name,))}

    def used(self, preference: Preference) -> Usable:
        for name, why in layouts.UNUSABLE.items():
            value = self.says.get(name)
            if name in self.says and (value is False or layouts.NEUTRAL.get(name) != value):
                raise Refused(f"{name}: {why}")
        if {*layouts.CHOSEN, *layouts.REJECTED, LABEL} & set(self.says):
            self._choose(preference)
        kind, value = self._value()
        return Usable(kind, value, frozenset(self.unread))

    def _choose(self, preference: Preference) -> None:
        """Leave the good answer alone in the row."""
        name = min({*layouts.CHOSEN, *layouts.REJECTED, LABEL} & set(self.says))
        if preference is not Preference.CHOSEN:
            raise Refused(f"{name}: {layouts.preference(name)}")
        label = self.says.pop(LABEL, None)
        if label is not None:
            if label is not True and label is not False:
                raise Refused("label is neither true nor false")
            if label is False:
                raise Refused("label is false: the answer is a bad one")
        chosen, rejected = self._one(layouts.CHOSEN), self._one(layouts.REJECTED)
        if not chosen and not rejected:
            return
        if not chosen:
            raise Refused(f"{rejected} without {layouts.CHOSEN[0]}")
        self._take_chosen(chosen)

    def _take_chosen(self, chosen: str) -> None:
        good = self.says.pop(chosen)
        for name in self._any((*layouts.ANSWERS, *layouts.MESSAGES)):
            if self.says[name] != good:
                raise Refused(f"{name} and {chosen} say different things; keep one of them")
        for name in (*layouts.CHOSEN, *layouts.REJECTED):
            self.says.pop(name, None)
            self.has.pop(name, None)
        asked = self.says.get(INPUT)
        if isinstance(asked, Mapping):  # OpenAI's preference data
            self._take_input(asked)
        if isinstance(good, list):
            good = good[_repeated(good, self.says.get("prompt")) :]
        alone = not self._any((*layouts.QUESTIONS, INPUT))
        column = layouts.MESSAGES[0] if alone and isinstance(good, list) else layouts.ANSWERS[0]
        self.says[column] = self.has[column] = good

    def _take_input(self, asked: Mapping[str, Any]) -> None:
        fields = {layouts.fold(name): value for name, value in asked.items() if not is_empty(value)}
        if set(fields) - {"messages", TOOLS, "parallel_tool_calls"} or "messages" not in fields:
            raise Refused("input is not an object with messages and tools")
        del self.says[INPUT], self.has[INPUT]
        if TOOLS in fields:
            self.says[TOOLS] = fields[TOOLS]
        self.says["prompt"] = self.has["prompt"] = fields["messages"]

    def _value(self) -> tuple[Kind, Conversation | str]:
        full, there = self._is_pair(self.says), self._is_pair(self.has)
        column = self._one(layouts.MESSAGES, self.says if full else self.has)
        if column is None and not there and TEXT not in self.has:
            column = self._one(layouts.WEAK_MESSAGES, self.has)
        if column is not None:
            return Kind.MESSAGES, self._conversation(column)
        if there:
            return Kind.MESSAGES, self._pair()
        if TEXT in self.has:
            return Kind.TEXT, self._text()
        raise Refused(NO_COLUMNS)

    def _is_pair(self, among: Mapping[str, Any]) -> bool:
        return bool(self._any((*layouts.QUESTIONS, INPUT), among) and self._any(layouts.ANSWERS, among))

    def _text(self) -> str:
        self._no_place(
            (*layouts.QUESTIONS, *CONTEXTS, *layouts.ANSWERS, *layouts.SYSTEM, HISTORY, TOOLS, REASONING),
            "plain text",
        )
        self.unread |= set(self._any(layouts.WEAK_MESSAGES))
        value = self.has[TEXT]
        if not isinstance(value, str):
            raise Refused("text is not a string" if value is not None else "text is empty")
        if not value.strip():
            raise Refused("text is empty")
        return value

    def _conversation(self, column: str) -> Conversation:
        found = messages.conversation(as_list(self.has[column]), column, self.unread)
        self._beside(
            found, (*layouts.QUESTIONS, *layouts.ANSWERS, TEXT), (*CONTEXTS, HISTORY, REASONING), column
        )
        return self._whole(found)

    def _beside(self, found: list[Message], other: Iterable[str], more: Iterable[str], column: str) -> None:
        """A column of another layout is not read; one that would add to the conversation must stand in it."""
        self.unread |= set(self._any(other)) | set(self._any(layouts.WEAK_MESSAGES)) - {column}
        said = "\n".join(message["content"] for message in found)
        for name in self._any(more):
            text = as_text(self.says[name])
            if text is None or text.strip() not in said:
                raise Refused(f"{name} beside {column} says something that is not in it")

    def _pair(self) -> Conversation:
        asked = self._one(layouts.QUESTIONS) or self._one(layouts.QUESTIONS, self.has)
        contexts = CONTEXTS if asked else CONTEXTS[:1]
        asked = asked or INPUT
        answer = self._one(layouts.ANSWERS) or self._any(layouts.ANSWERS, self.has)[0]
        self.unread |= set(self._any((TEXT, *layouts.WEAK_MESSAGES)))
        if isinstance(self.has[asked], list) or isinstance(self.has[answer], list):
            return self._whole(self._listed(asked, answer, contexts))
        question = self._required(asked)
        context = self._one(contexts)
        if context:
            question = f"{question}\n\n{self._required(context)}"
        turns: list[Message] = [{"role": "user", "content": question}, self._answer(self._required(answer))]
        if HISTORY in self.says:
            turns = messages.history(self.says[HISTORY]) + turns
        return self._whole(turns)

    def _answer(self, content: str) -> Message:
        found: Message = {"role": "assistant", "content": content}
        if REASONING in self.says:
            found[REASONING] = self._required(REASONING)
        return found

    def _listed(self, asked: str, answer: str, contexts: Iterable[str]) -> list[Message]:
        """TRL's conversational prompt and completion: lists of messages, either of them may be plain text."""
        self._no_place((*contexts, HISTORY, REASONING), "a list of messages")
        turns: list[Message] = []
        for name, role in ((asked, "user"), (answer, "assistant")):
            value = self.has[name]
            if isinstance(value, list):
                part = messages.conversation(value, name, self.unread)
                if name == answer and part[0]["role"] != "assistant":
                    raise Refused(f"{name} does not begin with a message of the assistant")
                turns += part
            else:
                turns.append({"role": role, "content": self._required(name)})
        return turns

    def _whole(self, found: list[Message]) -> Conversation:
        system = self._one(layouts.SYSTEM)
        if system:
            text = self._required(system)
            first = found[0]
            if first["role"] != "system":
                found = [{"role": "system", "content": text}, *found]
            elif first["content"].strip() != text.strip():
                raise Refused(f"{system} and the first message hold different system prompts")
        given = messages.tools(self.says[TOOLS]) if TOOLS in self.says else None
        return Conversation(messages.checked(found), given)

    def _required(self, name: str) -> str:
        value = self.has[name]
        text = as_text(value)
        if text is None and not is_empty(value):
            raise Refused(f"{name} is not text")
        if text is None or not text.strip():
            raise Refused(f"{name} is empty")
        return text

    def _no_place(self, names: Iterable[str], where: str) -> None:
        if found := self._any(names):
            raise Refused(f"{found[0]} beside {where} has no place in it")

    def _any(self, names: Iterable[str], among: Mapping[str, Any] | None = None) -> list[str]:
        among = self.says if among is None else among
        return [name for name in names if name in among]

    def _one(self, names: Iterable[str], among: Mapping[str, Any] | None = None) -> str | None:
        """The one of these columns that is there; Refused when two of them say different things."""
        found = self._any(names, among)
        saying = [name for name in found if name in self.says]
        for name in saying[1:]:
            if self.says[name] != self.says[saying[0]]:
                raise Refused(f"{saying[0]} and {name} say different things; keep one of them")
        return next(iter(saying or found), None)


def _repeated(good: list[Any], prompt: object) -> int:
    """How many messages at the beginning of a chosen answer only repeat the prompt, as some data sets do."""
    if isinstance(prompt, list):
        return len(prompt) if good[: len(prompt)] == prompt else 0
    first = good[0] if good else None
    content = first.get("content", first.get("value")) if isinstance(first, Mapping) else None
    return 1 if isinstance(content, str) and content == prompt else 0
