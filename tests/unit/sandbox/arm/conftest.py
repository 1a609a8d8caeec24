"""The endpoint over TLS with its token, its agent pools at work in a cluster in memory, and Azure's own SDK."""

from __future__ import annotations

import pytest

from sandbox.api.cluster import Cluster
from sandbox.faults import Faults
from tests.support.azure_api import (
    running,
)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def cluster():
    made = Cluster(None)
    yield made
    made.close()


@pytest.fixture
async def azure(tmp_path, cluster, faults):
    async with running(tmp_path, cluster, faults) as made:
        yield made
