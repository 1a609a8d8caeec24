"""From the messages of a row to ours, every field of them used or named in the reason why the row is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workloads.chat import Message, is_learnt
from include.workloads.dataset import layouts
from include.workloads.dataset.layouts import REASONING, fold, twice
from include.workloads.dataset.values import Twice, as_list, as_text, has_twice, is_empty, load

KNOWN = ", ".join((*layouts.ROLES, *layouts.ROLE_ALIASES))


class Refused(Exception):
    """Why a row is not used, in words that a report can count; they name columns and fields and quote no data."""


def conversation(value: object, column: str, unread: set[str]) -> list[Message]:
    """The messages in a column's value. Raises Refused; fields without a meaning here are added to `unread`."""
    if value is None or value == []:
        raise Refused(f"{column} is empty")
    if not isinstance(value, list):
        raise Refused(f"{column} is not a list of messages")
    if all(isinstance(item, str) for item in value):
        raise Refused(
            f"{column} is a list of texts without roles; give each as an object with role and content"
        )
    if not any(isinstance(item, Mapping) for item in value):
        raise Refused(
            f"{column} is a list without messages; where it is an answer or a question, give it as text"
        )
    return [message(item, unread) for item in value]


def checked(messages: list[Message]) -> list[Message]:
    """The messages, when there is something to learn from them."""
    if not any(map(is_learnt, messages)):
        raise Refused("no assistant message to learn from")
    return messages


def message(value: object, unread: set[str]) -> Message:
    """One message: role, content and those other fields that say something."""
    if not isinstance(value, Mapping):
        raise Refused("a message is not an object with role and content")
    if isinstance(value, Twice) or (name := twice(value)):
        raise Refused(
            "a message has a field twice" if isinstance(value, Twice) else f"a message has {name} twice"
        )
    fields = {fold(name): item for name, item in value.items() if not is_empty(item)}
    found: Message = {"role": _role(fields)}
    found["content"] = _content(fields, found["role"])
    for name, item in fields.items():
        if name in layouts.MESSAGE_FIELDS:
            _FIELDS[name](found, item)
        elif why := layouts.MESSAGE_UNUSABLE.get(name):
            if item is False or layouts.NEUTRAL.get(name) != item:
                raise Refused(f"a message has {name}: {why}")
        elif name not in (*layouts.ROLE_KEYS, *layouts.CONTENT_KEYS):
            unread.add(f"message.{name}")
    if not found["content"].strip() and found["role"] in ("user", "assistant") and "tool_calls" not in found:
        raise Refused(f"a message of the {found['role']} is empty")
    return found


def _role(fields: Mapping[str, Any]) -> str:
    given = {known_role(fields[key]) for key in layouts.ROLE_KEYS if key in fields}
    if len(given) > 1:
        raise Refused("a message has two different roles, in role and in from")
    if not given:
        raise Refused("a message has no role")
    return given.pop()


def known_role(value: object) -> str:
    """The role that a name stands for. Raises Refused where it is none."""
    if not isinstance(value, str):
        raise Refused("a message has a role that is not text")
    role = value.strip().lower()
    role = layouts.ROLE_ALIASES.get(role, role)
    if role not in layouts.ROLES:
        raise Refused(f"a message has an unknown role (known: {KNOWN})")
    return role


def _content(fields: Mapping[str, Any], role: str) -> str:
    given = [(key, fields[key]) for key in layouts.CONTENT_KEYS if key in fields]
    if not given:
        return ""
    texts = {_text(key, value) for key, value in given}
    if len(texts) > 1:
        raise Refused("a message has two different texts, in " + " and ".join(key for key, _ in given))
    return texts.pop()


