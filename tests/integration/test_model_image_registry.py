"""A model image and the real docker-registry: restarts in the middle of a transfer, and what other tools make of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.contracts.image_reference import parse_reference
from include.workloads.oci import session
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.transfers import put_big_blob
from include.workloads.weights.folder import PARTS
from include.workloads.weights.from_image import look_up, pull_files
from include.workloads.weights.layers import LayerContent, layer_of
from include.workloads.weights.package import Request, package
from tests.support.real_registry import RealRegistry, running
from tests.support.small_model import write_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="the Debian package docker-registry"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running(tmp_path_factory.mktemp("registry"), password=False) as found:
        yield found


@pytest.fixture(autouse=True)
def vouched(registry: RealRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSECURE_REGISTRIES", registry.host)


def packaged(registry: RealRegistry, folder: Path, name: str) -> dict:
    made = Request(registry=f"{registry.host}/models", name=name, tag="1", folder=str(folder))
    return package(made)


def test_an_upload_survives_a_restart_between_two_pieces(registry: RealRegistry, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 20_000)
    layer = layer_of(path)
    client = RegistryClient(parse_reference(f"{registry.host}/models/restarted:1"), None, insecure=True)
    moved: list[int] = []

    def progress(count: int) -> None:
        moved.append(count)
        if len(moved) == 2:
            registry.stop()
            registry.start()

    sent = put_big_blob(
        client,
        layer.digest,
        layer.layer_size,
        lambda start: LayerContent(path, layer, start),  # type: ignore[arg-type, return-value]
        progress,
        piece=1 << 20,
    )
    assert sent is True
    assert sum(moved) == layer.layer_size
    assert client.call("HEAD", client.blob_url(layer.digest)).headers["Content-Length"] == str(
        layer.layer_size
    )


def test_there_and_back_and_the_same_digest_again(registry: RealRegistry, tmp_path: Path):
    folder = write_model(tmp_path / "model", size=300_000)
    first = packaged(registry, folder, "tiny")
    assert packaged(registry, folder, "tiny") == {**first, "pushed": False}
    client, _, files = look_up(first["reference"], PARTS[""])
    target = tmp_path / "weights"
    target.mkdir()
    pull_files(client, files, target)
    for path in target.iterdir():
        assert path.name == "config.json" or path.read_bytes() == (folder / path.name).read_bytes()
    assert session.is_inside(parse_reference(first["image"]))


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="the Debian package skopeo")
def test_another_tool_takes_it_for_an_image_of_both_platforms(registry: RealRegistry, tmp_path: Path):
    made = packaged(registry, write_model(tmp_path / "model"), "inspected")
    layout = tmp_path / "layout"
    copy = ("skopeo", "copy", "-q", "--all", "--src-tls-verify=false")
    subprocess.run([*copy, f"docker://{made['image']}", f"oci:{layout}:1"], check=True, timeout=60)
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    index = json.loads((layout / "blobs" / "sha256" / entry["digest"][7:]).read_text())
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
