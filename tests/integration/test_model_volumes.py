"""Volumes of the user's own in the sandbox, as the product mounts them: a model's folder, a cache that pods share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from demo.cluster import Kubectl
from demo.stack import start_sandbox, stop_sandbox
from include.catalog import load_catalog
from include.manifests import ManifestSettings, pods
from include.manifests.weights import weights as model_files
from include.planning import plan_serving
from include.workspace import parse_workspace
from tests.support.airflow_run import wait
from tests.support.hub_server import HubServer, model_info, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

COMMIT = "c" * 40
PRESET = "phi-3-mini-128k-instruct"
FILES = {
    "config.json": b'{"model_type": "phi3"}',
    "tokenizer.json": b"{}",
    "model.safetensors": save({"w": np.zeros(1000, dtype=np.float32)}),
}
ENDED = ("Succeeded", "Failed")


@dataclass
class Volume:
    """A claim that is bound to a folder of this machine."""

    kubectl: Kubectl
    name: str
    folder: Path

    def bind(self, mode: str) -> None:
        spec = {
            "accessModes": [mode],
            "storageClassName": "by-hand",
        }
        volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(self.folder)}}
        claim = {"volumeName": self.name, "resources": {"requests": {"storage": "1Gi"}}}
        for kind, more in (("PersistentVolume", volume), ("PersistentVolumeClaim", claim)):
            document = {"apiVersion": "v1", "kind": kind, "metadata": {"name": self.name}}
            self.kubectl.apply({**document, "spec": {**spec, **more}})


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("volumes")
    folder.chmod(0o755)
    sandbox = start_sandbox(folder / "state")
    try:
        yield Kubectl(sandbox.kubeconfig)
    finally:
        stop_sandbox(folder / "state")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running() as server:
        hf_id = load_catalog().model(PRESET).hf_id
        listed = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
        info = model_info(hf_id, sha=COMMIT, siblings=listed)
        server.answer(f"/api/models/{hf_id}/revision/{COMMIT}", info)
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in FILES.items()
        ]
        server.answer(f"/api/models/{hf_id}/tree/{COMMIT}", tree)
        for name, content in FILES.items():
            marks = {"etag": f'"{hashlib.sha1(content).hexdigest()}"', "x_repo_commit": COMMIT}
            server.answer(f"/{hf_id}/resolve/{COMMIT}/{name}", content, **marks)
        yield server


def pod(name: str, notes: dict[str, str], endpoint: str = "") -> dict[str, Any]:
    """What a serving pod gets for its model, with a container that lists the files in the server's place."""
    ws = parse_workspace(
        {
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": name, "namespace": "default", "annotations": notes},
            "resource": {
                "instanceType": "Standard_NC24ads_A100_v4",
                "labelSelector": {"matchLabels": {"a": "b"}},
            },
            "inference": {"preset": {"name": PRESET}},
        }
    )
    catalog = load_catalog()
    made = replace(plan_serving(ws, catalog), revision=COMMIT)
    settings = replace(ManifestSettings.defaults(catalog), cpu_requests=False)
    files = model_files(ws, made, settings)
    for one in files.init_containers:
        one["env"] += [
            {"name": "HF_ENDPOINT", "value": endpoint},
            {"name": "HF_HUB_DISABLE_XET", "value": "1"},
        ]
    look = {
        "name": "look",
        "image": "busybox",
        "command": ["sh", "-c", f"ls -1 {pods.WEIGHTS_PATH}; touch {pods.WEIGHTS_PATH}/mine && echo WRITTEN"],
        "volumeMounts": [files.mount],
    }
    spec = pods.pod_spec(settings, [look], files.volumes, init_containers=files.init_containers)
    metadata = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**spec, "restartPolicy": "Never"},
    }


def end(kubectl: Kubectl, name: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(kubectl("get", "pod", name, "-o", "json"))
        return found if found["status"]["phase"] in ENDED else None

    return wait(ended, 120, f"pod {name}")


def filled(found: dict[str, Any]) -> dict[str, Any]:
    (said,) = found["status"]["initContainerStatuses"]
    return dict(json.loads(said["state"]["terminated"]["message"]))


def test_a_folder_of_a_volume_is_looked_at_and_read_only(kubectl: Kubectl, tmp_path: Path) -> None:
    volume = Volume(kubectl, "models", tmp_path / "models")
    for folder, config in (("good", b"{}"), ("evil", b'{"auto_map": {"AutoModel": "evil.Model"}}')):
        (volume.folder / folder).mkdir(parents=True)
        for name, content in (FILES | {"config.json": config}).items():
            (volume.folder / folder / name).write_bytes(content)
    volume.bind("ReadOnlyMany")
    for folder in ("good", "evil"):
        kubectl.apply(pod(folder, {"kaito.sh/model-volume": f"models/{folder}"}))
    assert filled(end(kubectl, "good"))["files"] == len(FILES)
    told = kubectl("logs", "good", "-c", "look")
    assert "model.safetensors" in told
    assert "WRITTEN" not in told
    evil = end(kubectl, "evil")
    assert "asks for code of its own" in filled(evil)["error"]


def test_pods_share_what_the_first_of_them_downloads(
    kubectl: Kubectl, tmp_path: Path, hub: HubServer
) -> None:
    volume = Volume(kubectl, "cache", tmp_path / "cache")
    volume.folder.mkdir()
    volume.bind("ReadWriteMany")
    for name in ("one", "two"):
        kubectl.apply(pod(name, {"kaito.sh/model-cache": "cache/hub"}, hub.endpoint))
    ends = [end(kubectl, name) for name in ("one", "two")]
    assert [one["status"]["phase"] for one in ends] == ["Failed"] * 2, "the server cannot write to it"
    assert not [said for one in ends if "error" in (said := filled(one))]
    assert sorted(filled(one)["downloaded"] for one in ends) == [False, True]
    assert all("model.safetensors" in kubectl("logs", name, "-c", "look") for name in ("one", "two"))
    (model,) = (volume.folder / "hub").iterdir()
    assert [path.name for path in model.iterdir()] == [COMMIT]
    assert "--" in model.name
