"""A cluster in memory, and the small objects that most tests need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from sandbox.api.cluster import Cluster

Json = dict[str, Any]


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Cluster]:
    one = Cluster(None)
    yield one
    one.close()


@pytest.fixture
def pod() -> Json:
    return {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}}


@pytest.fixture
def settled() -> Callable[[], Awaitable[None]]:
    """Let the garbage collector have its turns."""

    async def turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    return turns


def definition(schema: Json, **version: Any) -> Json:
    """A CustomResourceDefinition of widgets.example.com with one version."""
    one = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", **schema}},
        **version,
    }
    return {
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [one],
        },
    }


@pytest.fixture
def make_definition() -> Callable[..., Json]:
    return definition
