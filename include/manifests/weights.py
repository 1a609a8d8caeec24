"""Where a pod has the model's files from: its node, a volume, a mirror, a container image, or the hub.

Two of these need nothing of the pod; the others are an init container that fills a volume, or that looks at what the
node has mounted. Nothing here must know what is done with the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from include.catalog.models import GIB
from include.contracts.purpose import Purpose
from include.contracts.revisions import is_commit
from include.manifests.pods import (
    WEIGHTS_PATH,
    Manifest,
    container,
    env,
    env_from_field,
    env_from_secret,
    mount,
    registry_access,
    scratch,
    weights_memory_limit,
)
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.workspace import Workspace
from include.workspace.api import names
from include.workspace.validation import model_volume
from include.workspace.validation.model_volume import ModelVolume

LOCAL_MODELS = "/opt/kaito/models"  # where KAITO expects the models of kaito.sh/use-local-weights
#: Disk for what is under way beside the weights, in GiB.
SPARE_DISK = 16
TOKENIZER_DISK = "2Gi"
CACHE_PATH = "/workspace/cache"


@dataclass(frozen=True)
class Weights:
    """What a pod gets for the model's files: its volumes (one is called `weights`), and what comes before it starts.

    `pull_secrets` are for the node, where it is the node that pulls. `folder` is where the files lie in `weights`.
    """

    volumes: list[Manifest]
    init_containers: list[Manifest] = field(default_factory=list)
    pull_secrets: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def mount(self) -> Manifest:
        """Where the pod's other containers read the files."""
        return mount("weights", WEIGHTS_PATH, sub_path=self.folder, read_only=True)


def is_downloaded(ws: Workspace, settings: ManifestSettings) -> bool:
    """Whether the model's files come from the hub, where no image is named."""
    own = ws.annotations.get(names.USE_LOCAL_WEIGHTS) == "true" and not ws.is_tuning
    return not (own or names.MODEL_VOLUME in ws.annotations or settings.weights_mirror)


def weights(ws: Workspace, plan: Plan, settings: ManifestSettings) -> Weights:
    """The whole model. What a node has mounted of an image is looked at first: whoever made it is not known."""
    if plan.purpose == Purpose.SERVING and ws.annotations.get(names.USE_LOCAL_WEIGHTS) == "true":
        # As in KAITO, by the preset's name as it is written, whichever of its names that is.
        written = ws.preset.name if ws.preset else plan.model_id
        folder = re.sub(r"[/\\]", "-", written.strip().lower())
        return Weights([_on_node(f"{LOCAL_MODELS}/{folder}")])
    if volume := model_volume.named(ws.annotations):
        return _on_volume(volume, [_look(plan, settings, volume.folder)])
    if plan.model_image and plan.image_volume:
        image = {"name": "weights", "image": {"reference": plan.model_image, "pullPolicy": "IfNotPresent"}}
        return Weights([image], [_look(plan, settings)], ws.model_pull_secrets)
    if settings.weights_mirror and not plan.model_image:
        return Weights([_on_node(_mirrored(plan, settings))])
    cache = model_volume.named(ws.annotations, names.MODEL_CACHE)
    if cache and not plan.model_image and is_commit(plan.revision):
        return _kept(ws, plan, settings, cache)
    # Twice from the hub, since a file is whole before it takes its place, and a GGUF file is converted.
    times = 1 if plan.model_image else 2
    disk = math.ceil(times * plan.weights_bytes / GIB) + SPARE_DISK
    return _downloaded(ws, plan, settings, f"{disk}Gi")


def tokenizer(ws: Workspace, plan: Plan, settings: ManifestSettings) -> Weights:
    """The tokenizer alone: some megabytes, for a step that asks the model's chat template.

    A mirror may lie on the GPU machines only: where it is not, the folder is empty and the step goes on without. A
    model image is never mounted for it: the node would pull all of it.
    """
    if volume := model_volume.named(ws.annotations):
        return _on_volume(volume)
    if settings.weights_mirror and not plan.model_image:
        return Weights([_on_node(_mirrored(plan, settings), "")])
    return _downloaded(ws, plan, settings, TOKENIZER_DISK, "tokenizer")


