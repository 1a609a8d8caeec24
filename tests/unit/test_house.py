"""How the code is kept: what is said once, and what tests may reach into."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = [*(ROOT / "tests").rglob("*.py")]
PRODUCT = [path for folder in ("include", "plugins", "dags") for path in (ROOT / folder).rglob("*.py")]


def offences(paths: list[Path], pattern: str) -> list[str]:
    """Return file, line number and text of each line that matches."""
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if wanted.search(line)
    ]


def test_purposes_and_methods_are_compared_with_their_enums() -> None:
    assert not offences(PRODUCT, r"""(purpose|method)["\])]* (==|!=) ["'](tuning|serving|lora|qlora)["']""")


def test_states_and_causes_of_runs_are_compared_with_their_enums() -> None:
    assert not offences(
        PRODUCT,
        r"""(["']state["']|["']cause["'])\]?\)? (==|!=|in|not in) [({]?["'](waiting|started|success|failed)""",
    )


def test_tests_give_a_task_its_cluster_openly() -> None:
    """Every operator has ``cluster``, which may be set; what lies behind it is not the tests' business."""
    assert not offences(TESTS, r"\.__dict__(\[|\.update)")
