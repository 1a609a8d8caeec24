"""The image's bytes, what may go into one, and what may come out of one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from include.contracts.adapter_keys import KNOWN
from include.workloads.adapter.check import check_adapter
from include.workloads.adapter.layout import Layer, build_image
from include.workloads.contract import UserDataError
from include.workloads.oci.unpack import unpack_layer
from include.workloads.safetensors_header import read_header
from tests.support.adapters import TENSOR, layer, write_adapter

FILES = ("adapter_config.json", "adapter_model.safetensors")


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_the_image_has_kaitos_layout(adapter: Path, tmp_path: Path):
    image = build_image(adapter, {"sh.kaito.model.name": "phi-3", "a": "b"})
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    layer = image.layer.open_at(0).read()
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["annotations"] == {"a": "b", "sh.kaito.model.name": "phi-3"}
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": sha256(image.config),
        "size": len(image.config),
    }
    assert manifest["layers"] == [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": sha256(layer),
            "size": len(layer),
        }
    ]
    assert config == {"rootfs": {"diff_ids": [sha256(layer)]}}
    assert image.weights_sha256 == hashlib.sha256((adapter / FILES[1]).read_bytes()).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getnames() == ["data", *(f"data/{name}" for name in FILES)]
        content = tar.extractfile(f"data/{FILES[1]}")
        assert content is not None
        assert content.read() == (adapter / FILES[1]).read_bytes()


def test_the_image_is_the_same_bytes_anywhere_anytime(tmp_path: Path):
    images = []
    for index, stamp in enumerate((1, 2_000_000_000)):
        folder = write_adapter(tmp_path / f"adapter-{index}")
        for name in FILES:
            os.utime(folder / name, (stamp, stamp))
            (folder / name).chmod(0o600 if index else 0o644)
        (folder / "README.md").write_text(str(index))
        images.append(build_image(folder, {"b": "2", "a": "1"} if index else {"a": "1", "b": "2"}))
    first, second = images
    assert first.layer.open_at(0).read() == second.layer.open_at(0).read()
    assert (first.manifest, first.config, first.digest) == (second.manifest, second.config, second.digest)


def written_by_tarfile(folder: Path) -> bytes:
    """The archive as the standard library writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("", *FILES):
            entry = tarfile.TarInfo(f"data/{name}".rstrip("/"))
            entry.type, entry.mode = (tarfile.REGTYPE, 0o644) if name else (tarfile.DIRTYPE, 0o755)
            content = (folder / name).read_bytes() if name else b""
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 7 << 10, 8 << 10, (1 << 20) + 5])
def test_the_layer_is_the_archive_that_tarfile_writes(size: int, tmp_path: Path):
    (tmp_path / FILES[0]).write_bytes(b"{}")
    (tmp_path / FILES[1]).write_bytes(os.urandom(size))
    layer, expected = build_image(tmp_path, {}).layer, written_by_tarfile(tmp_path)
    assert layer.open_at(0).read() == expected
    assert (layer.size, layer.digest) == (len(expected), sha256(expected))


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6))
def test_the_layer_can_be_read_from_anywhere(places: list[int]):
    parts = (b"a" * 700, b"", b"b" * 300, b"c" * 1500)
    whole = b"".join(parts)
    for place in places:
        with Layer(parts, "", len(whole)).open_at(place) as file:
            assert file.read(400) == whole[place : place + 400]


PEFTS_MAPPING = {
    "base_model_class": "Phi3ForCausalLM",
    "parent_library": "transformers.models.phi3.modeling_phi3",
}


def test_a_good_adapter_passes(adapter: Path):
    assert check_adapter(adapter, "x")["r"] == 4


def test_an_adapter_that_was_trained_without_a_task_type_passes(tmp_path: Path):
    """PEFT's save_pretrained then writes the class of the base model into it."""
    assert check_adapter(write_adapter(tmp_path / "a", auto_mapping=PEFTS_MAPPING), "x")["r"] == 4


def test_what_peft_writes_today_is_known():
    peft = pytest.importorskip("peft")
    assert set(peft.LoraConfig().to_dict()) <= KNOWN


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, adapter: Path):
    (adapter / name).unlink()
    with pytest.raises(UserDataError, match=f"the folder has no file {name}"):
        check_adapter(adapter, "the folder")


def test_a_pickle_instead_is_explained(adapter: Path):
    (adapter / FILES[1]).rename(adapter / "adapter_model.bin")
    with pytest.raises(UserDataError, match="save it as safetensors"):
        check_adapter(adapter, "the folder")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}, "sets auto_mapping"),
        (
            {"auto_mapping": {**PEFTS_MAPPING, "parent_library": "transformers.models.x.modeling_x.y"}},
            "auto_mapping",
        ),
        ({"auto_mapping": {**PEFTS_MAPPING, "base_model_class": "os.system"}}, "auto_mapping"),
        ({"auto_mapping": {**PEFTS_MAPPING, "custom": "x"}}, "auto_mapping"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"megatron_config": {"x": 1}}, "sets megatron_config"),
        ({"exec": "x"}, "unknown keys: exec"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"r": 0}, "rank"),
        ({"r": 10**6}, "rank"),
        ({"r": "8"}, "rank"),
    ],
)
def test_configurations_with_surprises_are_refused(config, words, tmp_path: Path):
    with pytest.raises(UserDataError, match=words):
        check_adapter(write_adapter(tmp_path / "a", **config), "x")


