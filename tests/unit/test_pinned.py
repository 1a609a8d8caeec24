"""What is built and started is pinned; what is pinned by its tag alone, for want of a registry, is listed here.

A digest goes behind the tag (`name:tag@sha256:...`) in the same place; the entry of this list then has to go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.catalog import load_catalog
from include.contracts.image_reference import parse_reference

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = [
    *sorted(ROOT.glob("Dockerfile*")),
    *(path for folder in ("include", "deploy") for path in sorted((ROOT / folder).rglob("Dockerfile*"))),
]
LOCKS = [path for folder in ("include", "deploy") for path in sorted((ROOT / folder).rglob("*.lock"))]
#: No digest is known for these: bases whose registry is asked where images are built, and our own images, which have a
#: digest when they are released.
BY_TAG_ALONE = {
    "docker.io/apache/airflow:3.3.2-python3.11",
    "astrocrpublic.azurecr.io/runtime:3.3-2",
    "docker.io/vllm/vllm-openai:v0.32.0",
    "ghcr.io/kaito-airflow/kaito-gpu:0.1.0",
    "ghcr.io/kaito-airflow/kaito-tools:0.1.0",
    "ghcr.io/kaito-airflow/kaito-workloads:0.1.0",
}


def bases(path: Path) -> Iterator[str]:
    """The images that a Dockerfile begins with, its arguments' defaults put in."""
    text = path.read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=\"?([^\s\"]+)", text, re.MULTILINE))
    stages = set(re.findall(r"^FROM .+ AS (\S+)", text, re.MULTILINE | re.IGNORECASE))
    for found in re.findall(r"^(?:FROM|COPY --from=)\s*(\S+)", text, re.MULTILINE):
        name = re.sub(r"\$\{(\w+)\}", lambda match: defaults.get(match[1], ""), found)
        if name not in stages:
            yield name


def images() -> set[str]:
    """Every image that this project builds on or starts, in full."""
    named = [*load_catalog().images.values(), *(base for path in DOCKERFILES for base in bases(path))]
    return {str(parse_reference(name)) for name in named}


def test_images_are_pinned_by_digest_or_listed() -> None:
    by_tag = {name for name in images() if "@sha256:" not in name}
    assert by_tag == BY_TAG_ALONE, "give a digest, or say in BY_TAG_ALONE that there is none yet"


def test_no_tag_moves() -> None:
    tags = [parse_reference(name).tag or "" for name in images()]
    assert all(re.search(r"\d", tag) for tag in tags), tags


# Not the project's own Dockerfile: Astro's tools read the image from its FROM line and know no arguments there.
@pytest.mark.parametrize("path", DOCKERFILES[1:], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_base_can_be_given_by_digest_without_an_edit(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^ARG BASE=\S+$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_package_of_an_image_is_known_by_its_hash(path: Path) -> None:
    text = path.read_text()
    entries = re.findall(
        r"^[A-Za-z0-9_.-]+(?:\[[^\]]*\])?==.*?(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert len(entries) > 10
    assert not [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]


def test_images_install_from_the_locks_alone() -> None:
    used = {
        name
        for path in DOCKERFILES
        for name in re.findall(
            r"^ARG REQUIREMENTS=\"--require-hashes --requirement (\S+)\"$", path.read_text(), re.M
        )
    }
    assert {Path(name).name for name in used} == {path.name for path in LOCKS}
    loose = [
        p.name
        for p in DOCKERFILES
        if "pip install" in p.read_text() and "ARG REQUIREMENTS=" not in p.read_text()
    ]
    assert loose == []
