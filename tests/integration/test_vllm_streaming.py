"""The real vLLM reads weights by Run:ai's streamer with the flags that a pod on GPUs gets, and says the same words."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.scenario import prepare_weights
from include.workloads.serving import streaming
from tests.support.vllm_pod import MARKS, MODEL, PROJECT_ROOT, SMALL, ask, serving, user

pytestmark = [*MARKS, pytest.mark.timeout(1200)]

QUESTION = {"messages": user("What is the capital of France?"), "max_tokens": 24}


def in_shards(base: Path, target: Path) -> Path:
    """The model's folder with its weights in several files and an index, as a large one comes."""
    AutoTokenizer.from_pretrained(base).save_pretrained(target)
    AutoModelForCausalLM.from_pretrained(base, dtype="auto").save_pretrained(target, max_shard_size="150MB")
    assert (target / "model.safetensors.index.json").exists()
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
