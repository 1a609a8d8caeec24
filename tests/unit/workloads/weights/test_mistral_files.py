"""Mistral's own files: which are taken for a server that reads them, and what must be among them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.serving.vllm import Pod, command
from include.workloads.weights.fetch import fetch_weights
from include.workloads.weights.folder import PARTS


def shard(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("consolidated.safetensors", "model-00001-of-00001.safetensors"):
        shard(folder / name)
    for name in ("params.json", "config.json", "tekken.json"):
        (folder / name).write_text("{}")
    return folder


def fetched(repository: Path, target: Path, parts: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setenv("WEIGHTS_SOURCE", f"file://{repository}")
    monkeypatch.setenv("WEIGHTS_PATH", str(target))
    monkeypatch.setenv("WEIGHTS_PARTS", parts)
    fetch_weights()
    return {path.name for path in target.iterdir() if not path.name.startswith(".")}


def test_each_format_gets_its_own_files(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fetched(repository, tmp_path / "a", "mistral", monkeypatch)
    assert own == {"consolidated.safetensors", "params.json", "config.json", "tekken.json"}
    usual = fetched(repository, tmp_path / "b", "", monkeypatch)
    assert usual == {"model-00001-of-00001.safetensors", "config.json", "tekken.json"}


def test_without_params_it_is_no_mistral_model(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "params.json").unlink()
    with pytest.raises(UserDataError, match=r"no params\.json; it is not a Mistral model"):
        fetched(repository, tmp_path / "a", "mistral", monkeypatch)


def test_another_word_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserConfigError, match="must be one of tokenizer, mistral, pooling"):
        fetched(repository, tmp_path / "a", "gguf", monkeypatch)


@pytest.mark.parametrize(
    ("file", "kept"), [("consolidated.safetensors", True), ("model.safetensors", False), (None, True)]
)
def test_the_server_reads_what_the_folder_holds(tmp_path: Path, file: str | None, kept: bool) -> None:
    if file:
        (tmp_path / file).touch()
    pod = Pod(tmp_path, tmp_path / "adapters", tmp_path, "0.0.0.0", 5000, "", "", 0, 25)
    line = command(
        ["--load-format=mistral", "--config-format=mistral", "--tokenizer-mode=mistral"], pod, cpu=False
    )
    assert ("--load-format=mistral" in line) == ("--tokenizer-mode=mistral" in line) == kept


def test_copies_in_folders_are_never_taken() -> None:
    assert not PARTS["mistral"].belongs("original/consolidated.00.safetensors")
    assert not PARTS[""].belongs("original/model.safetensors")
