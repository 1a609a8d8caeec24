"""Which images the sandbox can run, and how their commands combine."""

from __future__ import annotations

import sys

import pytest

from include.catalog import load_catalog
from sandbox.node.images import PROJECT, ImageProblem, arguments, find_image


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


def test_the_projects_own_image_runs_the_projects_own_python():
    image = find_image(load_catalog().image("workloads"))
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
