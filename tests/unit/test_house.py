"""How the code is kept: what is said once, and what tests may reach into."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
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


def imported(path: Path) -> Iterator[str]:
    """Yield the last part of each module that a file imports from the tests."""
    modules = {found.stem for found in TESTS}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from tests.unit.x import test_y` imports a module, too.
            inside = node.module.startswith("tests")
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if inside)]
        else:
            continue
        yield from (stem for name in names if (stem := name.rpartition(".")[2]) in modules)


def test_no_test_module_is_imported() -> None:
    """What more than one test needs is in tests/support; fixtures reach tests through a conftest.py."""
    assert not [
        f"{path.relative_to(ROOT)} imports {stem}"
        for path in TESTS
        for stem in imported(path)
        if stem.startswith("test_") or stem == "conftest"
    ]


def test_what_tests_share_is_in_support() -> None:
    """Beside it are tests, their fixtures, and benches (which are commands)."""
    folders = (ROOT / "tests/support", ROOT / "tests/bench")
    assert not [
        str(path.relative_to(ROOT))
        for path in TESTS
        if not (path.name.startswith("test_") or path.name == "conftest.py")
        and not any(path.is_relative_to(folder) for folder in folders)
    ]


def test_all_tests_can_be_collected_in_one_go() -> None:
    """Two folders may each have a test_release.py: Python's own import by name would refuse the second."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "--import-mode=importlib" in options["addopts"]


def test_nothing_of_the_sandbox_is_needed_by_unit_tests_of_the_plugin() -> None:
    paths = [path for path in TESTS if path.is_relative_to(ROOT / "tests/unit/kaito")]
    assert not offences(
        paths, r"^(from|import) (sandbox|tests\.support\.(api_server|azure_thread|installed))\b"
    )
