"""The adapter image in KAITO's layout, the same bytes for the same adapter on every machine and at every time.

One tar layer with `data/` and the two files in it; a config that only lists the layer's diff id, so that the image fits
every platform; annotations on the manifest only (kaito pkg/workspace/image/pusher.sh). The layer is not compressed:
trained weights lose 7 % by gzip, which took four fifths of the time of a push. It is not written down either: it is the
adapter's files with tar headers between them, and is read from there as often as it is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from include.workloads.oci.media import OCI_MANIFEST, sha256

CONFIG_FILE = "adapter_config.json"
MODEL_FILE = "adapter_model.safetensors"
FILES = (CONFIG_FILE, MODEL_FILE)
FOLDER = "data"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A tar archive made of bytes and of whole files, with its digest and size when it was measured."""

    parts: tuple[bytes | Path, ...]
    digest: str
    size: int

    def open_at(self, start: int) -> BinaryIO:
        """The archive from an offset on, as a file to read. OSError when a file of it is gone."""
        return io.BufferedReader(_Joined(self.parts, start), CHUNK)


@dataclass(frozen=True)
class AdapterImage:
    """An image ready to push; `weights_sha256` is the hex digest of its weights' file."""

    layer: Layer
    weights_sha256: str
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """The manifest's digest: the image's name."""
        return sha256(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self.layer.size + len(self.config) + len(self.manifest)


def build_image(folder: Path, annotations: Mapping[str, str]) -> AdapterImage:
    """The image of an adapter folder, which must stay as it is until the image is pushed."""
    layer, weights = _layer(folder)
    config = _json({"rootfs": {"diff_ids": [layer.digest]}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG_TYPE, "digest": sha256(config), "size": len(config)},
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size}],
        "annotations": dict(sorted(annotations.items())),
    }
    if not annotations:
        del manifest["annotations"]
    return AdapterImage(layer, weights, config, _json(manifest))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _layer(folder: Path) -> tuple[Layer, str]:
    """The layer, and the hex digest of the weights, taken at the same time: hashing needs no interpreter lock."""
    parts: list[bytes | Path] = [_header(FOLDER, 0o755, directory=True)]
    for name in sorted(FILES):
        length = _length(folder / name)
        parts += [
            _header(f"{FOLDER}/{name}", 0o644, length),
            folder / name,
            bytes(-length % tarfile.BLOCKSIZE),
        ]
    # Two empty blocks end an archive, and whole records make it.
    parts.append(bytes(2 * tarfile.BLOCKSIZE))
    parts.append(bytes(-sum(map(_length, parts)) % tarfile.RECORDSIZE))
    with ThreadPoolExecutor(1) as beside:
        weights = beside.submit(_sha256, (folder / MODEL_FILE,))
        whole = _sha256(parts)
    return Layer(tuple(parts), f"sha256:{whole}", sum(map(_length, parts))), weights.result()


def _sha256(parts: Iterable[bytes | Path]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        for content in (part,) if isinstance(part, bytes) else _chunks(part):
            hasher.update(content)
    return hasher.hexdigest()


def _length(part: bytes | Path) -> int:
    return len(part) if isinstance(part, bytes) else part.stat().st_size


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while content := file.read(CHUNK):
            yield content


def _header(name: str, mode: int, size: int = 0, directory: bool = False) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, size
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    if directory:
        entry.type = tarfile.DIRTYPE
    return entry.tobuf(tarfile.USTAR_FORMAT)


class _Joined(io.RawIOBase):
    """Bytes and files one after the other, as one file."""

    def __init__(self, parts: tuple[bytes | Path, ...], start: int) -> None:
        self._files = [io.BytesIO(part) if isinstance(part, bytes) else part.open("rb") for part in parts]
        self._left = list(self._files)
        for file in self._files:
            size = file.seek(0, io.SEEK_END)
            file.seek(min(start, size))
            start -= min(start, size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._left:
            if count := self._left[0].readinto(buffer):
                return count
            self._left.pop(0)
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
