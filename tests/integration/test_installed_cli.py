"""The command line as a package: installed by uv in a place of its own, it works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def test_it_is_installed_as_a_tool_and_checks_a_workspace(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
    }
    environment.pop("PYTHONPATH", None)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "tool", "install", "--quiet", ROOT], env=environment, check=True, timeout=300)

    def said(script: str, *words: str | Path) -> str:
        return subprocess.run(
            [tmp_path / "bin" / script, *words],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert "1 Workspace: 1 OK" in said("kubectl-kaito", "check", ROOT / "examples" / "tuning-v1alpha1.yaml")
    assert "microsoft/Phi-3-mini-128k-instruct" in said("kubectl-kaito", "models", "phi-3-mini")
    assert "status" in said("kubectl_complete-kaito", "st").splitlines()
