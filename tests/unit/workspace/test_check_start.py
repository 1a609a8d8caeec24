"""A process that checks one Workspace does nothing besides that costs time and that this Workspace does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.quick_start import QUICK_START

ROOT = Path(__file__).parents[3]
NOT_FOR_A_PLAIN_TUNING = {
    "difflib",
    "include.catalog.mig",
    "include.contracts.dataset_keys",
    "include.contracts.training_config",
    "include.contracts.training_keys",
    "include.retraining.schedule",
    "include.workspace.validation.inference_config",
    "include.workspace.validation.model_volume",
    "include.workspace.validation.pod_fields",
    "include.workspace.validation.pod_security",
    "include.workspace.validation.rules.update",
}
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


def test_it_imports_nothing_that_a_tuning_without_annotations_and_config_does_not_need() -> None:
    assert all(find_spec(module) for module in NOT_FOR_A_PLAIN_TUNING), "a list of names that are none"
    assert NOT_FOR_A_PLAIN_TUNING & set(checked()["modules"]) == set()
