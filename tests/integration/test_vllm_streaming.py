"""The real vLLM reads weights by Run:ai's streamer with the flags that a pod on GPUs gets, and says the same words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from demo.scenario import prepare_weights
from include.workloads.serving import streaming
from tests.support.vllm_pod import MODEL, PROJECT_ROOT, PYTHON, SMALL, ask, serving, user

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.weights,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PYTHON.exists(), reason="make vllm has not been run"),
]

QUESTION = {"messages": user("What is the capital of France?"), "max_tokens": 24}


def in_shards(base: Path, target: Path) -> Path:
    """The model's folder with its weights in two files and an index, as a large one comes."""
    for file in base.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    with safe_open(base / "model.safetensors", "pt") as weights:
        names = sorted(weights.keys())
        shards = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for shard, held in shards.items():
            tensors = {name: weights.get_tensor(name) for name in held}
            save_file(tensors, target / shard, {"format": "pt"})
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


def test_streamed_weights_answer_as_those_that_vllm_reads_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = in_shards(prepare_weights(PROJECT_ROOT / ".sandbox" / "weights"), tmp_path)
    monkeypatch.setattr(streaming, "find_spec", lambda name: name == "runai_model_streamer" or None)
    flags = streaming.streamed([], weights)
    assert flags
    found = []
    for place, more in enumerate(([], flags), start=1):
        folder = tmp_path / f"pod{place}"
        folder.mkdir()
        wanted = [f"--served-model-name={MODEL}", "--", *SMALL, *more]
        with serving(folder, f"127.79.0.{place}", wanted, {"WEIGHTS_PATH": str(weights)}) as pod:
            found.append(ask(pod.url, QUESTION).json()["choices"][0]["message"]["content"])
            assert ("load_format=runai_streamer" in pod.log.read_text()) is bool(more)
    assert found[0]
    assert found[0] == found[1]
