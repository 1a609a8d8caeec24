"""Evaluates real adapters of the stand-in model: one that has learnt, and one that was spoilt.

A deliberately worse candidate gets worse numbers and is refused by the gate, whichever rule is asked; the other way
round it passes. What a pod is given (env, mounts as folders) is all that the workloads get here; they run in this
process, because each start of the libraries takes as long as an evaluation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from include.contracts.adapter_record import FOLDER, ROW_DIGESTS
from include.contracts.evaluation import (
    HELD_OUT_ROWS_FILE,
    TRAINED_ROWS_FILE,
    Metric,
    Report,
    Subject,
    Summary,
    digest_of,
)
from include.retraining.gate import judge
from include.workloads.contract import UserConfigError, fit_result
from include.workloads.evaluation.job import main as evaluate
from include.workloads.evaluation.lm_tasks import find_tasks
from include.workloads.tuning.run import main as tune
from include.workloads.tuning.standin import make_standin

pytestmark = [pytest.mark.integration, pytest.mark.weights, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
WEIGHTS = "adapter_model.safetensors"
CONFIG = """
training_config:
  LoraConfig: {r: 8, lora_alpha: 32}
  TrainingArguments: {max_steps: 20, per_device_train_batch_size: 4, learning_rate: 5.0e-3, save_strategy: "no"}
"""
GOLDEN = "\n".join(
    json.dumps({"id": f"machine-{number}", "prompt": f"How many GPUs has machine {number}?", **how})
    for number, how in enumerate(
        [
            {"expected": "eight"},
            {"expected": "EIGHT", "matcher": "contains", "ignoreCase": True},
            {"expected": "^e[ig]+ht", "matcher": "regex"},
            {"expected": "eight", "matcher": "rouge_l"},
        ]
        * 3
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pod's volumes after a tuning: weights, data, results with an adapter."""
    root = tmp_path_factory.mktemp("evaluation")
    make_standin(root / "weights")
    (root / "data").mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"How many GPUs has machine {number}?"},
                {"role": "assistant", "content": "eight"},
            ]
        }
        for number in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / "train.parquet")
    (root / "data" / ROW_DIGESTS).write_bytes(b"12345678" * 40)
    (root / "training_config.yaml").write_text(CONFIG)
    (root / "golden.yaml").write_text(GOLDEN)
    run(tune, root, TUNING_METHOD="lora", YAML_FILE_PATH=str(root / "training_config.yaml"))
    shutil.copytree(root / "results" / "adapter", root / "good")
    shutil.copytree(root / "good", root / "spoilt")
    # The same adapter, turned against what it has learnt.
    tensors = {
        name: -3 * tensor if "lora_B" in name else tensor
        for name, tensor in load_file(root / "good" / WEIGHTS).items()
    }
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, root / "spoilt" / WEIGHTS
    )
    return root


def test_the_tuning_keeps_the_digests_of_its_rows_beside_its_adapter(folder: Path) -> None:
    assert (folder / "results" / FOLDER / ROW_DIGESTS).read_bytes() == b"12345678" * 40


def environment(root: Path, **env: str) -> dict[str, str]:
    return {
        "HOST": "127.0.0.1",
        "METRICS_PORT": "0",
        "OMP_NUM_THREADS": "1",  # other tests run beside this one
        "WEIGHTS_PATH": str(root / "weights"),
        "DATASET_FOLDER_PATH": str(root / "data"),
        "OUTPUT_DIR": str(root / "results"),
        "HELD_OUT_SHARE": "0.4",
        "MODEL_ID": "stand-in/phi-3",
        "TERMINATION_LOG": str(root / "termination.json"),
        **env,
    }


