"""Which model image a run takes, by digest, asked before anything is made: the preflight's look into its registry.

A tag may move while a run goes on, or between two pods of one service. So the run keeps to what the tag meant first,
and a service to what it was rolled out with. Whether nodes mount the image, the cluster's version says.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from include.contracts.image_reference import ImageReference, InvalidReference, parse_reference
from include.planning import Candidates
from include.planning.plan import model_image
from include.workspace import Fault, Workspace
from include.workspace.api import names
from kaito.controller.references import DOCKER_CONFIG, Found
from kaito.hooks import api
from kaito.hooks.api import SECRET, STATEFUL_SET, ClusterError
from kaito.settings import manifest_settings, model_volumes, network

if TYPE_CHECKING:
    from include.catalog import Catalog
    from kaito.hooks.kubernetes import KaitoClusterHook

RULE = "P13"
KEY = ".dockerconfigjson"
#: From here on the feature gate ImageVolume is on where nobody has turned it off.
MOUNTED_SINCE = (1, 35)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a run has the model's files from: an image (``""``: from elsewhere), and whether nodes mount it."""

    image: str = ""
    mounted: bool = False

    def used_by(self, found: Candidates | None) -> Candidates | None:
        """Return the plans with this source."""
        if found is None or not self.image:
            return found
        plans = (replace(one, model_image=self.image, image_volume=self.mounted) for one in found.plans)
        return replace(found, plans=tuple(plans))


def look_up(
    cluster: KaitoClusterHook, workspace: Workspace, catalog: Catalog, named: Found
) -> tuple[Source, list[Fault]]:
    """Return what a Workspace's model image is now, and a fault where it is not there or not one.

    :param named: the Secrets that the Workspace names, as ``references.look_up`` gives them.
    """
    model = catalog.model(workspace.preset.name) if workspace.preset else None
    text = model_image(workspace, model) if model else ""
    if not text or workspace.annotations.get(names.USE_LOCAL_WEIGHTS) == "true":
        return Source(), []
    path = f"metadata.annotations[{names.MODEL_IMAGE}]"
    try:
        reference = parse_reference(text)
    except InvalidReference as error:  # of a preset: an annotation has been judged
        return Source(), [Fault(path, text, RULE, f"is not an image reference: {error}")]
    kept = _kept(cluster, workspace, reference)
    return _ask(cluster, reference, kept, named, workspace, path)


def _ask(
    cluster: KaitoClusterHook,
    reference: ImageReference,
    kept: str,
    named: Found,
    workspace: Workspace,
    path: str,
) -> tuple[Source, list[Fault]]:
    from include.workloads.contract import UserConfigError
    from include.workloads.oci import asking
    from include.workloads.weights.model_image import is_model

    keys = _Keys(cluster, workspace, named)
    try:
        found = asking.describe(reference, keys.credentials(reference), network())
    except UserConfigError as error:  # of the Secret's text
        return Source(), [Fault(path, str(reference), RULE, str(error).rstrip("."))]
    except (asking.NotToBeHad, asking.Unanswered) as error:
        if isinstance(error, asking.NotToBeHad) and not keys.unread:
            return Source(), [Fault(path, str(reference), RULE, str(error))]
        log.warning(
            "The model image %s could not be looked at: %s. The pods download it themselves.",
            reference,
            error,
        )
        return Source(_with_digest(reference, kept) if kept else str(reference)), []
    if not is_model(found.document):
        told = "holds no model's files: `python -m include.workloads.weights package` makes such an image"
        return Source(), [Fault(path, str(reference), RULE, told)]
    if kept and kept != found.digest:
        log.warning(
            "%s means %s now, but the service keeps what it was rolled out with: %s. Name the digest, or another tag, "
            "to change it.",
            reference,
            found.digest,
            kept,
        )
    image = _with_digest(reference, kept or found.digest)
    mounted = is_mounted(cluster)
    log.info("The model's files come from %s, %s.", image, "mounted by nodes" if mounted else "by download")
    return Source(image, mounted), []


def _with_digest(reference: ImageReference, digest: str) -> str:
    return str(replace(reference, digest=digest))


def _kept(cluster: KaitoClusterHook, workspace: Workspace, reference: ImageReference) -> str:
    """Return the digest that the service was rolled out with for this very tag, "" where there is none."""
    if reference.digest:
        return ""
    live = cluster.find(STATEFUL_SET, workspace.name, workspace.namespace)
    noted = ((live or {}).get("metadata") or {}).get("annotations") or {}
    try:
        before = parse_reference(str(noted.get(names.MODEL_IMAGE) or ""))
    except InvalidReference:
        return ""
    same = (before.name, before.tag) == (reference.name, reference.tag)
    return before.digest or "" if same else ""


def is_mounted(cluster: KaitoClusterHook) -> bool:
    """Return whether nodes mount images: what ``[kaito] model_volumes`` says, else by the cluster's version."""
    wanted = model_volumes()
    if wanted != "auto":
        return wanted == "image"
    try:
        version = cluster.send(api.Request("GET", "/version"))
    except ClusterError as error:
        log.warning("The cluster does not tell its version (%s): pods download model images.", error)
        return False
    return _numbers(version) >= MOUNTED_SINCE


def _numbers(version: Any) -> tuple[int, int]:
    """A cluster's version; clouds write a minor version like ``35+``."""
    said = version if isinstance(version, Mapping) else {}
    found = [re.match(r"\d+", str(said.get(part) or "")) for part in ("major", "minor")]
    return (int(found[0][0]), int(found[1][0])) if found[0] and found[1] else (0, 0)


@dataclass
class _Keys:
    """The pull secrets of the Workspace and of the installation; `unread` is whether one could not be looked at."""

    cluster: KaitoClusterHook
    workspace: Workspace
    named: Found
    unread: bool = False

    def credentials(self, reference: ImageReference) -> Any:
        """Return what the first of them has for this registry; None where none has."""
        from include.workloads.oci.credentials import credentials_in

        for name in [*self.workspace.model_pull_secrets, *manifest_settings().image_pull_secrets]:
            secret = self._secret(name)
            if secret is None or secret.get("type") != DOCKER_CONFIG:
                continue
            if (found := credentials_in(_text(secret), reference)) is not None:
                return found
        return None

    def _secret(self, name: str) -> Mapping[str, Any] | None:
        if (SECRET.plural, name) in self.named:
            return self.named[SECRET.plural, name]
        try:
            return self.cluster.find(SECRET, name, self.workspace.namespace)
        except ClusterError as error:
            if error.status != 403:
                raise
            self.unread = True
            return None


def _text(secret: Mapping[str, Any]) -> str:
    try:
        return base64.b64decode(str((secret.get("data") or {}).get(KEY) or ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
