"""Weights are streamed where vLLM's image can and the folder holds each once; the user's word on it wins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from include.workloads.serving import streaming
from include.workloads.serving.vllm import Pod, command

STREAMED = ["--load-format=runai_streamer", '--model-loader-extra-config={"memory_limit":4294967296}']


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        streaming, "find_spec", lambda name: object() if name == "runai_model_streamer" else None
    )


def folder(
    path: Path,
    files: Sequence[str] = ("model.safetensors",),
    index: Sequence[str] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({"weight": numpy.zeros((4, 8), numpy.float32)}, path / name)
    (path / "config.json").write_text(json.dumps(config or {}))
    if index is not None:
        weight_map = {f"weight{place}": name for place, name in enumerate(index)}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def line(weights: Path, *flags: str, cpu: bool = False) -> list[str]:
    return command(
        flags, Pod(weights, weights / "adapters", weights, "0.0.0.0", 5000, "", "", 0, 25), cpu=cpu
    )


def test_the_command_line_streams_and_bounds_the_buffer(tmp_path: Path) -> None:
    found = line(folder(tmp_path), "--dtype=bfloat16", "--", "--seed=1")
    assert found[-4:] == ["--dtype=bfloat16", *STREAMED, "--seed=1"]


def test_shards_that_the_index_names_are_streamed(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert line(folder(tmp_path, names, names))[-2:] == STREAMED


def test_a_tensor_larger_than_the_buffer_still_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 16)
    assert line(folder(tmp_path))[-1] == '--model-loader-extra-config={"memory_limit":128}'


@pytest.mark.parametrize(
    "flags",
    [
        ["--", "--load-format=auto"],
        ["--", "--load-format=safetensors"],
        ["--", '--model-loader-extra-config={"concurrency":4}'],
        ["--", "--quantization=bitsandbytes"],
    ],
)
def test_who_says_how_to_read_is_heard(tmp_path: Path, flags: list[str]) -> None:
    assert "runai" not in " ".join(line(folder(tmp_path), *flags))


def test_mistral_s_own_files_are_read_in_mistral_s_format(tmp_path: Path) -> None:
    found = line(folder(tmp_path, ["consolidated.safetensors"]), "--load-format=mistral")
    assert [flag for flag in found if flag.startswith("--load")] == ["--load-format=mistral"]


def test_vllm_reads_as_ever_on_processors_and_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder(tmp_path)
    assert "runai" not in " ".join(line(weights, cpu=True))
    monkeypatch.setattr(streaming, "find_spec", lambda name: None)
    assert "runai" not in " ".join(line(weights))


@pytest.mark.parametrize(
    "held",
    [
        {"files": ["model.safetensors", "consolidated.safetensors"]},
        {"files": ["model.safetensors", "original/model.safetensors"]},
        {
            "files": ["model-00001-of-00002.safetensors"],
            "index": ["model-00001-of-00002.safetensors", "other"],
        },
        {"files": ["part.safetensors"]},
        {"files": []},
        {"config": {"quantization_config": {"quant_method": "bitsandbytes"}}},
    ],
)
def test_folders_that_the_streamer_would_misread_are_not_for_it(tmp_path: Path, held: dict[str, Any]) -> None:
    assert "runai" not in " ".join(line(folder(tmp_path, **held)))


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_broken_file_is_left_to_vllm_to_judge(tmp_path: Path, broken: str) -> None:
    weights = folder(tmp_path)
    (weights / broken).write_bytes(b"\xff[")
    assert "runai" not in " ".join(line(weights))