def run(main: Callable[[], Any], root: Path, **env: str) -> dict[str, Any]:
    """Run a workload to its end; what it would leave in its termination message."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(root, **env).items():
            patch.setenv(name, value)
        return dict(json.loads(fit_result(main())))


@pytest.fixture(scope="module")
def refused(folder: Path) -> dict[str, Any]:
    """The evaluation in which the spoilt adapter wants to follow the good one."""
    return run(
        evaluate,
        folder,
        CURRENT_ADAPTER_DIR=str(folder / "good"),
        CANDIDATE_ADAPTER_DIR=str(folder / "spoilt"),
        GOLDEN_SET_PATH=str(folder / "golden.yaml"),
        MAX_TOKENS="12",
    )


def test_a_worse_candidate_has_worse_numbers_and_is_refused(refused: dict[str, Any]) -> None:
    summary = Summary.from_json(refused)
    assert summary.subjects == list(Subject)
    current, candidate = summary.metrics[Subject.CURRENT], summary.metrics[Subject.CANDIDATE]
    assert candidate[Metric.PERPLEXITY].low > current[Metric.PERPLEXITY].high
    assert current[Metric.GOLDEN].value == 1.0
    assert candidate[Metric.GOLDEN].value < 0.5
    assert candidate[Metric.HELD_OUT_EXACT_MATCH].value < current[Metric.HELD_OUT_EXACT_MATCH].value
    assert summary.golden is not None
    assert summary.golden.failed > 6
    for rules in ([], ["!worse('perplexity')"], ["golden.all"], ["better('golden', 'current')"]):
        verdict = judge(rules, refused)
        assert not verdict.passed, verdict
    assert "candidate.golden" in judge([], refused).sentence


def test_the_held_out_rows_are_proven_to_be_none_that_were_trained_on(refused: dict[str, Any]) -> None:
    proof = Summary.from_json(refused).held_out
    assert proof is not None
    assert proof.overlap == 0
    assert 5 < proof.rows < 30
    assert proof.rows + proof.trained_rows == 40


def test_the_report_is_addressed_by_its_digest_and_the_page_needs_nothing(
    folder: Path, refused: dict[str, Any]
) -> None:
    path = folder / "results" / refused["report"]
    content = path.read_bytes()
    assert digest_of(content) == refused["report_digest"]
    assert path.parent.name == refused["report_digest"].removeprefix("sha256:")
    report = Report.model_validate_json(content)
    assert report.golden is not None
    assert len(report.golden.rows) == 12
    page = path.with_name("report.html").read_text()
    assert page.count("<svg") >= 10
    assert "http" not in page.replace("http-equiv", "")


def test_the_better_candidate_passes(folder: Path) -> None:
    """Beside its own report, it replaces that of the earlier evaluation."""
    found = run(
        evaluate,
        folder,
        CURRENT_ADAPTER_DIR=str(folder / "spoilt"),
        CANDIDATE_ADAPTER_DIR=str(folder / "good"),
        GOLDEN_SET_PATH=str(folder / "golden.yaml"),
        MAX_TOKENS="12",
    )
    rules = ["better('golden')", "better('golden', 'base')", "better('perplexity')", "golden.all"]
    verdict = judge([*rules, "candidate.exact_match >= current.exact_match - 0.01"], found)
    assert verdict.passed, verdict.sentence
    assert len(list((folder / "results" / "evaluation").iterdir())) == 1


def test_a_leak_ends_the_pod_with_the_exit_code_of_bad_data(folder: Path) -> None:
    trained = folder / "results" / TRAINED_ROWS_FILE
    before, held = trained.read_text(), (folder / "results" / HELD_OUT_ROWS_FILE).read_text()
    trained.write_text(before + held.splitlines()[0] + "\n")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "include.workloads.evaluation"],
            cwd=ROOT,
            env={**os.environ, **environment(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        trained.write_text(before)
    assert ended.returncode == 65, ended.stdout + ended.stderr
    assert "were trained on" in json.loads((folder / "termination.json").read_text())["error"]


TASKS = {
    "eight_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": ["nine", "eight"],
        "doc_to_target": 1,
        "metric_list": [{"metric": "acc"}],
    },
    "eight_said": {
        "output_type": "generate_until",
        "doc_to_target": "eight",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def lm_tasks(root: Path) -> Path:
    """A folder with two tasks of lm-eval, as an image may bring them."""
    made = root / "tasks"
    made.mkdir(exist_ok=True)
    rows = [{"question": f"How many GPUs has machine {number}?"} for number in range(6)]
    (made / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(made / "rows.jsonl")}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            **task,
        }
        (made / f"{name}.yaml").write_text(json.dumps(data))
    return made


def test_tasks_of_lm_eval_are_asked_of_each_subject(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="make setup installs it")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    result = run(
        evaluate,
        folder,
        CANDIDATE_ADAPTER_DIR=str(folder / "good"),
        CURRENT_ADAPTER_DIR=str(folder / "spoilt"),
        LM_EVAL_TASKS=",".join(TASKS),
        LM_EVAL_LIMIT="5",
        LM_EVAL_FOLDER=str(lm_tasks(folder)),
    )
    summary = Summary.from_json(result)
    values = {subject: summary.metrics[subject][Metric.LM_EVAL] for subject in summary.subjects}
    assert {value.n for value in values.values()} == {10}
    assert values[Subject.CANDIDATE].value > values[Subject.CURRENT].value
    assert judge(["candidate.lm_eval > current.lm_eval"], result).passed
    report = Report.model_validate_json((folder / "results" / str(summary.report)).read_text())
    assert [note.partition(":")[0] for note in report.notes if "lm-eval" in note] == [
        f"lm-eval task {name}, 5 rows" for name in TASKS
    ]


def test_a_task_whose_rows_are_not_there_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="make setup installs it")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    made = lm_tasks(folder)
    said = (made / "eight_said.yaml").read_text()
    (made / "broken.yaml").write_text(
        said.replace('"eight_said"', '"broken"').replace("rows.jsonl", "no.jsonl")
    )
    env = {
        "CANDIDATE_ADAPTER_DIR": str(folder / "good"),
        "LM_EVAL_TASKS": "eight_choice,broken",
        "LM_EVAL_FOLDER": str(made),
    }
    with pytest.raises(UserConfigError, match=r"lm-eval.*no\.jsonl"):
        run(evaluate, folder, **env)


@pytest.mark.slow  # the package's index of ten thousand tasks is read
def test_a_task_that_the_package_has_not_is_named() -> None:
    pytest.importorskip("lm_eval", reason="make setup installs it")
    with pytest.raises(UserConfigError, match="arc_esay: did you mean arc_easy"):
        find_tasks(["arc_esay"], 5, None, 0, None)
    assert find_tasks(["arc_easy"], 5, None, 0, None) is not None
