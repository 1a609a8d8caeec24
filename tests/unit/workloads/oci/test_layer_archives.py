"""Layers that are bigger than they look: each is refused before memory or disk is taken."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from include.workloads.contract import UserDataError
from include.workloads.oci import unpack
from include.workloads.oci.unpack import unpack_layer

MIB = 1 << 20


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def refused(tmp_path: Path, target: Path, content: bytes, words: str, limit: int = MIB) -> None:
    path = tmp_path / "layer"
    path.write_bytes(gzip.compress(content))
    tracemalloc.start()
    try:
        with pytest.raises(UserDataError, match=words):
            unpack_layer(path, None, target, lambda inside: True, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * MIB
    assert sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) <= limit


def header(name: str, kind: bytes, size: int, real: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if real:
        raw[483:495] = b"%011o\0" % real
        raw[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(raw))[0]  # type: ignore[attr-defined]
    return bytes(raw)


END = b"\0" * 1024


@pytest.mark.parametrize("name", ["data/big", "elsewhere/big"])
def test_a_gnu_sparse_file_is_refused(name: str, tmp_path: Path, target: Path):
    refused(tmp_path, target, header(name, tarfile.GNUTYPE_SPARSE, 0, 300 * MIB) + END, "sparse")


@pytest.mark.parametrize(
    "marks",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(300 * MIB)},
        {"GNU.sparse.map": f"0,0,{300 * MIB},0", "GNU.sparse.size": str(300 * MIB)},
        {"GNU.sparse.offset": "0", "GNU.sparse.numbytes": "0", "GNU.sparse.size": str(300 * MIB)},
    ],
)
def test_a_pax_sparse_file_is_refused(marks: dict[str, str], tmp_path: Path, target: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("data/big")
        info.pax_headers = {**marks, "GNU.sparse.name": "data/big"}
        info.size = 512
        tar.addfile(info, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    refused(tmp_path, target, buffer.getvalue(), "sparse")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory_is_refused(kind: bytes, tmp_path: Path, target: Path):
    refused(tmp_path, target, header("x", kind, 60 * MIB) + b"a" * (60 * MIB), "header of", limit=100 * MIB)


@pytest.mark.parametrize(
    "name",
    ["data/" + "a/" * 1000 + "f", "data/" + "/".join(["b" * 200] * 10), "data/" + "c" * 300],
)
def test_paths_that_are_too_deep_or_too_long_are_refused(name: str, tmp_path: Path, target: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    refused(tmp_path, target, buffer.getvalue(), "too long or too deep")
    assert not any(target.iterdir())


def test_more_members_than_an_image_has_are_refused(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 10)
    content = b"".join(header(f"data/{number}", tarfile.REGTYPE, 0) for number in range(20)) + END
    refused(tmp_path, target, content, "more than 10 members")


def test_headers_of_many_members_are_not_kept(tmp_path: Path, target: Path):
    content = b"".join(header("elsewhere/x", tarfile.REGTYPE, 0) for _ in range(4000)) + END
    path = tmp_path / "layer"
    path.write_bytes(gzip.compress(content))
    tracemalloc.start()
    unpack_layer(path, None, target, lambda inside: True, 100 * MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MIB
