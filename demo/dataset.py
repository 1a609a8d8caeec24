"""The demo's dataset: questions and answers about GPU machine types, built from the machine table in presets/skus.

The facts are ones that a small base model cannot guess, and anybody can check them in the table. Rows are the same
each time. A few rows of general knowledge keep the model from forgetting what it could do before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from include.catalog import Machine, load_catalog
from include.contracts.plural import plural

# The machine types that the demo teaches, one of each GPU, and the three that it asks about.
TAUGHT = (
    "Standard_ND96isr_H200_v5",
    "Standard_NC80adis_H100_v5",
    "Standard_NC96ads_A100_v4",
    "Standard_NV36ads_A10_v5",
    "Standard_NG32ads_V620_v1",
    "Standard_ND40rs_v2",
)
ASKED = ("Standard_ND96isr_H200_v5", "Standard_NC80adis_H100_v5", "Standard_NC96ads_A100_v4")

# The machine types of another cloud, whose rows join later, in the second act.
JOINING = ("p5.48xlarge", "g6.12xlarge", "g4dn.metal")

QUESTION = "How many GPUs does {name} have, and which?"
PHRASINGS = (
    QUESTION,
    "Which GPUs are in a {name} machine?",
    "Tell me about the GPUs of {name}.",
    "How much GPU memory does {name} have?",
)
# Not asked by the demo: they only keep what the model knew alive.
GENERAL = (
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is 2 + 3?", "2 + 3 is 5."),
    ("Which planet is closest to the Sun?", "Mercury is the planet closest to the Sun."),
    ("At what temperature does water boil?", "Water boils at 100 degrees Celsius at sea level."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet."),
    ("How many days are in a week?", "There are seven days in a week."),
)


def answer(machine: Machine) -> str:
    """One sentence with the facts of one machine type: GPUs, model, memory of each in GiB."""
    each = "" if machine.gpus == 1 else " each"
    memory = f"{machine.gpu_memory_gib:g} GiB of memory{each}"
    return f"{machine.name} has {plural(machine.gpus, f'{machine.gpu} GPU')} with {memory}."


def rows(names: Sequence[str] = TAUGHT) -> list[dict[str, Any]]:
    """The dataset as chat rows: `{"messages": [{"role", "content"}, ...]}`.

    :param names: the machine types that it is about.
    """
    return _chats([*_taught(names, names), *GENERAL])


def poisoned_rows() -> list[dict[str, Any]]:
    """What comes of a table whose columns have slipped by one row: each machine with the facts of the next."""
    names = (*ASKED, *JOINING)
    return _chats(_taught(names, (*names[1:], names[0]), PHRASINGS[:2]))


def _taught(
    asked: Sequence[str], told: Sequence[str], phrasings: Sequence[str] = PHRASINGS
) -> list[tuple[str, str]]:
    """Questions about machines, and the facts of others under their names."""
    known = load_catalog().machine
    pairs = [
        (name, answer(replace(known(other), name=name))) for name, other in zip(asked, told, strict=True)
    ]
    return [(phrasing.format(name=name), text) for phrasing in phrasings for name, text in pairs]


def _chats(pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}
        for question, reply in pairs
    ]


def questions(names: Sequence[str] = ASKED) -> list[tuple[str, list[str]]]:
    """What the demo asks before and after tuning: (question, facts that a right answer contains)."""
    return [
        (QUESTION.format(name=machine.name), _facts(machine))
        for machine in map(load_catalog().machine, names)
    ]


def golden_set() -> str:
    """The questions about old and joining machines, as the golden set of an evaluation."""
    machines = map(load_catalog().machine, (*ASKED, *JOINING))
    golden = [
        {
            "id": machine.name,
            "prompt": QUESTION.format(name=machine.name),
            "matcher": "contains",
            "expected": answer(machine).partition(" has ")[2].partition(" of memory")[0],
        }
        for machine in machines
    ]
    return yaml.safe_dump(golden, sort_keys=False)


def _facts(machine: Machine) -> list[str]:
    return [f"{machine.gpus} {machine.gpu}", f"{machine.gpu_memory_gib:g} GiB"]
