"""An adapter that a training of ours wrote loads in the PEFT that KAITO v0.12 pins, in an environment of its own.

The environment takes 900 MB and is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tuning_runs import ALONE, ROOT, make_inputs, start

PYTHON = ROOT / ".venv-peft-0.11.1" / "bin" / "python"
PACKAGES = ("peft==0.11.1", "transformers==4.41.2", "accelerate<1", "numpy<2.3")
LOAD = """
import sys, torch, peft
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
weights, adapter = sys.argv[1:]
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(weights))
tuned = peft.PeftModel.from_pretrained(model, adapter)
saved = load_file(adapter + "/adapter_model.safetensors")
loaded = peft.get_peft_model_state_dict(tuned)
assert sorted(saved) == sorted(loaded) and all(torch.equal(saved[name], loaded[name]) for name in saved)
print(peft.__version__, len(saved), tuned.peft_config["default"].use_rslora)
"""

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def old_python() -> Path:
    uv = Path(sys.executable).with_name("uv")
    if not PYTHON.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, PYTHON.parents[1]], check=True)
    import torch

    version = torch.__version__.partition("+")[0]
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", PYTHON, f"torch=={version}", *PACKAGES], check=True
    )
    return PYTHON


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"o_proj": 2}},
        {"init_lora_weights": "pissa_niter_4"},
        {"use_dora": True},
    ],
    ids=["plain", "rsLoRA", "PiSSA", "DoRA"],
)
def test_an_adapter_loads_in_the_peft_of_kaito(
    asked: dict[str, Any], old_python: Path, inputs: Path, tmp_path: Path
) -> None:
    config = {
        "LoraConfig": {"r": 4, "target_modules": ["qkv_proj", "o_proj"], **asked},
        "TrainingArguments": {"max_steps": 2, "max_length": 64},
    }
    training = start(inputs, tmp_path / "out", json.dumps({"training_config": config}), *ALONE)
    log, _ = training.communicate(timeout=300)
    assert training.returncode == 0, log
    done = subprocess.run(
        [old_python, "-c", LOAD, inputs / "weights", tmp_path / "out" / "adapter"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, tensors, scaled = done.stdout.split()
    assert (version, scaled) == ("0.11.1", str("use_rslora" in asked))
    assert int(tensors) >= 4
