"""What an evaluation cannot work with is said before a model is loaded; what it measures is written by its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from include.contracts.evaluation import Report, Subject, Summary, digest_of
from include.workloads.contract import UserConfigError, UserDataError, fit_result
from include.workloads.evaluation import job
from include.workloads.evaluation.engine import Answer, Question
from include.workloads.hardware import Hardware
from include.workloads.tuning.standin import _tokenizer
from tests.support.adapters import write_adapter

GOLDEN = '[{"prompt": "Capital?", "expected": "Paris"}, {"prompt": "Other?", "expected": "Oslo"}]'


class Table:
    name, context = "table", 500
    loaded: list[Mapping[Subject, Any]] = []

    def __init__(self, weights: Path, adapters: Mapping[Subject, Any], *_: Any) -> None:
        self.tokenizer = _tokenizer()
        Table.loaded.append(adapters)

    def answers(self, subject: Subject, questions: list[Question], progress: Any) -> list[Answer]:
        return [self.answer(subject, question) for question in questions]

    def answer(self, subject: Subject, question: Question) -> Answer:
        return Answer("Paris" if subject is Subject.CANDIDATE else "?", 3, 0.1, 0.2)

    def losses(self, *_: Any) -> list[tuple[float, int]]:
        raise AssertionError("there are no held-out rows")


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod's volumes with a candidate, a current adapter and a golden set; the model is a table."""
    write_adapter(tmp_path / "results" / "adapter")
    write_adapter(tmp_path / "current")
    (tmp_path / "golden.yaml").write_text(GOLDEN)
    (tmp_path / "data").mkdir()
    hardware = Hardware("cpu", "a CPU", 0, 1 << 30, False, 1)
    monkeypatch.setattr(job, "TransformersEngine", Table)
    monkeypatch.setattr(job, "detect", lambda: hardware)
    monkeypatch.setattr(job, "use_threads", lambda _: "")
    Table.loaded = []
    for name, value in {
        "OUTPUT_DIR": tmp_path / "results",
        "DATASET_FOLDER_PATH": tmp_path / "data",
        "GOLDEN_SET_PATH": tmp_path / "golden.yaml",
        "MODEL_ID": "org/model",
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("CURRENT_ADAPTER_DIR", "CANDIDATE_ADAPTER_DIR", "ADAPTER_SHA256", "JUDGE_URL", "MAX_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_report_is_written_by_its_digest_and_the_summary_comes_back(
    pod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURRENT_ADAPTER_DIR", str(pod / "current"))
    monkeypatch.setenv("CURRENT_ADAPTER_DIGEST", "sha256:now")
    result = json.loads(fit_result(job.main()))
    summary = Summary.from_json(result)
    assert summary.subjects == list(Subject)
    assert summary.golden is not None
    assert (summary.golden.failed, summary.golden.failed_ids) == (1, ["row-2"])
    content = (pod / "results" / result["report"]).read_bytes()
    assert digest_of(content) == result["report_digest"]
    report = Report.model_validate_json(content)
    assert report.adapters[Subject.CURRENT].image_digest == "sha256:now"
    weights = (pod / "results" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert summary.candidate.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert report.held_out is None


def test_without_a_current_adapter_the_base_model_is_the_other_subject(pod: Path) -> None:
    assert Summary.from_json(job.main()).subjects == [Subject.BASE, Subject.CANDIDATE]


@pytest.mark.parametrize(
    ("golden", "env", "error", "says"),
    [
        ('[{"prompt": "?", "matcher": "exakt"}]', {}, UserDataError, "did you mean exact"),
        (
            '[{"prompt": "?", "expected": "x", "matcher": "judge"}]',
            {},
            UserConfigError,
            "Row row-1 .* names none",
        ),
        (GOLDEN, {"ADAPTER_SHA256": "0" * 64}, UserDataError, "another adapter lies there"),
        (GOLDEN, {"CANDIDATE_ADAPTER_DIR": "/nowhere"}, UserConfigError, "adapter_config.json"),
        (GOLDEN, {"MAX_TOKENS": "many"}, UserConfigError, "MAX_TOKENS is 'many'"),
        (GOLDEN, {"GOLDEN_SET_PATH": ""}, UserConfigError, "nothing to evaluate with"),
        (GOLDEN, {"GOLDEN_SET_PATH": "/nowhere"}, UserConfigError, "cannot be read"),
    ],
)
def test_a_fault_is_said_before_the_model_is_loaded(
    pod: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden: str,
    env: dict[str, str],
    error: type[Exception],
    says: str,
) -> None:
    (pod / "golden.yaml").write_text(golden)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=says):
        job.main()
    assert Table.loaded == []
    assert not (pod / "results" / "evaluation").exists()


def test_a_second_evaluation_leaves_nothing_of_the_first(pod: Path) -> None:
    first = job.main()["report"]
    (pod / "golden.yaml").write_text('[{"prompt": "Another?", "expected": "Paris"}]')
    second = job.main()["report"]
    assert first != second
    assert not (pod / "results" / first).exists()
    assert (pod / "results" / second).exists()
