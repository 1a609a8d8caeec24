"""Tunes the stand-in model for real: QLoRA, killed half-way, resumed, served beside the base model.

It starts the two programs as pods do (env, mounts as folders, exit code, termination message) and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.workloads.tuning.standin import make_standin

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ANSWER = "eight"
#: The log has at most one line a second, and two attempts are ended by what it says: so many that a fast processor is
#: not done by then.
STEPS = 200
CONFIG = f"""
training_config:
  QuantizationConfig: {{load_in_4bit: true}}
  LoraConfig: {{r: 8, lora_alpha: 32}}
  TrainingArguments: {{max_steps: {STEPS}, learning_rate: 5.0e-3, max_length: 128, save_strategy: steps, save_steps: 5}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pod's volumes: weights, data, config, results."""
    root = tmp_path_factory.mktemp("tuning")
    make_standin(root / "weights")
    (root / "data").mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"How many GPUs has machine {number}?"},
                {"role": "assistant", "content": ANSWER},
            ]
        }
        for number in range(24)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / "train.parquet")
    (root / "training_config.yaml").write_text(CONFIG)
    return root


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(module: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "OMP_NUM_THREADS": "1",  # other tests run beside this one
        "WEIGHTS_PATH": str(folder / "weights"),
        "DTYPE": "bfloat16",
        "TERMINATION_LOG": str(folder / f"{module}.json"),
        **env,
    }
    return subprocess.Popen(
        [sys.executable, "-m", f"include.workloads.{module}"],
        cwd=ROOT,
        env=settings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def tune(folder: Path, **env: str) -> subprocess.Popen[str]:
    settings = {
        "DATASET_FOLDER_PATH": str(folder / "data"),
        "YAML_FILE_PATH": str(folder / "training_config.yaml"),
        "OUTPUT_DIR": str(folder / "results"),
        "TUNING_METHOD": "qlora",
        "MODEL_ID": "stand-in/phi-3",
        "MODEL_REVISION": "abc",
        "METRICS_PORT": str(free_port()),
    }
    return start("tuning", folder, **{**settings, **env})


def termination(folder: Path, module: str = "tuning") -> dict[str, Any]:
    return dict(json.loads((folder / f"{module}.json").read_text()))


def wait_for_step(process: subprocess.Popen[str], step: int) -> list[str]:
    """The log until a line shows at least this step."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            return lines
    raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def tuned(folder: Path) -> dict[str, Any]:
    """One tuning: stopped by SIGTERM, then killed outright, then finished; the log and result of each attempt."""
    stopped = tune(folder)
    wait_for_step(stopped, 10)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=120)
    first = {"code": stopped.returncode, "result": termination(folder)}

    killed = tune(folder)
    second_log = wait_for_step(killed, int(first["result"]["error"].split()[3]) + 1)
    while not list((folder / "results" / "checkpoints").glob("checkpoint-*[05]/complete.json")):
        time.sleep(0.1)
    killed.kill()
    killed.communicate(timeout=60)
    # What a power cut leaves: a newer checkpoint with half of its files.
    newest = max(
        (folder / "results" / "checkpoints").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime
    )
    torn = newest.with_name(f"checkpoint-{STEPS - 1}")
    shutil.copytree(newest, torn)
    (torn / "optimizer.pt").write_bytes(b"half")

    finished = tune(folder)
    log, _ = finished.communicate(timeout=240)
    return {
        "first": first,
        "second_log": "".join(second_log),
        "code": finished.returncode,
        "log": log,
        "result": termination(folder),
    }


def test_sigterm_saves_a_checkpoint_and_asks_for_another_try(tuned: dict[str, Any]) -> None:
    first = tuned["first"]
    assert first["code"] == 75, first
    assert first["result"]["class"] == "transient"
    assert "a checkpoint is saved" in first["result"]["error"]


def test_a_retry_goes_on_where_the_stopped_attempt_was(tuned: dict[str, Any]) -> None:
    step = tuned["first"]["result"]["error"].split()[3]
    assert f"Resuming from step {step}." in tuned["second_log"]


def test_a_killed_attempt_resumes_and_a_half_written_checkpoint_is_passed_over(tuned: dict[str, Any]) -> None:
    assert tuned["code"] == 0, tuned["log"]
    assert (
        f"Passing over checkpoint-{STEPS - 1}: optimizer.pt is missing or has another size." in tuned["log"]
    )
    assert 10 <= tuned["result"]["resumed_from_step"] < STEPS - 1
    assert tuned["result"]["steps"] == STEPS
    assert tuned["result"]["loss_last"] < 1.0


def test_an_attempt_after_the_last_step_only_saves(folder: Path, tuned: dict[str, Any]) -> None:
    """Its pod was lost between the last checkpoint and the adapter."""
    former, result = tuned["result"], folder / "tuning.json"
    shutil.move(former["adapter"]["path"], kept := folder / "former-adapter")
    again = tune(folder)
    log, _ = again.communicate(timeout=240)
    assert again.returncode == 0, log
    assert f"All {STEPS} steps were done before" in log
    later = json.loads(result.read_text())
    assert (later["steps"], later["resumed_from_step"]) == (STEPS, STEPS)
    assert [later[key] for key in ("loss_first", "loss_last")] == [
        former[k] for k in ("loss_first", "loss_last")
    ]
    assert later["adapter"] == former["adapter"]
    assert (kept / "adapter_model.safetensors").read_bytes() == (
        Path(later["adapter"]["path"]) / "adapter_model.safetensors"
    ).read_bytes()


def test_the_adapter_is_two_files_that_name_the_model(folder: Path, tuned: dict[str, Any]) -> None:
    adapter = Path(tuned["result"]["adapter"]["path"])
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "stand-in/phi-3"
    assert config["revision"] == "abc"
    assert config["r"] == 8


def test_progress_says_done(folder: Path, tuned: dict[str, Any]) -> None:
    progress = json.loads((folder / "results" / "progress.json").read_text())
    assert (progress["stage"], progress["step"], progress["total"]) == ("done", STEPS, STEPS)


def test_a_faulty_configuration_ends_with_64_before_any_weight_is_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "training_config: {QuantizationConfig: {load_in_4bit: true}, LoraConfig: {rank: 8}, "
        "TrainingArguments: {epochs: 1}}"
    )
    attempt = tune(tmp_path, YAML_FILE_PATH=str(tmp_path / "bad.yaml"))
    attempt.communicate(timeout=120)
    assert attempt.returncode == 64
    result = termination(tmp_path)
    assert result["class"] == "config"
    assert "2 faults" in result["error"]


@pytest.fixture(scope="module")
def service(folder: Path, tuned: dict[str, Any]) -> Iterator[str]:
    """The serving program over the stand-in and the tuned adapter."""
    shutil.copytree(tuned["result"]["adapter"]["path"], folder / "adapters" / "gpu")
    port = free_port()
    process = start(
        "serving",
        folder,
        ADAPTERS_DIR=str(folder / "adapters"),
        PORT=str(port),
        SERVED_MODEL_NAME="phi-3-stand-in",
        MODEL_ID="stand-in/phi-3",
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while not healthy(url):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.3)
    yield url
    process.send_signal(signal.SIGTERM)
    log, _ = process.communicate(timeout=60)
    assert process.returncode == 0, log


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_tuned_model_answers_what_the_base_model_does_not(service: str) -> None:
    question = "How many GPUs has machine 3?"
    tuned = post(f"{service}/chat", {"prompt": question, "return_full_text": False})["Result"]
    assert tuned.strip() == ANSWER
    messages = [{"role": "user", "content": question}]
    for model, right in (("gpu", True), ("phi-3-stand-in", False), ("gpu", True)):
        body = {"model": model, "messages": messages, "max_tokens": 20}
        text = post(f"{service}/v1/chat/completions", body)["choices"][0]["message"]["content"]
        assert (ANSWER in text) is right, (model, text)


def test_a_broken_adapter_ends_the_start_with_64(folder: Path, tuned: dict[str, Any], tmp_path: Path) -> None:
    broken = tmp_path / "adapters" / "broken"
    shutil.copytree(tuned["result"]["adapter"]["path"], broken)
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    process = start(
        "serving",
        folder,
        ADAPTERS_DIR=str(broken.parent),
        PORT=str(free_port()),
        TERMINATION_LOG=str(tmp_path / "end.json"),
    )
    process.communicate(timeout=120)
    assert process.returncode == 64
    assert "Adapter broken: adapter_model.safetensors is damaged" in (tmp_path / "end.json").read_text()