def test_a_config_that_is_no_object_is_refused(adapter: Path):
    for content in ("[]", "x", "[" * 100_000):
        (adapter / FILES[0]).write_text(content)
        with pytest.raises(UserDataError, match="not a JSON object"):
            check_adapter(adapter, "x")


def test_tensors_that_are_no_lora_are_refused(adapter: Path):
    save_file({TENSOR: np.zeros(1), "lm_head.weight": np.zeros(1)}, adapter / FILES[1])
    with pytest.raises(UserDataError, match=r"lm_head\.weight"):
        check_adapter(adapter, "x")


def header(document: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = json.dumps(document).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(begin: int, end: int, shape: list[object], dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors"),
        (b"\x80\x02}q\x00.", "not a safetensors"),
        (header({}, length=10**15), "not a safetensors"),
        (header([]), "header cannot be read"),
        (header({"a": {"dtype": "U8"}}), "header cannot be read"),
        (header({"a": entry(0, 1, [-1])}, b"x"), "header cannot be read"),
        (header({"a": entry(0, 1, [True])}, b"x"), "header cannot be read"),
        (header({}), "no tensors"),
        (header({"a": entry(0, 2, [2])}, b"x"), "cut short"),
        (header({"a": entry(0, 2, [2])}, b"xxx"), "foreign bytes"),
        (header({"a": entry(0, 2, [3])}, b"xx"), "offsets of tensor a"),
        (header({"a": entry(0, 2, [2]), "b": entry(1, 3, [2])}, b"xxx"), "offsets of tensor b"),
        (header({"a": entry(1, 3, [2])}, b"xxx"), "offsets of tensor a"),
        (header({"a": entry(0, 2, [2], "OBJECT")}, b"xx"), "unknown type"),
    ],
)
def test_forged_safetensors_are_refused(content, words, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserDataError, match=words):
        read_header(tmp_path / "x.safetensors")


def test_real_safetensors_are_read(adapter: Path):
    [tensor] = read_header(adapter / FILES[1])
    assert (tensor.name, tensor.dtype, tensor.shape) == (TENSOR, "F32", (4, 64))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").write_text("precious")
    return tmp_path / "target"


def unpack(path: Path, target: Path, limit: int = 1 << 20) -> dict[str, bytes]:
    unpack_layer(path, None, target, lambda inside: True, limit)
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "./", "/"])
def test_files_under_data_come_out_whatever_the_spelling(prefix, zipped, tmp_path: Path, target: Path):
    path = layer(
        tmp_path / "l", (f"{prefix}data", "dir"), (f"{prefix}data/a", b"1"), (f"{prefix}etc/passwd", b"2"),
        (f"{prefix}data/sub/b", b"3"), zipped=zipped,
    )  # fmt: skip
    assert unpack(path, target) == {"a": b"1", "sub/b": b"3"}


def test_later_layers_lie_over_earlier_ones_with_white_outs(tmp_path: Path, target: Path):
    unpack(layer(tmp_path / "1", ("data/a", b"1"), ("data/b", b"1"), ("data/d/x", b"1")), target)
    unpack(layer(tmp_path / "2", ("data/a", b"2"), ("data/.wh.b", b""), ("data/d/.wh..wh..opq", b"")), target)
    assert unpack(layer(tmp_path / "3", ("data/d/y", b"3")), target) == {"a": b"2", "d/y": b"3"}
    assert unpack(layer(tmp_path / "4", (".wh.data", b"")), target) == {}


@pytest.mark.parametrize(
    "members",
    [
        [("data/../../victim/file", b"x")],
        [("../victim/file", b"x")],
        [("data/a", "link:/etc/passwd")],
        [("data/a", "link:../victim"), ("data/a/file", b"x")],
        [("data/a", "hard:../victim/file")],
        [("data/a", "fifo")],
        [("data", "link:victim"), ("data/file", b"x")],
        [("data/.wh...", b"")],
        [("data/.wh..", b"")],
        [("data/.wh.", b"")],
    ],
)
def test_archives_that_try_to_leave_are_refused(members, tmp_path: Path, target: Path):
    with pytest.raises(UserDataError):
        unpack(layer(tmp_path / "l", *members), target)
    assert (tmp_path / "victim/file").read_text() == "precious"
    assert target.is_dir()
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_unwanted_files_and_their_kinds_do_not_matter(tmp_path: Path, target: Path):
    path = layer(tmp_path / "l", ("data/other", "link:/etc"), ("data/a", b"1"), ("bin/sh", "link:/x"))
    unpack_layer(path, None, target, lambda inside: str(inside) == "a", 1 << 20)
    assert [p.name for p in target.iterdir()] == ["a"]


def test_a_bomb_is_stopped_while_it_unpacks(tmp_path: Path, target: Path):
    path = layer(tmp_path / "l", ("data/a", b"\0" * (50 << 20)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserDataError, match="more than 4 MiB"):
        unpack(path, target, 4 << 20)


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_a_layer_cut_short_is_refused(keep, tmp_path: Path, target: Path):
    path = layer(tmp_path / "l", ("data/a", os.urandom(10_000)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(UserDataError):
        unpack(path, target)


def test_content_other_than_the_config_says_is_refused(tmp_path: Path, target: Path):
    path = layer(tmp_path / "l", ("data/a", b"1"))
    right = sha256(gzip.decompress(path.read_bytes()))
    unpack_layer(path, right, target, lambda inside: True, 1 << 20)
    with pytest.raises(UserDataError, match="digest"):
        unpack_layer(path, sha256(b""), target, lambda inside: True, 1 << 20)
