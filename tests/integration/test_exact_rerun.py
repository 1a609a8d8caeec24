"""An exact rerun for real: trained from its beginning, to the same bytes; refused where it could not be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from include.contracts.exit_codes import ExitCode
from tests.support.tuning_runs import ROOT, environment, make_inputs

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(300)]


def config(init: str, **sections: object) -> str:
    """It begins with PiSSA or LoftQ, whose decomposition has to come out the same too."""
    training = {
        "LoraConfig": {"r": 4, "init_lora_weights": init},
        "TrainingArguments": {"max_steps": 4, "max_length": 64},
    }
    return json.dumps({"training_config": {**training, **sections}})


CONFIGS = {
    "lora": config("pissa_niter_4"),
    "qlora": config("loftq", QuantizationConfig={"load_in_4bit": True}),
}


def tune(inputs: Path, output: Path, method: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "include.workloads.tuning"],
        cwd=ROOT,
        env=environment(inputs, output, CONFIGS[method])
        | {"DTYPE": "float32", "TUNING_METHOD": method}
        | more,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("method", CONFIGS)
def test_an_exact_rerun_gives_the_same_bytes_and_is_refused_with_other_threads(
    method: str, tmp_path: Path
) -> None:
    inputs, output = make_inputs(tmp_path / "inputs"), tmp_path / "out"
    first = tune(inputs, output, method)
    assert first.returncode == 0, first.stderr
    weights = output / "adapter" / "adapter_model.safetensors"
    assert json.loads((output / "adapter" / "adapter_config.json").read_text())["r"] == 8
    known, at = weights.read_bytes(), weights.stat().st_mtime_ns
    record = (output / "record" / "reproduce.json").read_text()
    refused = tune(inputs, output, method, EXACT_RERUN="exact", OMP_NUM_THREADS="2")
    assert refused.returncode == ExitCode.CONFIG
    assert "device.threads is 2 and was 1" in output.with_suffix(".json").read_text()
    assert weights.stat().st_mtime_ns == at
    again = tune(inputs, output, method, EXACT_RERUN="exact")
    assert again.returncode == 0, again.stdout + again.stderr
    result = json.loads(output.with_suffix(".json").read_text())
    assert result["resumed_from_step"] == 0
    assert result["steps"] == 4
    assert weights.stat().st_mtime_ns != at, "it was trained, not left"
    assert weights.read_bytes() == known
    assert (output / "record" / "reproduce.json").read_text() == record
