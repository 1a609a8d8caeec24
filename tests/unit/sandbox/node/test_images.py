"""Which images the sandbox can run, and how their commands combine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from include.catalog import load_catalog
from sandbox.node import images
from sandbox.node.images import PROJECT, ImageProblem, arguments, find_image, pod_cpus


@pytest.mark.parametrize(
    "reference",
    [
        "busybox",
        "busybox:1.36",
        "docker.io/library/busybox:1.36",
        "localhost:5000/busybox@sha256:" + "0" * 64,
        "curlimages/curl",
        "docker.io/curlimages/curl:8.1.2",
        "alpine:3",
    ],
)
def test_known_images(reference):
    assert find_image(reference).reference == reference


@pytest.mark.parametrize("name", ["workloads", "tools"])
def test_the_projects_own_images_run_the_projects_own_python(name):
    image = find_image(load_catalog().image(name))
    assert image.env["PYTHONPATH"] == image.working_dir == str(PROJECT)
    assert image.command == (sys.executable,)
    assert image.env["PATH"].startswith(str(PROJECT / ".venv") if ".venv" in sys.executable else "/")


@pytest.mark.parametrize("reference", ["nginx:1", "example.com/busybox-extra", "curl"])
def test_an_unknown_image_is_refused_in_a_sentence(reference):
    with pytest.raises(ImageProblem, match="the sandbox has no image") as caught:
        find_image(reference)
    assert caught.value.reason == "ErrImagePull"
    assert reference in str(caught.value)


def test_a_malformed_reference_is_not_pulled():
    with pytest.raises(ImageProblem) as caught:
        find_image("Not an image")
    assert caught.value.reason == "InvalidImageName"


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({}, ["sh"]),
        ({"args": ["-c", "x"]}, ["-c", "x"]),
        ({"command": ["echo"]}, ["echo"]),
        ({"command": ["echo"], "args": ["a"]}, ["echo", "a"]),
    ],
)
def test_commands_combine_as_kubernetes_says(container, expected):
    assert arguments(find_image("busybox"), container) == expected


def test_arguments_go_through_the_images_entrypoint():
    image = find_image("curlimages/curl")
    assert arguments(image, {"args": ["-s", "x"]}) == [*image.entrypoint, "-s", "x"]
    assert arguments(image, {"command": ["sh"], "args": ["-c"]}) == ["sh", "-c"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 7),
        ({"cpu.max": "max 100000"}, 7),
        ({"cpu.max": "250000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 7),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 7),
    ],
)
def test_a_pod_gets_all_cpus_but_one_of_those_that_the_sandbox_may_use(
    tmp_path, monkeypatch, files, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert pod_cpus(tmp_path) == expected


def test_vllm_s_image_is_there_once_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / ".venv-vllm" / "bin" / "python"
    monkeypatch.setattr(images, "vllm_python", lambda: python)
    with pytest.raises(ImageProblem, match="run make vllm") as problem:
        find_image(load_catalog().image("gpu"))
    assert problem.value.reason == "ErrImagePull"
    python.parent.mkdir(parents=True)
    python.touch()
    image = find_image(load_catalog().image("gpu"))
    assert image.command == (str(python),)
    assert image.env["PATH"].startswith(f"{python.parent}:")
