"""What the tests of this folder share: one cluster with the reconciler on, for as long as there are tests of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import reconciled
from tests.support.reconciled import ReconciledStack

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def reconciled_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReconciledStack]:
    """Sandbox and Airflow, `kaito_reconcile` unpaused. Give Workspaces names of your own, and delete them."""
    with reconciled.reconciled_stack(tmp_path_factory.mktemp("reconciled")) as stack:
        yield stack


def needs_sandbox(item: pytest.Item) -> str:
    """Why a test cannot run on an external cluster; empty when it can, or is of another folder (`pytest tests`)."""
    if item.get_closest_marker("any_cluster") or not item.path.is_relative_to(FOLDER):
        return ""
    return "needs the sandbox: its API server in this process, its cloud, its registry or its faults"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On an external cluster skip what needs the sandbox, and say so.

    Run what shares the reconciled stack one after the other, last, so that it does not burden other tests."""
    if config.getoption("--cluster") == "external":
        for item in items:
            if reason := needs_sandbox(item):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: "reconciled_stack" in getattr(item, "fixturenames", ()))
