"""The pod image is built from what is pinned: each package by version and hash, from no index that we name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from include.catalog import engines

ROOT = Path(__file__).parents[3]
WORKLOADS = ROOT / "include" / "workloads"
DOCKERFILES = {
    "requirements.lock": (WORKLOADS / "Dockerfile").read_text(),
    "requirements-tools.lock": (WORKLOADS / "Dockerfile.tools").read_text(),
    "requirements-gpu.lock": (WORKLOADS / "Dockerfile.gpu").read_text(),
}
LOCKS = {name: (WORKLOADS / name).read_text() for name in DOCKERFILES}


def requirements(text: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(one.name): one for one in found}


def locked(lock: str) -> dict[str, str]:
    """Version by package."""
    found = re.findall(r"(?m)^([\w.-]+)==(\S+)", LOCKS[lock])
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_image_names_no_package_index(lock: str) -> None:
    commands = "\n".join(line for line in DOCKERFILES[lock].splitlines() if not line.startswith("#"))
    assert not re.search(r"https?://|--(extra-)?index-url", commands)
    assert re.search(r"(?m)^ARG PIP_INDEX_URL$", commands), "a build argument without a default"
    assert f"--require-hashes --requirement {lock}" in commands


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_locked_by_version_and_hash(lock: str) -> None:
    blocks = re.split(r"(?m)^(?=\S)", LOCKS[lock])
    assert [block.split()[0] for block in blocks if block.strip() and "--hash=sha256:" not in block] == []
    versions = locked(lock)
    source = (WORKLOADS / lock.replace(".lock", ".txt")).read_text()
    for name, wanted in requirements(source).items():
        assert wanted.specifier.contains(versions[name]), (
            f"make lock: {name} {versions[name]} is not {wanted}"
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_has_the_versions_that_the_tests_run_with(lock: str) -> None:
    tested = {
        name: str(one.specifier).removeprefix("==")
        for name, one in requirements((ROOT / "constraints.txt").read_text()).items()
    }
    differing = {
        name: (version, tested[name])
        for name, version in locked(lock).items()
        if name in tested and tested[name] != version
    }
    assert differing == {}, "make lock"


def test_the_tools_image_has_no_pytorch_and_nothing_of_its_own() -> None:
    tools, whole = locked("requirements-tools.lock"), locked("requirements.lock")
    assert not {"torch", "triton", "bitsandbytes", "peft", "trl"} & set(tools)
    assert {name: version for name, version in tools.items() if whole.get(name) != version} == {}


def test_the_gpu_image_is_the_vllm_whose_facts_are_kept() -> None:
    base = re.search(r"(?m)^ARG BASE=(\S+)$", (WORKLOADS / "Dockerfile.gpu").read_text())
    assert base is not None
    assert base[1] == f"vllm/vllm-openai:v{engines.vllm_facts().version}"


BLOCKED = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "peft", "trl", "bitsandbytes", "accelerate", "fastapi", "uvicorn"):
            raise ModuleNotFoundError(f"the tools image has no {name}", name=name)
sys.meta_path.insert(0, NoTorch())
import include.workloads.adapter.__main__, include.workloads.dataset.job, include.workloads.dataset.__main__
import include.workloads.weights.__main__, include.workloads.tuning.model
"""


def test_what_runs_in_the_tools_image_imports_no_pytorch() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_the_gpu_image_adds_the_tuning_set_and_touches_nothing_of_vllm_s() -> None:
    """Both halves at once are resolved by `make check-gpu`; this holds the files to each other."""
    ours, gpu = (
        requirements((WORKLOADS / name).read_text()) for name in ("requirements.txt", "requirements-gpu.txt")
    )
    for name in ("peft", "trl", "bitsandbytes", "accelerate", "pyarrow"):
        assert gpu[name].specifier == ours[name].specifier, f"{name} as in requirements.txt"
    brought = requirements((ROOT / "requirements-vllm-cpu.txt").read_text())
    assert set(locked("requirements-gpu.lock")) & set(brought) == set(), "vLLM brings these itself"
    assert "--no-deps" in DOCKERFILES["requirements-gpu.lock"]
