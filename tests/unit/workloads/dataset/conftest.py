"""A small web server whose answers a test decides, a fetcher that may reach it and never sleeps, one language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from include.workloads.dataset import languages
from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.fetch import Fetcher, Limits
from include.workloads.dataset.languages import language_model
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK, Web, running

kept_model = cache(language_model)


@pytest.fixture(autouse=True)
def one_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """To unpack it for each run of a job takes longer than all else in it."""
    monkeypatch.setattr(languages, "language_model", kept_model)


@pytest.fixture
def web() -> Iterator[Web]:
    with running() as site:
        yield site


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def make_fetcher(slept: list[float]) -> Callable[..., Fetcher]:
    def make(resolve: Callable[[str, int], list[str]] | None = None, **limits: float) -> Fetcher:
        policy = AddressPolicy(LOOPBACK, resolve) if resolve else AddressPolicy(LOOPBACK)
        client = PinnedClient(policy, connect_seconds=2, read_seconds=2)
        return Fetcher(client, Limits(**limits), sleep=slept.append)

    return make


@pytest.fixture
def fetcher(make_fetcher: Callable[..., Fetcher]) -> Fetcher:
    return make_fetcher()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"
