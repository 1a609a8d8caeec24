"""The pod image is built from what is pinned: each package by version and hash, from no index that we name."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
WORKLOADS = ROOT / "include" / "workloads"
DOCKERFILE = (WORKLOADS / "Dockerfile").read_text()
LOCK = (WORKLOADS / "requirements.lock").read_text()


def requirements(text: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(one.name): one for one in found}


def locked() -> dict[str, str]:
    """Version by package."""
    return {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", LOCK)}


def test_the_image_names_no_package_index() -> None:
    commands = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    assert not re.search(r"https?://|--(extra-)?index-url", commands)
    assert re.search(r"(?m)^ARG PIP_INDEX_URL$", commands), "a build argument without a default"
    assert "--require-hashes --requirement requirements.lock" in commands


def test_every_package_is_locked_by_version_and_hash() -> None:
    blocks = re.split(r"(?m)^(?=\S)", LOCK)
    assert [block.split()[0] for block in blocks if block.strip() and "--hash=sha256:" not in block] == []
    versions = locked()
    for name, wanted in requirements((WORKLOADS / "requirements.txt").read_text()).items():
        assert wanted.specifier.contains(versions[name]), (
            f"make lock: {name} {versions[name]} is not {wanted}"
        )


def test_the_lock_has_the_versions_that_the_tests_run_with() -> None:
    tested = {
        name: str(one.specifier).removeprefix("==")
        for name, one in requirements((ROOT / "constraints.txt").read_text()).items()
    }
    versions = locked()
    differing = {
        name: (version, tested[name])
        for name, version in versions.items()
        if name in tested and tested[name] != version
    }
    assert differing == {}, "make lock"
