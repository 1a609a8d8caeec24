"""The adapter image in KAITO's layout, the same bytes for the same adapter on every machine and at every time.

One gzipped tar layer with `data/` and the two files in it; a config that only lists the layer's diff id, so that
the image fits every platform; annotations on the manifest only (kaito pkg/workspace/image/pusher.sh).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from include.workloads.oci.media import OCI_MANIFEST, sha256

CONFIG_FILE = "adapter_config.json"
MODEL_FILE = "adapter_model.safetensors"
FILES = (CONFIG_FILE, MODEL_FILE)
FOLDER = "data"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# Trained weights hardly compress: 9 takes several times longer than 6 for under 0.1 % less.
GZIP_LEVEL = 6


@dataclass(frozen=True)
class AdapterImage:
    """An image ready to push; the layer is a file because it may be big."""

    layer_path: Path
    layer_digest: str
    layer_size: int
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """The manifest's digest: the image's name."""
        return sha256(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self.layer_size + len(self.config) + len(self.manifest)


class _Hashing(io.RawIOBase):
    """A write-through file that hashes and counts what passes."""

    def __init__(self, below: IO[bytes] | gzip.GzipFile) -> None:
        self.below, self.hasher, self.count = below, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self.hasher.update(content)
        self.count += len(content)
        self.below.write(content)
        return len(content)

    @property
    def digest(self) -> str:
        return f"sha256:{self.hasher.hexdigest()}"


def build_image(folder: Path, annotations: Mapping[str, str], work: Path) -> AdapterImage:
    """The image of an adapter folder; the layer is written into `work`."""
    layer_path = work / "layer.tar.gz"
    diff_id, digest, size = _write_layer(folder, layer_path)
    config = _json({"rootfs": {"diff_ids": [diff_id]}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG_TYPE, "digest": sha256(config), "size": len(config)},
        "layers": [{"mediaType": LAYER_TYPE, "digest": digest, "size": size}],
        "annotations": dict(sorted(annotations.items())),
    }
    if not annotations:
        del manifest["annotations"]
    return AdapterImage(layer_path, digest, size, config, _json(manifest))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _write_layer(folder: Path, path: Path) -> tuple[str, str, int]:
    with path.open("wb") as file:
        packed = _Hashing(file)
        with gzip.GzipFile(
            filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=packed, mtime=0
        ) as zipped:
            plain = _Hashing(zipped)
            with tarfile.open(fileobj=plain, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
                _add_folder(tar)
                for name in sorted(FILES):
                    _add_file(tar, folder / name)
    return plain.digest, packed.digest, packed.count


def _entry(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _add_folder(tar: tarfile.TarFile) -> None:
    entry = _entry(FOLDER, 0o755)
    entry.type = tarfile.DIRTYPE
    tar.addfile(entry)


def _add_file(tar: tarfile.TarFile, path: Path) -> None:
    entry = _entry(f"{FOLDER}/{path.name}", 0o644)
    entry.size = path.stat().st_size
    with path.open("rb") as content:
        tar.addfile(entry, content)