def _on_volume(volume: ModelVolume, looks: Sequence[Manifest] = ()) -> Weights:
    claim = {"claimName": volume.claim, "readOnly": True}
    return Weights([{"name": "weights", "persistentVolumeClaim": claim}], list(looks), folder=volume.folder)


def _mirrored(plan: Plan, settings: ManifestSettings) -> str:
    return f"{(settings.weights_mirror or '').rstrip('/')}/{plan.model}"


def _on_node(path: str, kind: str = "Directory") -> Manifest:
    return {"name": "weights", "hostPath": {"path": path, "type": kind}}


def _downloaded(
    ws: Workspace, plan: Plan, settings: ManifestSettings, disk: str, parts: str | None = None
) -> Weights:
    """A volume of the pod's own and what fills it; `parts` is "tokenizer" for that alone."""
    if not plan.model_image:
        filling = _from_hub(ws, plan, settings, mount("weights", WEIGHTS_PATH), WEIGHTS_PATH, parts)
        return Weights([scratch("weights", disk)], [filling])
    secrets = [*ws.model_pull_secrets, *settings.image_pull_secrets]
    access = registry_access(settings, "model-registry", secrets)
    variables = [*env(WEIGHTS_SOURCE="image", MODEL_IMAGE=plan.model_image), *access.variables]
    mounts = [mount("weights", WEIGHTS_PATH), *access.mounts]
    filling = _filling(plan, settings, variables, mounts, WEIGHTS_PATH, parts)
    return Weights([scratch("weights", disk), *access.volumes], [filling])


def _kept(ws: Workspace, plan: Plan, settings: ManifestSettings, cache: ModelVolume) -> Weights:
    """A folder of a shared volume, by the model's name and commit, and what fills it where no pod has yet."""
    name = f"{plan.model_id.replace('/', '--')}/{plan.revision}"
    within = f"{name}-{plan.weights_parts}" if plan.weights_parts else name
    folder = f"{cache.folder}/{within}" if cache.folder else within
    whole = mount("weights", CACHE_PATH)
    filling = _from_hub(ws, plan, settings, whole, f"{CACHE_PATH}/{folder}")
    filling["env"].append(env_from_field("WEIGHTS_SHARED", "metadata.uid"))
    claim = {"claimName": cache.claim}
    return Weights([{"name": "weights", "persistentVolumeClaim": claim}], [filling], folder=folder)


def _from_hub(
    ws: Workspace,
    plan: Plan,
    settings: ManifestSettings,
    volume: Manifest,
    path: str,
    parts: str | None = None,
) -> Manifest:
    variables = env(WEIGHTS_SOURCE="hub", MODEL_ID=plan.model_id, MODEL_REVISION=plan.revision)
    if ws.model_access_secret:
        variables.append(env_from_secret("HF_TOKEN", ws.model_access_secret, "HF_TOKEN"))
    return _filling(plan, settings, variables, [volume], path, parts)


def _filling(
    plan: Plan,
    settings: ManifestSettings,
    variables: Sequence[Manifest],
    mounts: Sequence[Manifest],
    path: str,
    parts: str | None,
) -> Manifest:
    more = env(WEIGHTS_PARTS=parts or plan.weights_parts or None, WEIGHTS_PATH=path)
    return container(
        "weights",
        "weights",
        settings,
        variables=[*variables, *more],
        mounts=mounts,
        memory_limit=None if parts else weights_memory_limit(plan, settings),
    )


def _look(plan: Plan, settings: ManifestSettings, folder: str = "") -> Manifest:
    """The container that judges what somebody else has put there."""
    variables = env(
        WEIGHTS_SOURCE="mounted", WEIGHTS_PARTS=plan.weights_parts or None, WEIGHTS_PATH=WEIGHTS_PATH
    )
    mounts = [mount("weights", WEIGHTS_PATH, sub_path=folder, read_only=True)]
    return container("weights", "weights", settings, variables=variables, mounts=mounts)
