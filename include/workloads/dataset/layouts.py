"""The layouts that datasets are published in, as one table: what each column and field of a row is for.

Whatever reads, refuses or documents a layout asks this module (`docs/datasets.md` is printed from it). A name that is
here is either used or gives the row's refusal; names that are not here are told as not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from include.contracts.methods import Objective

#: A list of messages under these names is a conversation; the others count only where no stronger column is.
MESSAGES = ("messages", "conversations", "conversation")
WEAK_MESSAGES = ("data", "dialogue", "dialog", "chat", "turns")
QUESTIONS = ("instruction", "prompt", "question", "query")
INPUT = "input"  # a question's context, or the question itself where there is no other
CONTEXTS = ("context", INPUT)
ANSWERS = ("completion", "output", "response", "answer")
TEXT = "text"
SYSTEM = ("system", "system_prompt", "system_message")
HISTORY = "history"
TOOLS = "tools"
REASONING = "reasoning_content"
CHOSEN = ("chosen", "preferred_output")
REJECTED = ("rejected", "non_preferred_output")
LABEL = "label"

_THOUGHTS = f"give it as {REASONING}, which is learnt where the model's chat template shows it"
_MEDIA = "only text is learnt"
_LEGACY = "the old form of OpenAI's tools; give tools and tool_calls"
_MASK = "which parts are learnt is told by a message's weight, 0 or 1"
#: Columns that change what is to be learnt and that nothing here can use: a row with a value in one is not used.
UNUSABLE: Mapping[str, str] = {
    **dict.fromkeys(("reasoning", "thinking", "rationale", "chain_of_thought", "cot", "thought"), _THOUGHTS),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _MEDIA),
    **dict.fromkeys(("functions", "function_call", "function_calls"), _LEGACY),
    **dict.fromkeys(("weight", "loss_mask", "train", "train_on_input"), _MASK),
    "tool_calls": "they belong into a message",
}

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
#: Fields of a message that are kept and given to the model's chat template.
MESSAGE_FIELDS = ("tool_calls", "tool_call_id", "name", REASONING, "weight")
MESSAGE_UNUSABLE: Mapping[str, str] = {
    **{name: why for name, why in UNUSABLE.items() if name not in ("weight", "tool_calls")},
    "thoughts": _THOUGHTS,
    "refusal": "give what the assistant shall say as its content",
    "tools": "they belong beside the messages",
    "prefix": _MASK,
    "mask": _MASK,
}
#: Values with which such a field says nothing.
NEUTRAL: Mapping[str, object] = {"weight": 1, "train": True}

ROLES = ("system", "user", "assistant", "tool")
#: Other names that one role has: OpenAI's for newer models, ShareGPT's, LLaMA-Factory's, Gemini's.
ROLE_ALIASES: Mapping[str, str] = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "tool_response": "tool",
}

#: Members of a JSON document that may hold its rows.
WRAPPERS = ("data", "rows", "train", "examples", "items", "records", "instances")

PREFERENCE_KEY = "DatasetConfig.preference_data"
OBJECTIVE_KEY = "kaito.sh/tuning-objective"


def preference(column: str) -> str:
    """What has to be set for a row with this column, which is preference data."""
    objective = "kto" if column == LABEL else "dpo"
    return (
        f"preference data teaches by comparing answers: set the annotation {OBJECTIVE_KEY} to {objective}; with "
        f"{PREFERENCE_KEY}: chosen only the good answers are learnt"
    )


@dataclass(frozen=True)
class Layout:
    """One row of the table: `columns` as a person writes them, an `example` row, and what it becomes."""

    name: str
    columns: str
    becomes: str
    example: Mapping[str, object]
    seen_in: str = ""


_CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
_GPT = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
_CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
_USED = [
    _CHAT[0],
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **_CALL}]},
    {"role": "tool", "tool_call_id": "c1", "content": "4"},
    {"role": "assistant", "content": "4"},
]
_TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "chat messages",
        "messages",
        "the conversation; each message has role and content",
        {"messages": _CHAT},
        "OpenAI fine-tuning, TRL, UltraChat 200k",
    ),
    Layout(
        "chat messages with tools",
        "messages, tools",
        "the conversation with its tool calls, told to the model's chat template",
        {"messages": _USED, "tools": [_TOOL]},
        "OpenAI fine-tuning",
    ),
    Layout(
        "ShareGPT",
        "conversations (system, tools)",
        "the conversation; human is user, gpt is assistant; system is its first message",
        {"conversations": _GPT, "system": "Be short."},
        "ShareGPT, LLaMA-Factory",
    ),
    Layout(
        "messages under another name",
        " or ".join((*MESSAGES[2:], *WEAK_MESSAGES)),
        "the conversation, where no other layout is there; a list of bare texts has no roles and is refused",
        {"data": _CHAT},
        "UltraChat",
    ),
    Layout(
        "instruction",
        "instruction, (context or input), (output or response), (system), (history)",
        "the instruction, an empty line and the context are the user's message; history's pairs come before it",
        {"instruction": "Add.", "input": "2 and 2", "output": "4", "system": "Be short.", "history": []},
        "Alpaca, Dolly, LLaMA-Factory",
    ),
    Layout(
        "prompt and completion",
        "prompt, completion",
        "the user's message and the answer; either may be a list of messages",
        {"prompt": "2 + 2?", "completion": "4"},
        "OpenAI (older), TRL",
    ),
    Layout(
        "question and answer",
        "(question or query), (answer or response), (reasoning_content)",
        "the user's message and the answer; a number is an answer too",
        {"question": "2 + 2?", "answer": 4},
        "GSM8K",
    ),
    Layout(
        "input and output",
        "input, output",
        "the user's message and the answer",
        {"input": "2 + 2?", "output": "4"},
    ),
    Layout(
        "preference data",
        "(prompt), chosen, rejected; or prompt, completion, label",
        f"compared, with the annotation `{OBJECTIVE_KEY}`: `dpo` for chosen and rejected, `kto` for label; else "
        f"refused, or with `{PREFERENCE_KEY}: chosen` the chosen answers, or those with label true, are learnt",
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        "DPO and KTO in TRL, OpenAI's preference data",
    ),
    Layout("plain text", "text", "the text, learnt whole", {"text": "Two and two are four."}, "any corpus"),
)

ACCEPTED = (
    "messages | conversations | prompt, completion | instruction, (context or input), (output or response) "
    "| question, answer | query, response | input, output | text"
)

#: The layouts that an objective beside sft learns from.
ACCEPTED_BY = {
    Objective.DPO.value: "prompt, chosen, rejected | chosen, rejected (both whole conversations) "
    "| input, preferred_output, non_preferred_output",
    Objective.KTO.value: "prompt, completion, label | any other question and answer with label | messages, label",
}


def accepted(objective: str) -> str:
    """The layouts that an objective learns from, for a sentence."""
    return ACCEPTED_BY.get(objective, ACCEPTED)


_READ = frozenset(
    (
        *(
            *MESSAGES,
            *WEAK_MESSAGES,
            *QUESTIONS,
            *CONTEXTS,
            *ANSWERS,
            TEXT,
            *SYSTEM,
            HISTORY,
            TOOLS,
            REASONING,
        ),
        *(*CHOSEN, *REJECTED, LABEL, *UNUSABLE),
    )
)


def fold(name: str) -> str:
    """A column's name as it is compared: case and outer spaces do not count."""
    return name.strip().lower()


