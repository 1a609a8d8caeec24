"""A file as a layer: the archive that any tool reads, from any offset, the same everywhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.image_reference import parse_reference
from include.workloads.contract import UserDataError
from include.workloads.weights.layers import LayerContent, LayerFile, header_of, layer_of, trailer_size
from include.workloads.weights.model_image import FILE_PATH, FILE_SIZE, FORMAT, build, files_in

REFERENCE = parse_reference("registry.example.com/models/kaito-phi:1")


def read_all(path: Path, layer: LayerFile, start: int = 0, step: int = 700) -> bytes:
    with LayerContent(path, layer, start) as content:
        return b"".join(iter(lambda: content.read(step), b""))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 5000])
def test_the_layer_is_an_archive_of_the_one_file(size: int, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(size))
    layer = layer_of(path)
    archive = read_all(path, layer)
    assert len(archive) == layer.layer_size
    assert layer.digest == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.size, member.mode, member.mtime) == ("model.safetensors", size, 0o644, 0)
        assert tar.extractfile(member).read() == path.read_bytes()


@given(st.integers(0, 3000), st.integers(0, 6000), st.integers(1, 2000))
def test_from_any_offset_it_is_the_rest_of_the_same_archive(
    tmp_path_factory: pytest.TempPathFactory, size: int, start: int, step: int
):
    path = tmp_path_factory.getbasetemp() / "any-layer"
    path.write_bytes(bytes(number % 251 for number in range(size)))
    layer = layer_of(path)
    assert read_all(path, layer, start, step) == read_all(path, layer)[start:]


@pytest.mark.parametrize("size", [0, 8 << 30, (8 << 30) - 1, 700 << 30])
def test_a_file_of_any_size_has_a_header_that_tar_reads(size: int):
    header = header_of("model.safetensors", size)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(512)), mode="r:") as tar:
        member = tar.next()
    assert member.size == size
    assert (len(header) + size + trailer_size(size)) % 512 == 0


def test_a_file_that_shrinks_while_it_is_sent_ends_the_push(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 5000)
    layer = layer_of(path)
    path.write_bytes(b"x" * 10)
    with pytest.raises(OSError, match="shorter"):
        read_all(path, layer)


def some_image():
    digest = f"sha256:{'a' * 64}"
    return build([LayerFile("b", 7, digest), LayerFile("a.json", 3, digest)], {"x": "y"})


def test_the_same_files_are_the_same_image_whatever_their_order():
    digest = f"sha256:{'a' * 64}"
    other = build([LayerFile("a.json", 3, digest), LayerFile("b", 7, digest)], {"x": "y"})
    assert other.digest == some_image().digest
    assert build([LayerFile("b", 7, digest)], {"x": "y"}).digest != other.digest


def test_a_node_s_software_finds_a_config_with_its_platform_and_as_many_layers():
    """containerd unpacks layers only for its own platform, and only where the config lists as many."""
    image = some_image()
    entries = json.loads(image.index)["manifests"]
    assert [entry["platform"] for entry in entries] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    for entry, config, manifest in zip(entries, image.configs, image.manifests, strict=True):
        document, described = json.loads(manifest), json.loads(config)
        assert described["architecture"] == entry["platform"]["architecture"]
        assert described["rootfs"]["diff_ids"] == [layer["digest"] for layer in document["layers"]]
        assert {layer["mediaType"] for layer in document["layers"]} == {
            "application/vnd.oci.image.layer.v1.tar"
        }
        assert document["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
        assert files_in(document, REFERENCE) == image.files


def manifest() -> dict:
    return json.loads(some_image().manifests[0])


def broken(change) -> dict:
    document = manifest()
    change(document)
    return document


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "an image, but not of a model"),
        ({"annotations": {FORMAT: "9"}}, "not of a model"),
        (broken(lambda d: d.pop("layers")), "0 files"),
        (broken(lambda d: d["layers"].append(d["layers"][0])), "3 files, 2 names"),
        (broken(lambda d: d["layers"][0].pop("annotations")), "not one file of a model"),
        (broken(lambda d: d["layers"][0]["annotations"].update({FILE_PATH: "../x"})), "not one file"),
        (broken(lambda d: d["layers"][0]["annotations"].update({FILE_PATH: ".wh.x"})), "not one file"),
        (broken(lambda d: d["layers"][0]["annotations"].update({FILE_SIZE: "-1"})), "not one file"),
        (broken(lambda d: d["layers"][0]["annotations"].update({FILE_SIZE: "9999"})), "not one file"),
        (broken(lambda d: d["layers"][0].update(digest="sha256:x")), "not one file"),
        (broken(lambda d: d["layers"][0].update(mediaType="text/plain")), "not one file"),
    ],
)
def test_any_other_image_is_refused_with_a_sentence(document: dict, words: str):
    with pytest.raises(UserDataError, match=words):
        files_in(document, REFERENCE)


@pytest.mark.parametrize("name", ["a/b", ".hidden", "", "x" * 300, "a\x00b"])
def test_a_file_that_no_folder_takes_is_in_no_image(name: str):
    with pytest.raises(UserDataError, match="cannot be in an image"):
        build([LayerFile(name, 1, f"sha256:{'a' * 64}")], {})
