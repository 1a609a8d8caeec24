"""A cluster that the demo did not start: what it is told about it, what it makes there, and how it leaves it.

Everything is made for the pass and taken away after it: a namespace, the CRD, Airflow's account. A cluster that has one
of them already belongs to somebody's Airflow or KAITO, and is refused rather than changed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from demo import dataset
from demo.cluster import CRDS, Kubectl, rights
from demo.preflight import Options, check_cluster, check_options, image_fault
from demo.processes import DemoError
from demo.target import PRODUCT, TargetCluster

NAMESPACE = "kaito-demo"
RECORD = "external.json"
DATASET = "demo-dataset"
DATASET_PORT = 8000
PULL_SECONDS = 900
RELEASE_SECONDS = 300


@dataclass(frozen=True)
class ExternalCluster(TargetCluster):
    """A namespace of a cluster, and the registry that its nodes push to."""

    settings: Mapping[str, str]

    @property
    def account_kubeconfig(self) -> Path:
        """Airflow's: it has a token, an administrator's may have a client certificate or call a program."""
        return self.state_dir / "airflow" / "kubeconfig"

    def airflow_settings(self, weights: Path) -> dict[str, str]:
        """Return what was set in the environment; weights come from the hub unless a mirror is named there."""
        return dict(self.settings)


def open_cluster(state_dir: Path, options: Options) -> ExternalCluster:
    """Check a cluster, and make the demo's namespace, CRD and rights in it.

    :raises DemoError: something is missing; the message names all of it, one sentence each.
    """
    _refuse(check_options(options))
    state_dir.mkdir(parents=True, exist_ok=True)
    kubeconfig = own_kubeconfig(state_dir / "kubeconfig", options.kubeconfig, NAMESPACE)
    kubectl = Kubectl(kubeconfig)
    _refuse(check_cluster(kubectl, options, NAMESPACE))
    (state_dir / RECORD).write_text(json.dumps({"namespace": NAMESPACE}))
    kubectl("create", "namespace", NAMESPACE)
    kubectl("apply", "-f", str(CRDS))
    kubectl.apply(*rights(NAMESPACE))
    kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=60s")
    _refuse(_pull(kubectl, options))
    return ExternalCluster(
        state_dir=state_dir,
        kubeconfig=kubeconfig,
        registry=options.registry,
        registry_user=options.registry_user,
        registry_password=options.registry_password,
        namespace=NAMESPACE,
        settings={**options.settings, f"{PRODUCT}WORKLOAD_IMAGE": options.workload_image},
    )


def _refuse(faults: list[str]) -> None:
    if faults:
        raise DemoError(
            "the cluster or the settings lack something:\n" + "\n".join(f"  - {f}" for f in faults)
        )


def own_kubeconfig(path: Path, kubeconfig: Path | None, namespace: str) -> Path:
    """Write the current context of a kubeconfig by itself, with another default namespace.

    :param kubeconfig: the file; None for what kubectl takes (KUBECONFIG, else ~/.kube/config).
    :raises DemoError: there is no current context.
    """
    given = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    view = ("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
    config = json.loads(Kubectl(None)(*view, *given))
    config["contexts"][0]["context"]["namespace"] = namespace
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _pod(name: str, options_image: str, arguments: list[str], settings: Mapping[str, str]) -> dict[str, Any]:
    """A pod of the workload image that any PodSecurity level admits."""
    security = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    secrets = [s.strip() for s in settings.get(f"{PRODUCT}IMAGE_PULL_SECRETS", "").split(",") if s.strip()]
    container = {
        "name": "main",
        "image": options_image,
        "imagePullPolicy": settings.get(f"{PRODUCT}IMAGE_PULL_POLICY", "IfNotPresent"),
        "command": ["python", *arguments],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "securityContext": security,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": secret} for secret in secrets],
            "containers": [container],
        },
    }


def _pull(kubectl: Kubectl, options: Options) -> list[str]:
    """Start the image once: pulled, and this project's, it ends well."""
    pod = _pod("image-check", options.workload_image, ["-c", "import include.workloads"], options.settings)
    kubectl.apply(pod)
    deadline = time.monotonic() + PULL_SECONDS
    while True:
        status = json.loads(kubectl("get", "pod", "image-check", "-o", "json"))["status"]
        fault = image_fault(status, options.workload_image, late=time.monotonic() > deadline)
        if fault is not None or status.get("phase") == "Succeeded":
            kubectl("delete", "pod", "image-check", "--wait=false")
            return [fault] if fault else []
        time.sleep(1)


