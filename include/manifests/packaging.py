"""The pod that makes a container image of a model's files and pushes it, on any CPU node."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from include.catalog.models import GIB, Model
from include.manifests import pods
from include.manifests.pods import Manifest, env_from_secret, mount
from include.manifests.settings import ManifestSettings
from include.manifests.weights import SPARE_DISK

SOURCE_PATH = "/mnt/model"
COMPONENT = "package-model"


@dataclass(frozen=True)
class Packaging:
    """What is packaged, and where to.

    :param registry: where repositories are, such as `myregistry.azurecr.io/models`.
    :param tag: "" for the beginning of the model's commit.
    :param push_secret: a dockerconfigjson Secret of the namespace, "" for none.
    :param hub_secret: a Secret whose key HF_TOKEN opens the model on the hub, "" for none.
    :param claim: a PersistentVolumeClaim with the model's files, "" for those of the hub.
    :param folder: where in it they are.
    :param licence: in place of the preset's, or of what the model's card says.
    :param private: that only those who may have the model can read the repository.
    """

    model: Model
    registry: str
    tag: str = ""
    namespace: str = "default"
    push_secret: str = ""
    hub_secret: str = ""
    claim: str = ""
    folder: str = ""
    licence: str = ""
    private: bool = False

    @property
    def image(self) -> str:
        """The image's name, as KAITO calls it."""
        return f"{self.registry.rstrip('/')}/kaito-{self.model.name}:{self.tag or self.model.revision[:12]}"


def package_pod(wanted: Packaging, settings: ManifestSettings, name: str) -> Manifest:
    """The pod.

    :param name: of the pod; one of that name is the same work.
    """
    access = pods.registry_access(settings, "registry", [wanted.push_secret] if wanted.push_secret else [])
    variables, mounts = list(access.variables), [mount("weights", pods.WEIGHTS_PATH), *access.mounts]
    disk = math.ceil(wanted.model.weights_bytes / GIB) + SPARE_DISK
    volumes = [pods.scratch("weights", f"{disk}Gi"), *access.volumes]
    if wanted.hub_secret:
        variables.append(env_from_secret("HF_TOKEN", wanted.hub_secret, "HF_TOKEN"))
    if wanted.claim:
        claim = {"claimName": wanted.claim, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
        mounts.append(mount("model", SOURCE_PATH, read_only=True))
    main = pods.container(
        "weights", "weights", settings, variables=variables, mounts=mounts, arguments=_arguments(wanted)
    )
    spec = pods.pod_spec(settings, [main], volumes)
    spec |= {"restartPolicy": "Never", "activeDeadlineSeconds": settings.step_timeout_minutes * 60}
    labels = {"app.kubernetes.io/name": COMPONENT, "app.kubernetes.io/part-of": "kaito-airflow"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": wanted.namespace, "labels": labels},
        "spec": spec,
    }


def _arguments(wanted: Packaging) -> Sequence[str]:
    model = wanted.model
    source: dict[str, Any] = {"model": model.hf_id, "revision": model.revision, "folder": pods.WEIGHTS_PATH}
    if wanted.claim:
        source = {"folder": posixpath.join(SOURCE_PATH, wanted.folder).rstrip("/")}
    options = {
        **source,
        "registry": wanted.registry,
        "name": model.name,
        "tag": wanted.tag or model.revision[:12],
        "licence": wanted.licence or model.licence,
        "parts": model.load_format if model.load_format != "auto" else "",
    }
    switches = {"gated": model.gated, "private": wanted.private}
    return [
        "package",
        *(f"--{name}={value}" for name, value in options.items() if value),
        *(f"--{name}" for name, on in switches.items() if on),
    ]
