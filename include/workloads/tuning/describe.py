"""`python -m include.workloads.tuning.describe`: what `training_config.yaml` may hold, as data (YAML).

Admission has to judge a training config before a GPU is paid for, where neither torch nor peft nor trl is installed. So
the trainer's own list is written to presets/schemas/training_config.yaml once, and a test compares. It must never judge
anything itself: config.py does.
"""

from __future__ import annotations

import sys
import types
import typing
from typing import Any

import yaml

from include.workloads.tuning import keys

HEADER = "# Written by `python -m include.workloads.tuning.describe`; a test compares. Do not edit.\n"
_SIMPLE = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    type(None): "null",
    dict: "dict",
    list[str]: "list[str]",
    list[int]: "list[int]",
    dict[str, Any]: "dict",
}


def described_type(hint: Any) -> str:
    """A type in few words: `int|null`; `any` where a class of the library's own decides."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    words = {_word(option) for option in (typing.get_args(hint) if union else (hint,))}
    return "any" if "any" in words else "|".join(sorted(words))


def _word(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "str" if all(isinstance(value, str) for value in typing.get_args(option)) else "any"
    return _SIMPLE.get(option, "any")


def description() -> dict[str, Any]:
    """Sections with their keys and types, and what is ignored, refused, renamed or limited to certain words."""
    return {
        "sections": {
            section: {key: described_type(hint) for key, hint in sorted(keys.accepted(section).items())}
            for section in keys.SECTIONS
        },
        "ignored": dict(keys.IGNORED),
        "refused": dict(keys.REFUSED),
        "renamed": dict(keys.RENAMED),
        "choices": {key: sorted(choices()) for key, choices in keys.CHOICES.items()},
    }


def text() -> str:
    """The file as it is committed."""
    return HEADER + yaml.safe_dump(description(), sort_keys=False, width=110)


if __name__ == "__main__":
    sys.stdout.write(text())
