"""A node's image volumes: pulled once, as containerd would, and refused where it would refuse."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from include.workloads.weights.package import Request, package
from sandbox.node.image_volumes import ImageStore, PullProblem
from sandbox.node.volumes import VolumeProblem, VolumeSet
from tests.support.registry_server import Registry, registry
from tests.support.small_model import write_model

__all__ = ["registry"]

NAME = "model-00001-of-00001.safetensors"


@pytest.fixture
def packaged(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A model image in the registry, by its digest."""
    monkeypatch.setenv("INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    folder = write_model(tmp_path / "model", shards=1)
    made = Request(registry=f"127.0.0.1:{registry.port}", name="phi", tag="1", folder=str(folder))
    reference: str = package(made)["reference"]
    registry.manifests[reference.partition("@")[2]] = registry.manifests["1"]
    return reference


def test_a_model_image_is_a_folder_of_its_files_and_pulled_once(
    packaged: str, registry: Registry, tmp_path: Path
):
    store = ImageStore(tmp_path / "images")
    folder = store.get(packaged, [])
    assert (folder / NAME).read_bytes() == (tmp_path / "model" / NAME).read_bytes()
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "llama"}
    registry.asked.clear()
    assert store.get(packaged, []) == folder
    assert registry.asked == []


async def test_it_is_mounted_read_only_with_the_pod_s_pull_secret(
    cluster, pod, packaged: str, registry: Registry, tmp_path: Path
):
    host, known = packaged.partition("/")[0], base64.b64encode(b"u:p").decode()
    registry.before = lambda handler: (
        handler.headers.get("Authorization") != f"Basic {known}" and handler.reply(401)
    )
    text = json.dumps({"auths": {host: {"auth": known}}}).encode()
    secret = {"metadata": {"name": "models"}, "data": {".dockerconfigjson": base64.b64encode(text).decode()}}
    await cluster.create("secrets", secret, "default")
    pod["spec"]["volumes"] = [{"name": "w", "image": {"reference": packaged}}]
    made = VolumeSet(cluster, pod, tmp_path / "pod", tmp_path / "shm", ImageStore(tmp_path / "images"))
    with pytest.raises(VolumeProblem, match=r"failed to pull and unpack image .* unexpected status 401"):
        await made.set_up()
    pod["spec"]["imagePullSecrets"] = [{"name": "models"}]
    await made.set_up()
    (mount,) = made.mounts({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}, {})
    assert mount.read_only
    assert (mount.source / NAME).is_file()


def config_of(registry: Registry) -> tuple[str, dict]:
    document = json.loads(registry.manifests[platform_digest(registry)])
    return document["config"]["digest"], document


def platform_digest(registry: Registry) -> str:
    entries = json.loads(registry.manifests["1"])["manifests"]
    return next(e["digest"] for e in entries if e["platform"]["architecture"] == "amd64")


def test_what_containerd_refuses_is_refused(
    packaged: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    store = ImageStore(tmp_path / "images")
    with pytest.raises(PullProblem, match="couldn't parse image name"):
        store.get("A b", [])
    with pytest.raises(PullProblem, match="404"):
        store.get(packaged.partition("@")[0] + ":absent", [])
    config = config_of(registry)[0]
    kept = registry.blobs[config]
    registry.blobs[config] = json.dumps({**json.loads(kept), "rootfs": {"diff_ids": []}}).encode()
    with pytest.raises(PullProblem, match="number of layers and diffIDs don't match"):
        store.get(packaged, [])
    registry.blobs[config] = json.dumps({**json.loads(kept), "architecture": ""}).encode()
    with pytest.raises(PullProblem, match="does not support platform"):
        store.get(packaged, [])
    registry.blobs[config] = kept
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(PullProblem, match="no match for platform"):
        store.get(packaged, [])


def test_a_layer_that_arrives_changed_leaves_nothing(packaged: str, registry: Registry, tmp_path: Path):
    largest = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    registry.blobs[largest] = registry.blobs[largest].replace(b"model-0", b"model-9", 1)
    with pytest.raises(PullProblem, match=r"arrived changed|checksum|bad"):
        ImageStore(tmp_path / "images").get(packaged, [])
    assert list((tmp_path / "images").iterdir()) == []
    shutil.rmtree(tmp_path / "images")