@lru_cache(maxsize=1024)
def read_columns(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a file's columns that have a meaning here, by the file's own names; the others need not be read."""
    return tuple(name for name in names if fold(name) in _READ)


def twice(names: Iterable[str]) -> str | None:
    """A column name that stands twice, or None. Columns without a name do not count."""
    seen: set[str] = set()
    for name in map(fold, names):
        if name and name in seen:
            return name
        seen.add(name)
    return None


def has_layout(names: Iterable[str]) -> bool:
    """Whether a row or file with these columns can be a dataset."""
    found = frozenset(map(fold, names))
    if found & {*MESSAGES, *WEAK_MESSAGES, TEXT, *CHOSEN}:
        return True
    return bool(found & {*QUESTIONS, INPUT} and found & {*ANSWERS})


def layout_of(names: Iterable[str]) -> str:
    """The name of the layout that rows with these columns are read as, "" for none; the strongest comes first."""
    found = frozenset(map(fold, names))
    asked, answered = found & {*QUESTIONS, INPUT}, found & {*ANSWERS}
    tests = (
        ("preference data", found & {*CHOSEN, *REJECTED} or ({"prompt", "completion", LABEL} <= found)),
        ("chat messages with tools", MESSAGES[0] in found and TOOLS in found),
        ("chat messages", MESSAGES[0] in found),
        ("ShareGPT", MESSAGES[1] in found),
        ("messages under another name", MESSAGES[2] in found),
        ("instruction", "instruction" in found and answered),
        ("prompt and completion", {"prompt", "completion"} <= found),
        ("input and output", asked == {INPUT} and answered),
        ("question and answer", asked and answered),
        ("messages under another name", found & {*WEAK_MESSAGES}),
        ("plain text", TEXT in found),
    )
    return next((name for name, holds in tests if holds), "")
