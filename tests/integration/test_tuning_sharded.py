"""A model that is sharded over two processes, as over two GPUs, but over gloo on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from include.contracts.exit_codes import ExitCode
from include.contracts.sharding import VARIABLE
from tests.support.tuning_runs import (
    ALONE,
    TOGETHER,
    losses,
    make_inputs,
    sixteen_updates,
    start,
    stop_after,
)

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(300)]

METHODS: dict[str, dict[str, Any]] = {"qlora": {"QuantizationConfig": {"load_in_4bit": True}}, "lora": {}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("sharded") / "inputs")


def run(inputs: Path, output: Path, config: str, method: str, *command: str) -> tuple[int, str]:
    """Exit code and log of a training that the plan shards."""
    made = start(inputs, output, config, *command, TUNING_METHOD=method, **{VARIABLE: "true"})
    log, _ = made.communicate(timeout=200)
    return made.returncode, log


def weights(output: Path) -> dict[str, list[int]]:
    """Names and shapes of an adapter."""
    with safe_open(output / "adapter" / "adapter_model.safetensors", framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def device(output: Path) -> dict[str, Any]:
    """What the record says of the machine."""
    made: dict[str, Any] = json.loads((output / "record" / "reproduce.json").read_text())["device"]
    return made


@pytest.fixture(scope="module", params=["qlora", pytest.param("lora", marks=pytest.mark.slow)])
def alone(request: pytest.FixtureRequest, inputs: Path) -> tuple[str, Path]:
    """A method, and what one process has learnt with it."""
    output = inputs.parent / f"alone-{request.param}"
    code, log = run(inputs, output, sixteen_updates(4, **METHODS[request.param]), request.param, *ALONE)
    assert code == 0, log
    assert losses(output)[-1] < losses(output)[0] - 0.2  # there was something to learn
    return request.param, output


def test_sharded_it_learns_what_one_process_does(
    inputs: Path, tmp_path: Path, alone: tuple[str, Path]
) -> None:
    (method, whole), sharded = alone, tmp_path / "sharded"
    code, log = run(inputs, sharded, sixteen_updates(2, **METHODS[method]), method, *TOGETHER)
    assert code == 0, log
    assert losses(sharded) == pytest.approx(losses(whole), abs=2e-3)
    assert weights(sharded) == weights(whole)
    assert [device(output).get("sharded", False) for output in (whole, sharded)] == [False, True]


@pytest.mark.parametrize("first", ["two", "one"])
def test_another_number_of_processes_goes_on(
    inputs: Path, tmp_path: Path, alone: tuple[str, Path], first: str
) -> None:
    (method, whole), output = alone, tmp_path / "stopped"
    begun, then = (TOGETHER, ALONE) if first == "two" else (ALONE, TOGETHER)
    config = sixteen_updates(2 if first == "two" else 4, **METHODS[method])
    made = start(inputs, output, config, *begun, TUNING_METHOD=method, **{VARIABLE: "true"})
    log = stop_after(made, output, 4)
    assert made.returncode == ExitCode.TRY_AGAIN, log
    code, log = run(inputs, output, config, method, *then)
    assert code == 0, log
    result = json.loads(output.with_suffix(".json").read_text())
    assert 4 <= result["resumed_from_step"] < 16
    assert losses(output) == pytest.approx(losses(whole), abs=2e-3)
    assert weights(output) == weights(whole)
