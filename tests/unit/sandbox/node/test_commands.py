"""What is said when a container's command is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.node.process import StartProblem, check_command
from sandbox.node.volumes import Mount

ENV = {"PATH": "/usr/bin:/bin"}


@pytest.mark.parametrize("argv", [["sh"], ["/bin/sh"], ["/scripts/run.sh"]])
def test_commands_that_can_be_found(argv):
    check_command(argv, ENV, [Mount(Path("/x"), "/scripts", True)])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["frobnicate"], '"frobnicate": executable file not found in \\$PATH'),
        (["/no/such/program"], "stat /no/such/program: no such file or directory"),
        ([], "no command specified"),
    ],
)
def test_commands_that_cannot(argv, words):
    with pytest.raises(StartProblem, match=words):
        check_command(argv, ENV, [])
