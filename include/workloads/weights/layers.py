"""One file of a model as one layer of an image: an uncompressed tar archive that never lies on a disk.

Node software mounts layers that are tar archives, and nothing else. Weights hardly compress, so the archive is plain: a
header that follows from the file's name and size, the file's own bytes, and zeros. The same file is therefore the same
layer on every machine, its digest is that of the uncompressed layer too, and whoever downloads it writes the file's
bytes where they belong as they arrive.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
#: Every reader of tar archives takes two blocks of zeros for the end.
END_BYTES = 2 * BLOCK
#: Sizes beyond this stand in an extended header, names too if they are long or not ASCII.
READ_BYTES = 4 << 20
#: A file of a model lies beside the others: no folders, nothing hidden, nothing that an image takes for a white-out.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]{0,200}")


def header_of(name: str, size: int) -> bytes:
    """The archive up to the file's first byte.

    :param name: of the file, without folders.
    :param size: of the file in bytes.
    """
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def trailer_size(size: int) -> int:
    """Bytes of zeros behind a file of this size."""
    return -size % BLOCK + END_BYTES


@dataclass(frozen=True)
class LayerFile:
    """A file of a model in a manifest: its name, its own size, and the digest of the layer that holds it."""

    name: str
    size: int
    digest: str

    @property
    def layer_size(self) -> int:
        """Bytes of the whole archive."""
        return len(header_of(self.name, self.size)) + self.size + trailer_size(self.size)


def layer_of(path: Path) -> LayerFile:
    """Read a file and give the layer that it makes."""
    size = path.stat().st_size
    hasher = hashlib.sha256(header_of(path.name, size))
    seen = 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = bytearray(READ_BYTES)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            hasher.update(view[:count])
            seen += count
    if seen != size:
        raise OSError(f"{path.name} changed while it was read")
    hasher.update(bytes(trailer_size(size)))
    return LayerFile(path.name, size, f"sha256:{hasher.hexdigest()}")


class LayerContent(io.RawIOBase):
    """A layer's bytes from an offset on, made of the file as they are read."""

    def __init__(self, path: Path, layer: LayerFile, start: int = 0) -> None:
        self._header = header_of(layer.name, layer.size)
        self._size, self._end = layer.size, layer.layer_size
        self._file: BinaryIO = path.open("rb", buffering=0)
        self._position = start
        self._file.seek(min(max(start - len(self._header), 0), layer.size))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._position)
        wanted = left if size < 0 else min(size, left)
        inside = self._position - len(self._header)
        if not wanted:
            return b""
        if inside < 0:
            content = self._header[self._position : self._position + wanted]
        elif inside < self._size:
            content = self._file.read(min(wanted, self._size - inside))
            if not content:
                raise OSError("the file became shorter while it was sent")
        else:
            content = bytes(wanted)
        self._position += len(content)
        return content

    def close(self) -> None:
        self._file.close()
        super().close()
