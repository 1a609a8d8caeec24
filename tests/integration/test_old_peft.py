"""An adapter of ours loads in the PEFT that KAITO v0.12 pins, in an environment of its own (900 MB, kept)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peft-0.11.1" / "bin" / "python"
PACKAGES = ("peft==0.11.1", "transformers==4.41.2", "accelerate<1", "numpy<2.3")
LOAD = """
import sys, torch, peft
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                     num_attention_heads=2))
tuned = peft.PeftModel.from_pretrained(model, sys.argv[1])
saved = load_file(sys.argv[1] + "/adapter_model.safetensors")
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


@pytest.mark.parametrize("asked", [{}, {"use_rslora": True, "rank_pattern": {"v_proj": 2}}])
def test_an_adapter_loads_in_the_peft_of_kaito(
    asked: dict[str, object], old_python: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from include.workloads.tuning.fit import save_adapter

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))
    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **asked)
    )
    trainer = SimpleNamespace(model=tuned, accelerator=SimpleNamespace(unwrap_model=lambda one: one))
    job = SimpleNamespace(output=tmp_path, model_id="stand-in/llama", revision="abc")
    saved = save_adapter(job, trainer)  # type: ignore[arg-type]
    done = subprocess.run(
        [old_python, "-c", LOAD, saved["path"]],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.11.1", "8", str(bool(asked))]
