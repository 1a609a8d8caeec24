"""A process that checks one Workspace does nothing besides that costs time and that this Workspace does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.quick_start import QUICK_START

ROOT = Path(__file__).parents[3]
PROGRAM = """\
import gc, json, sys
from include.cli.__main__ import run
code = run(["check", "-"])
print(json.dumps({"code": code, "frozen": gc.get_freeze_count(), "modules": list(sys.modules)}))
"""


@cache
def checked(text: str = QUICK_START) -> dict[str, Any]:
    """What a fresh process holds after it has checked a text."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, input=text, capture_output=True, text=True, timeout=60
    )
    assert not done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_its_end_looks_for_no_garbage_among_all_that_the_start_made() -> None:
    assert checked()["code"] == 0
    assert checked()["frozen"] > 50_000
