"""Image volumes: an image's files as a folder of the node, pulled once and mounted read-only by every pod after that.

As containerd does it, because what it refuses must be refused here too: only layers that are tar archives are laid over
each other, a layer must have its digest, the config must list as many layers and be for this machine's platform.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from include.contracts.image_reference import ImageReference, InvalidReference, parse_reference

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SECONDS = 60.0
CHUNK = 1 << 20

Object = dict[str, Any]


class PullProblem(Exception):
    """The image cannot be had; str() is what a kubelet would say of it."""


class _Hashed:
    """A stream that makes the digest of what is read from it."""

    def __init__(self, below: IO[bytes]) -> None:
        self.below, self.hasher = below, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self.below.read(size)
        self.hasher.update(content)
        return content


class ImageStore:
    """The node's images.

    :param folder: where they stay, one folder an image, named by its digest.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, text: str, secrets: Sequence[Mapping[str, Any]]) -> Path:
        """The folder of an image's files; a pull where the node has it not. Blocks.

        :param secrets: dockerconfigjson documents, parsed.
        :raises PullProblem: it cannot be had.
        """
        try:
            reference = parse_reference(text)
        except InvalidReference as error:
            raise PullProblem(f'couldn\'t parse image name "{text}": {error}') from None
        if reference.digest and (known := self._folder / reference.digest[7:]).is_dir():
            return known
        try:
            return self._pull(_Repository(reference, secrets))
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            raise PullProblem(f'failed to pull and unpack image "{text}": {error}') from None

    def _pull(self, repository: _Repository) -> Path:
        digest, manifest = repository.manifest(repository.reference.version)
        final = self._folder / (repository.reference.digest or digest)[7:]
        if manifest.get("mediaType") == INDEX:
            manifest = repository.manifest(_for_this_machine(manifest))[1]
        layers = manifest["layers"]
        _check_config(repository, manifest["config"], layers)
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=self._folder, prefix=".pull-"))
        try:
            for layer in layers:
                repository.unpack(layer, fresh)
            fresh.chmod(0o755)
            if not final.is_dir():
                fresh.rename(final)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return final


def _for_this_machine(index: Mapping[str, Any]) -> str:
    wanted = {"os": "linux", "architecture": ARCHITECTURES.get(platform.machine(), platform.machine())}
    for entry in index["manifests"]:
        if (entry.get("platform") or {}).items() >= wanted.items():
            return str(entry["digest"])
    raise ValueError("no match for platform in manifest: not found")


def _check_config(repository: _Repository, described: Object, layers: Sequence[Object]) -> None:
    if described["mediaType"] != CONFIG:
        raise ValueError(f"unsupported config of type {described['mediaType']}: an artefact is no image")
    config = json.loads(repository.blob(described["digest"]))
    listed = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(listed) != len(layers):
        raise ValueError(f"number of layers and diffIDs don't match: {len(layers)} != {len(listed)}")
    if config.get("architecture") != ARCHITECTURES.get(platform.machine(), platform.machine()):
        raise ValueError(f"unpacker does not support platform {config.get('architecture')!r}")


class _Repository:
    """One repository, asked over HTTP: plain on loopback, as a node is set up for a registry of its own."""

    def __init__(self, reference: ImageReference, secrets: Sequence[Mapping[str, Any]]) -> None:
        self.reference = reference
        scheme = "http" if reference.registry.startswith(("127.", "localhost")) else "https"
        self._base = f"{scheme}://{reference.api_host}/v2/{reference.repository}"
        self._headers = {"Accept": f"{INDEX}, {MANIFEST}"}
        if token := _basic(reference, secrets):
            self._headers["Authorization"] = f"Basic {token}"

    def _open(self, path: str) -> Any:
        request = urllib.request.Request(f"{self._base}/{path}", headers=self._headers)  # noqa: S310
        try:
            return urllib.request.urlopen(request, timeout=SECONDS)  # noqa: S310 - http and https only
        except urllib.error.HTTPError as error:
            raise OSError(f"unexpected status {error.code} for {path}") from None

    def manifest(self, version: str) -> tuple[str, Object]:
        """The digest and the document of a tag or digest."""
        with self._open(f"manifests/{version}") as answer:
            content = answer.read()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if version.startswith("sha256:") and version != digest:
            raise OSError(f"the manifest {version} arrived as {digest}")
        return digest, json.loads(content)

    def blob(self, digest: str) -> bytes:
        with self._open(f"blobs/{digest}") as answer:
            content: bytes = answer.read()
        return content

    def unpack(self, layer: Object, target: Path) -> None:
        """Lay one layer over what is there."""
        kind = str(layer["mediaType"])
        if kind not in (LAYER, f"{LAYER}+gzip"):
            raise ValueError(f"unsupported layer of type {kind}")
        with self._open(f"blobs/{layer['digest']}") as answer:
            hashed = _Hashed(answer)
            stream: Any = hashed
            with tarfile.open(fileobj=stream, mode="r|gz" if kind.endswith("gzip") else "r|") as tar:
                tar.extractall(target, filter="data")
            while hashed.read(CHUNK):
                pass
        if f"sha256:{hashed.hasher.hexdigest()}" != layer["digest"]:
            raise OSError(f"layer {layer['digest']} arrived changed")


def _basic(reference: ImageReference, secrets: Sequence[Mapping[str, Any]]) -> str:
    for secret in secrets:
        entry = (secret.get("auths") or {}).get(reference.registry)
        if not isinstance(entry, Mapping):
            continue
        if entry.get("auth"):
            return str(entry["auth"])
        user, password = entry.get("username") or "", entry.get("password") or ""
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    return ""
