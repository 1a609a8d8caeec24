"""A model as a container image: what its manifests say, and how one is told from any other image.

One layer a file, each a plain tar archive, with an image config that lists the layers: that is what a node's software
can mount as an image volume. It unpacks layers only for the node's own platform, so there is one manifest a platform
under one index; they share all layers. Nothing in it depends on the time or the machine: the same files, licence and
revision are the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.image_reference import ImageReference
from include.workloads.contract import UserDataError
from include.workloads.oci.media import OCI_INDEX, OCI_MANIFEST, sha256
from include.workloads.weights.layers import NAME, LayerFile

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
PLATFORMS = ("amd64", "arm64")
#: On a layer: the file that it holds (the name that the CNCF's model format has for this), and the file's own size.
FILE_PATH, FILE_SIZE = "org.cncf.model.filepath", "sh.kaito.model.file-size"
#: On a manifest: that it is one of ours, and what the model is.
FORMAT, FILES = "sh.kaito.model.format", "sh.kaito.model.files"
FORMAT_VERSION = "1"
#: More layers than this no node can lay over each other.
MAX_FILES = 400
HINT = "python -m include.workloads.weights package makes one"


@dataclass(frozen=True)
class ModelImage:
    """An image ready to push, apart from its layers. `index` is what its digest is of."""

    files: tuple[LayerFile, ...]
    configs: tuple[bytes, ...]
    manifests: tuple[bytes, ...]
    index: bytes

    @property
    def digest(self) -> str:
        """The image's name."""
        return sha256(self.index)

    @property
    def size(self) -> int:
        """Bytes of the model's files."""
        return sum(file.size for file in self.files)


def build(files: Iterable[LayerFile], notes: Mapping[str, str]) -> ModelImage:
    """The image of these files.

    :param notes: annotations that say what the model is; see `include.workloads.weights.package`.
    :raises UserDataError: a file's name, or the number of files, cannot be in an image.
    """
    ordered = tuple(sorted(files, key=lambda file: file.name))
    bad = [file.name for file in ordered if not NAME.fullmatch(file.name)]
    if bad or not 0 < len(ordered) <= MAX_FILES:
        told = f"has the file {bad[0]!r}, whose name" if bad else f"has {len(ordered)} files, which"
        raise UserDataError(f"The model {told} cannot be in an image (plain names, 1 to {MAX_FILES} files).")
    listed = json.dumps({file.name: file.size for file in ordered}, separators=(",", ":"))
    annotations = dict(sorted({**notes, FORMAT: FORMAT_VERSION, FILES: listed}.items()))
    configs = tuple(_config(platform, ordered) for platform in PLATFORMS)
    manifests = tuple(_manifest(config, ordered, annotations) for config in configs)
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": sha256(manifest),
            "size": len(manifest),
            "platform": {"architecture": platform, "os": "linux"},
        }
        for platform, manifest in zip(PLATFORMS, manifests, strict=True)
    ]
    index = _json(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": annotations}
    )
    return ModelImage(ordered, configs, manifests, index)


def is_model(document: Mapping[str, Any]) -> bool:
    """Whether a manifest, or an index of some, says that it is of a model image."""
    notes = document.get("annotations")
    return isinstance(notes, Mapping) and notes.get(FORMAT) == FORMAT_VERSION


def files_in(document: Mapping[str, Any], reference: ImageReference) -> tuple[LayerFile, ...]:
    """The files of a model image, by one of its manifests; nothing in it is believed before it is checked.

    :raises UserDataError: it is an image of something else.
    """
    if not is_model(document):
        raise UserDataError(f"{reference} is an image, but not of a model ({HINT}).")
    layers = document.get("layers")
    found = [_file(layer, reference) for layer in layers] if isinstance(layers, list) else []
    names = {file.name for file in found}
    if not 0 < len(names) == len(found) <= MAX_FILES:
        raise UserDataError(
            f"{reference} is not a model image: it has {len(found)} files, {len(names)} names."
        )
    return tuple(found)


def _file(layer: object, reference: ImageReference) -> LayerFile:
    try:
        notes = layer["annotations"]  # type: ignore[index]
        file = LayerFile(str(notes[FILE_PATH]), int(notes[FILE_SIZE]), str(layer["digest"]))  # type: ignore[index]
        same = file.size >= 0 and file.layer_size == layer["size"] and layer["mediaType"] == LAYER_TYPE  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        same = False
    if not same or not NAME.fullmatch(file.name) or not _is_digest(file.digest):
        raise UserDataError(f"{reference} has a layer that is not one file of a model ({HINT}).")
    return file


def _is_digest(text: str) -> bool:
    algorithm, _, digits = text.partition(":")
    return algorithm == "sha256" and len(digits) == 64 and not set(digits) - set("0123456789abcdef")


def _config(platform: str, files: Sequence[LayerFile]) -> bytes:
    diff_ids = [file.digest for file in files]
    return _json(
        {
            "architecture": platform,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


def _manifest(config: bytes, files: Sequence[LayerFile], annotations: Mapping[str, str]) -> bytes:
    layers = [
        {
            "mediaType": LAYER_TYPE,
            "digest": file.digest,
            "size": file.layer_size,
            "annotations": {FILE_PATH: file.name, FILE_SIZE: str(file.size)},
        }
        for file in files
    ]
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG_TYPE, "digest": sha256(config), "size": len(config)},
            "layers": layers,
            "annotations": annotations,
        }
    )


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
