"""Whether a model's chat template shows what a conversation teaches, found by rendering it: no template is analysed.

Each field is replaced by a mark, the template is rendered, and a mark that is not there is a field that the model would
never see. A template may also refuse an order of roles. Both are found on a CPU, before a GPU waits for the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from include.workloads.chat import WEIGHT, Conversation, Message

#: Renders (messages, tools) with the model's template.
Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None], str]

_REASON_CHARS = 120
_CACHED = 10_000


def shown(message: Message) -> Message:
    """The message as the template sees it; its weight is not the template's business."""
    return {name: value for name, value in message.items() if name != WEIGHT}


def renderer(tokenizer: Any) -> Render:
    """The template of a tokenizer of `transformers`."""

    def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False))

    return render


class TemplateCheck:
    """Judges conversations by one template. Conversations of the same shape are judged once."""

    def __init__(self, render: Render) -> None:
        self.render = render
        self._known: dict[tuple[object, ...], str | None] = {}

    def refused(self, conversation: Conversation) -> str | None:
        """Why the template cannot show the conversation, naming roles and fields but no data, or None."""
        shape = _shape(conversation)
        if shape is None:
            return self._marked(conversation) or self._content(conversation)
        if shape not in self._known:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[shape] = self._marked(conversation)
        return self._known[shape]

    def _marked(self, conversation: Conversation) -> str | None:
        messages, tools, marks = _with_marks(conversation)
        try:
            text = self.render(messages, tools)
        except Exception as error:  # a template is a program of its own: whatever it raises is its refusal
            return (
                f"the model's chat template refuses its roles ({_roles(conversation)}): "
                f"{' '.join(str(error).split())[:_REASON_CHARS]}"
            )
        missing = next((name for mark, name in marks.items() if mark not in text), None)
        return f"the model's chat template does not show {missing}" if missing else None

    def _content(self, conversation: Conversation) -> str | None:
        """Templates cut thoughts out of answers: a text with such signs must come out whole."""
        try:
            text = self.render([shown(message) for message in conversation.messages], conversation.tools)
        except Exception as error:
            return f"the model's chat template refuses the row ({type(error).__name__})"
        for message in conversation.messages:
            if message["role"] == "assistant" and message["content"].strip() not in text:
                return (
                    "the model's chat template leaves out a part of an assistant's content, such as <think>"
                )
        return None


def _shape(conversation: Conversation) -> tuple[object, ...] | None:
    """What the template's decision hangs on, or None where it may hang on the texts."""
    if conversation.tools or any("</" in message["content"] for message in conversation.messages):
        return None
    if any("tool_calls" in message or message["role"] == "tool" for message in conversation.messages):
        return None
    return tuple((message["role"], *sorted(message)) for message in conversation.messages)


def _with_marks(
    conversation: Conversation,
) -> tuple[list[Message], list[dict[str, Any]] | None, dict[str, str]]:
    """The conversation with a mark in each field that is learnt or learnt from, and each mark's name for people."""
    marks: dict[str, str] = {}

    def mark(name: str) -> str:
        made = f"KaitoMark{len(marks)}x"
        marks[made] = name
        return made

    messages = []
    for message in map(shown, conversation.messages):
        found = dict(message)
        if message["content"].strip():
            found["content"] = mark(f"content of a message of the {message['role']}")
        if "reasoning_content" in message:
            found["reasoning_content"] = mark("reasoning_content")
        if "tool_calls" in message:
            found["tool_calls"] = [_marked_call(call, mark) for call in message["tool_calls"]]
        messages.append(found)
    tools = [_marked_tool(tool, mark) for tool in conversation.tools] if conversation.tools else None
    return messages, tools, marks


def _marked_call(call: Mapping[str, Any], mark: Callable[[str], str]) -> dict[str, Any]:
    arguments = {mark("the arguments of tool_calls"): 1} if call["function"]["arguments"] else {}
    return {**call, "function": {"name": mark("tool_calls"), "arguments": arguments}}


def _marked_tool(tool: Mapping[str, Any], mark: Callable[[str], str]) -> dict[str, Any]:
    function = tool.get("function")
    if isinstance(function, Mapping):
        return {**tool, "function": {**function, "name": mark("tools")}}
    return {**tool, "name": mark("tools")}


def _roles(conversation: Conversation) -> str:
    roles = conversation.roles
    return ", ".join(roles if len(roles) <= 6 else [*roles[:6], "..."])
