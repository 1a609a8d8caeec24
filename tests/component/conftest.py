"""Parts of the product over the sandbox's API servers, Kubernetes' and Azure's, in the process of the test."""

from __future__ import annotations

import pytest

from tests.support.api_server import served_sandbox
from tests.support.installed import cluster

__all__ = ["cluster", "served_sandbox"]


@pytest.fixture(autouse=True)
def no_registry_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push is tried where that is what a test is about."""
    monkeypatch.setenv("AIRFLOW__KAITO__CHECK_PUSH", "false")