def serve_dataset(target: ExternalCluster) -> tuple[str, ExternalCluster]:
    """Serve the dataset from a pod: nodes elsewhere cannot reach this machine.

    :returns: its URL, and the cluster with that one address allowed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(dataset.rows()), file)
    image = target.settings[f"{PRODUCT}WORKLOAD_IMAGE"]
    arguments = ["-m", "http.server", str(DATASET_PORT), "--bind", "$(POD_IP)", "--directory", "/data"]
    pod = _pod(DATASET, image, arguments, target.settings)
    pod["spec"]["volumes"] = [{"name": "data", "configMap": {"name": DATASET}}]
    pod["spec"]["containers"][0]["command"] = ["python", *arguments]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": DATASET},
        "binaryData": {"gpu-machines.parquet": base64.b64encode(file.getvalue()).decode()},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": DATASET},
        "spec": {"selector": {"app": DATASET}, "ports": [{"port": DATASET_PORT}]},
    }
    kubectl = Kubectl(target.kubeconfig)
    kubectl.apply(config, service, pod)
    kubectl("wait", "--for=condition=Ready", f"pod/{DATASET}", "--timeout=300s")
    address = kubectl("get", "service", DATASET, "-o", "jsonpath={.spec.clusterIP}")
    key = f"{PRODUCT}ALLOWED_NETWORKS"
    networks = ",".join(
        filter(None, (target.settings.get(key), f"{address}/{128 if ':' in address else 32}"))
    )
    allowed = ExternalCluster(**{**vars(target), "settings": {**target.settings, key: networks}})
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{DATASET_PORT}/gpu-machines.parquet", allowed


def release(state_dir: Path) -> None:
    """Delete the Workspaces while Airflow still runs: it gives machines back and takes its finalizer off."""
    if (state_dir / RECORD).exists():
        kubectl = Kubectl(state_dir / "kubeconfig")
        try:
            kubectl("delete", "workspaces.kaito.sh", "--all", f"--timeout={RELEASE_SECONDS}s")
        except DemoError as error:
            print(f"Airflow did not release the Workspaces: {error}")


def clean_up(state_dir: Path) -> None:
    """Take away what `open_cluster` made; quiet when it made nothing.

    :raises DemoError: the cluster kept something; the message says what.
    """
    if not (state_dir / RECORD).exists():
        return
    kubectl = Kubectl(state_dir / "kubeconfig")
    _force_workspaces(kubectl)
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    kubectl("delete", "-f", str(CRDS), "--ignore-not-found", "--timeout=120s")
    documents = yaml.safe_dump_all(rights(NAMESPACE))
    kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=120s", stdin=documents)
    (state_dir / RECORD).unlink()


def _force_workspaces(kubectl: Kubectl) -> None:
    """Without Airflow nobody takes the finalizer off a Workspace that is left, nor its machines away."""
    try:
        left = kubectl("get", "workspaces.kaito.sh", "-o", "name").split()
    except DemoError:
        return  # no such kind: the CRD was never made, or is gone
    for name in left:
        kubectl("patch", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        workspace = f"kaito.sh/workspace={name.partition('/')[2]},kaito.sh/workspacenamespace={NAMESPACE}"
        for kind in ("nodeclaims.karpenter.sh", "nodepools.karpenter.sh"):
            try:
                kubectl("delete", kind, "-l", workspace, "--ignore-not-found", "--timeout=180s")
            except DemoError as error:
                if "the server doesn't have a resource type" not in str(error):
                    raise


def options_of(
    kubeconfig: Path | None, image: str, registry: str, environment: Mapping[str, str] | None = None
) -> Options:
    """Options from the command line, and settings and the registry's login from the environment."""
    env = os.environ if environment is None else environment
    return Options(
        kubeconfig=kubeconfig,
        workload_image=image or env.get("WORKLOAD_IMAGE", ""),
        registry=(registry or env.get("REGISTRY", "")).rstrip("/"),
        registry_user=env.get("REGISTRY_USERNAME", ""),
        registry_password=env.get("REGISTRY_PASSWORD", ""),
        instance_type=env.get("INSTANCE_TYPE", ""),
        settings={key: value for key, value in env.items() if key.startswith(PRODUCT)},
    )
