"""What the READMEs of the sandbox and the demo name is there, and what is there is named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sandbox.__main__ import _parser as command_line
from sandbox.controllers.volumes import storage_classes
from sandbox.faults import FaultKind

ROOT = Path(__file__).parents[3]


def readme(package: str) -> str:
    return (ROOT / package / "README.md").read_text()


def test_every_fault_and_every_storage_class_is_named():
    text = readme("sandbox")
    names = [*FaultKind, *(class_["metadata"]["name"] for class_ in storage_classes())]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("package", ["sandbox", "demo"])
def test_every_part_exists_and_every_module_has_its_part(package):
    cells = re.findall(r"^\| (`[^|]+`) \|", readme(package), flags=re.MULTILINE)
    parts = [
        name
        for cell in cells
        for name in re.findall(r"`([^`]+)`", cell)
        if name.endswith((".py", "/", ".yaml"))
    ]
    assert parts
    assert [name for name in parts if not (ROOT / package / name).exists()] == []
    if package == "demo":
        modules = {path.name for path in (ROOT / package).glob("[!_]*.py")}
        assert modules <= set(parts)
    else:
        folders = {f"{path.name}/" for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
        assert folders <= {name.split("/")[0] + "/" for name in parts}


def test_the_commands_are_known():
    lines = re.findall(r"python -m sandbox ([^\n`#]+)", readme("sandbox") + readme("demo"))
    commands = [command_line().parse_args(shlex.split(line)) for line in lines if "--help" not in line]
    assert {command.command for command in commands} == {"up", "down", "status", "fault"}