def _text(key: str, value: object) -> str:
    """Text of a message; OpenAI's list of parts is joined when every part is text and nothing else."""
    if isinstance(value, list):
        parts = [part for part in value if not is_empty(part)]
        if not all(map(_is_text_part, parts)):
            raise Refused(f"a message's {key} has a part that is not text")
        return "\n".join(part if isinstance(part, str) else part["text"] for part in parts)
    text = as_text(value)
    if text is None:
        raise Refused(f"a message's {key} is not text")
    return text


def _is_text_part(part: object) -> bool:
    if isinstance(part, str):
        return True
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return False
    return all(name in ("type", "text", "index", "cache_control") or is_empty(part[name]) for name in part)


def _assistant_only(found: Message, name: str) -> None:
    if found["role"] != "assistant":
        raise Refused(f"a message of the {found['role']} has {name}; only the assistant's may")


def _calls(found: Message, value: object) -> None:
    _assistant_only(found, "tool_calls")
    if has_twice(value):
        raise Refused("tool_calls has a name twice in one object")
    value = as_list(value)
    if not isinstance(value, list) or not value:
        raise Refused("tool_calls is not a list of calls")
    found["tool_calls"] = [_call(call) for call in value]


def _call(value: object) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping):
        raise Refused("tool_calls has an entry without a function")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise Refused("tool_calls has a function without a name")
    if isinstance(arguments, str):
        try:
            arguments = load(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping) or has_twice(arguments):
        raise Refused("tool_calls has arguments that are not a JSON object")
    if unknown := _more(value, ("id", "type", "index", "function")):
        raise Refused(f"tool_calls has {min(unknown)}, which is not known here")
    if _more(function, ("name", "arguments")):
        raise Refused("tool_calls has a function with more than name and arguments")
    kept = {key: value[key] for key in ("id", "type") if isinstance(value.get(key), str)}
    return {**kept, "function": {"name": name, "arguments": dict(arguments)}}


def _more(value: Mapping[str, Any], known: tuple[str, ...]) -> set[str]:
    return {str(key) for key, item in value.items() if key not in known and not is_empty(item)}


def _weight(found: Message, value: object) -> None:
    if isinstance(value, bool) or value not in (0, 1):
        raise Refused("a message's weight is neither 0 nor 1")
    if value == 0:
        _assistant_only(found, "weight 0")
        found["weight"] = 0


def _reasoning(found: Message, value: object) -> None:
    _assistant_only(found, REASONING)
    if not isinstance(value, str):
        raise Refused(f"a message's {REASONING} is not text")
    found[REASONING] = value


def _name(found: Message, value: object) -> None:
    if not isinstance(value, str):
        raise Refused("a message's name is not text")
    found["name"] = value


def _call_id(found: Message, value: object) -> None:
    if found["role"] != "tool":
        raise Refused(f"a message of the {found['role']} has tool_call_id; only a tool's may")
    if not isinstance(value, str):
        raise Refused("a message's tool_call_id is not text")
    found["tool_call_id"] = value


_FIELDS = {
    "tool_calls": _calls,
    "tool_call_id": _call_id,
    "name": _name,
    REASONING: _reasoning,
    "weight": _weight,
}


def tools(value: object) -> list[dict[str, Any]]:
    """The tools beside a conversation: a list of objects, or its JSON text."""
    value = as_list(value)
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) and tool for tool in value):
        raise Refused("tools is not a list of tools, nor the JSON text of one")
    if has_twice(value):
        raise Refused("tools has a name twice in one object")
    return [dict(tool) for tool in value]


def history(value: object) -> list[Message]:
    """LLaMA-Factory's history: a list of pairs of what was asked and what was answered."""
    value = as_list(value)
    if not isinstance(value, list):
        raise Refused("history is not a list of pairs of question and answer")
    found: list[Message] = []
    for pair in value:
        texts = [as_text(text) for text in pair] if isinstance(pair, list) else []
        if len(texts) != 2 or any(is_empty(text) for text in texts):
            raise Refused("history is not a list of pairs of question and answer")
        found += [
            {"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)
        ]
    return found
