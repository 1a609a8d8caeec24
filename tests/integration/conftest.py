"""What the tests of this folder share: one cluster with the reconciler on, for as long as there are tests of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration import reconciled
from tests.integration.reconciled import ReconciledStack


@pytest.fixture(scope="session")
def reconciled_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReconciledStack]:
    """Sandbox and Airflow, `kaito_reconcile` unpaused. Give Workspaces names of your own, and delete them."""
    with reconciled.reconciled_stack(tmp_path_factory.mktemp("reconciled")) as stack:
        yield stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what shares the reconciled stack one after the other, last, so that it does not burden other tests."""
    items.sort(key=lambda item: "reconciled_stack" in getattr(item, "fixturenames", ()))
