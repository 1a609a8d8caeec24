"""A small but real LoRA adapter folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.adapters import write_adapter
from tests.support.registry_server import registry

__all__ = ["registry"]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")
