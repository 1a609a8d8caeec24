"""vLLM as the engine of an evaluation gives the same losses and answers as the project's own runtime, and its times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.vllm_pod import PROJECT_ROOT, PYTHON, weights

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.weights,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON.exists(), reason="make vllm has not been run"),
]

ADAPTER = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
torch.manual_seed(3)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
get_peft_model(model, config).save_pretrained(sys.argv[2])
"""
#: Asks one engine everything, as the measurement does, and writes down what it says.
PROGRAM = """
import json, sys
from pathlib import Path
from include.contracts.evaluation import Subject
from include.workloads.evaluation.engine import Question, TransformersEngine, read_adapters
from include.workloads.hardware import Precision, detect

if __name__ == "__main__":
    kind, weights, adapter, target = sys.argv[1:]
    adapters = read_adapters({Subject.CANDIDATE: Path(adapter)})
    precision = Precision("float32", "")
    if kind == "vllm":
        from include.workloads.evaluation.vllm_engine import VllmEngine
        engine = VllmEngine(Path(weights), adapters, detect(), precision, 512)
    else:
        engine = TransformersEngine(Path(weights), adapters, detect(), precision)
    texts = ["The capital of France is Paris.", "Water boils at one hundred degrees."]
    ids = [engine.tokenizer(text)["input_ids"] for text in texts]
    rows = [{"input_ids": one, "labels": [-100, -100, *one[2:]]} for one in ids]
    questions = [Question(tuple(one[:4]), 8) for one in ids]
    found = {}
    for subject in (Subject.BASE, Subject.CANDIDATE):
        answers = engine.answers(subject, questions, lambda count: None)
        alone = engine.answer(subject, questions[0])
        found[subject] = {
            "losses": engine.losses(subject, rows, lambda count: None),
            "texts": [answer.text for answer in answers],
            "alone": alone.text,
            "times": [alone.first_token_seconds, alone.seconds],
        }
    Path(target).write_text(json.dumps(found))
"""


def test_vllm_and_our_own_runtime_agree(tmp_path: Path) -> None:
    model = weights(PROJECT_ROOT / ".sandbox" / "weights")
    made = [sys.executable, "-c", ADAPTER, str(model), str(tmp_path / "adapter")]
    subprocess.run(made, check=True, capture_output=True, timeout=300)
    (tmp_path / "program.py").write_text(PROGRAM)
    ours, theirs = (
        ask(kind, python, model, tmp_path) for kind, python in (("ours", sys.executable), ("vllm", PYTHON))
    )
    for subject in ("base", "candidate"):
        for one, other in zip(ours[subject]["losses"], theirs[subject]["losses"], strict=True):
            assert other[1] == one[1]
            assert other[0] == pytest.approx(one[0], rel=1e-3)
        assert theirs[subject]["texts"] == ours[subject]["texts"]
        assert theirs[subject]["alone"] == theirs[subject]["texts"][0]
        first, whole = theirs[subject]["times"]
        assert 0 < first < whole
    assert ours["base"]["losses"] != ours["candidate"]["losses"], "the adapter counts"


def ask(kind: str, python: str | Path, model: Path, folder: Path) -> dict[str, Any]:
    target = folder / f"{kind}.json"
    environment = {
        **os.environ,
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT_ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder),
    }
    done = subprocess.run(
        [str(python), str(folder / "program.py"), kind, str(model), str(folder / "adapter"), str(target)],
        cwd=PROJECT_ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return dict(json.loads(target.read_text()))
