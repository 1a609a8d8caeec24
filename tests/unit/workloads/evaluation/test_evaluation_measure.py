"""Everything that an evaluation asks and counts, with an engine that answers from a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.contracts import golden_set
from include.contracts.evaluation import (
    HELD_OUT_ROWS_FILE,
    METRICS,
    TRAINED_ROWS_FILE,
    AdapterIdentity,
    Metric,
    Report,
    Subject,
)
from include.contracts.held_out import held_out as held_out_of
from include.contracts.held_out import set_digest
from include.workloads.contract import UserDataError
from include.workloads.evaluation import held_out, page
from include.workloads.evaluation.engine import Answer, Question, finite
from include.workloads.evaluation.held_out import HeldOutPrompt
from include.workloads.evaluation.measure import LATENCY_QUESTIONS, Measured, Work, measure
from include.workloads.tuning import rows
from include.workloads.tuning.standin import _tokenizer

BASE, CURRENT, CANDIDATE = Subject
EVIL = "<script>alert(1)</script>"
GOLDEN = f"""
- {{id: a, prompt: "Capital of France?", expected: Paris}}
- {{id: b, prompt: "Capital of Norway?", expected: Oslo, matcher: contains}}
- {{id: "{EVIL}", prompt: "{EVIL}", expected: "{EVIL}", matcher: rouge_l}}
- {{id: d, prompt: "Be kind", expected: "is kind", matcher: judge}}
"""


class TableEngine:
    """Answers by subject; the candidate takes twice as long as the others."""

    name, context = "table", 500

    def __init__(self, **answers: str) -> None:
        self.tokenizer = _tokenizer()
        self._answers = answers
        self.asked: list[tuple[Subject, int]] = []

    def answers(self, subject: Subject, questions: Sequence[Question], progress: Any) -> list[Answer]:
        progress(len(questions))
        return [self._answer(subject) for _ in questions]

    def answer(self, subject: Subject, question: Question) -> Answer:
        self.asked.append((subject, question.max_tokens))
        return self._answer(subject)

    def _answer(self, subject: Subject) -> Answer:
        slow = 2.0 if subject is CANDIDATE else 1.0
        return Answer(self._answers[subject], 10, 0.1 * slow, 1.0 * slow)

    def losses(self, subject: Subject, rows: Sequence[Any], progress: Any) -> list[tuple[float, int]]:
        progress(len(rows))
        return [(10.0 if subject is CANDIDATE else 20.0, 10) for _ in rows]


class KindJudge:
    def score(self, row: Any, answer: str) -> tuple[float, str]:
        return (0.8, "") if answer == "Paris" else (0.1, "rude")


@pytest.fixture
def measured() -> Measured:
    engine = TableEngine(base="No idea.", current="Oslo", candidate="Paris")
    work = Work(
        subjects=tuple(Subject),
        golden=golden_set.read(GOLDEN),
        held_out_prompts=[
            HeldOutPrompt([{"role": "user", "content": "Q"}], None, "Paris"),
            HeldOutPrompt([{"role": "user", "content": "Q" * 600}], None, "too long"),
        ],
        held_out_rows=[{"input_ids": [1], "labels": [1]}] * 3,
        max_tokens=16,
        seed=0,
        judge=KindJudge(),  # type: ignore[arg-type]
    )
    return measure(work, engine)


def value(measured: Measured, subject: Subject, metric: Metric) -> float:
    return measured.metrics[subject][metric].value


def test_every_metric_is_counted_over_its_own_rows(measured: Measured) -> None:
    assert value(measured, CANDIDATE, Metric.EXACT_MATCH) == 1
    assert value(measured, CURRENT, Metric.CONTAINS) == 1
    assert value(measured, CANDIDATE, Metric.CONTAINS) == 0
    assert value(measured, CANDIDATE, Metric.JUDGE) == 0.8
    assert value(measured, CANDIDATE, Metric.GOLDEN) == 0.5
    assert value(measured, BASE, Metric.GOLDEN) == 0
    assert value(measured, CANDIDATE, Metric.HELD_OUT_EXACT_MATCH) == 1
    assert value(measured, CANDIDATE, Metric.PERPLEXITY) == pytest.approx(math.e)
    assert value(measured, CANDIDATE, Metric.P50_TTFT) == 0.2
    assert value(measured, BASE, Metric.TOKENS_PER_SECOND) == 10
    assert Metric.REGEX not in measured.metrics[CANDIDATE]
    assert measured.differences[CURRENT][Metric.PERPLEXITY].value == pytest.approx(math.e - math.e**2)
    assert measured.notes == ["1 held-out prompts are longer than the model reads: left out."]
    assert measured.golden is not None
    assert measured.golden.failed(CANDIDATE) == ["b", EVIL]
    assert measured.golden.rows[3].answers[BASE].why == "rude"


def test_latency_is_asked_in_turns_after_a_warm_up() -> None:
    engine = TableEngine(base="a", candidate="b")
    lines = "\n".join(f'{{"prompt": "Q{number}", "expected": "a"}}' for number in range(100))
    measure(Work((BASE, CANDIDATE), golden_set.read(lines), [], [], 500, 0), engine)
    order = [subject for subject, _ in engine.asked]
    assert len(order) == 2 + 2 * LATENCY_QUESTIONS
    assert order[:6] == [BASE, CANDIDATE, BASE, CANDIDATE, CANDIDATE, BASE]
    assert {tokens for _, tokens in engine.asked} == {32}


def test_a_golden_prompt_that_the_model_cannot_read_is_named() -> None:
    text = f'- {{id: novel, prompt: "{"x" * 600}", expected: a}}'
    with pytest.raises(UserDataError, match=r"longer than the 500 tokens .*: novel"):
        measure(Work((CANDIDATE,), golden_set.read(text), [], [], 16, 0), TableEngine(candidate=""))


def test_a_model_that_gives_no_numbers_is_a_fault_of_its_weights() -> None:
    with pytest.raises(UserDataError, match="candidate gives no numbers"):
        finite(float("nan"), CANDIDATE)


def report(measured: Measured) -> Report:
    return Report(
        model=f"model {EVIL}",
        revision="",
        engine="table",
        device="cpu",
        dtype="float32",
        seed=0,
        bootstrap_samples=1000,
        adapters={CANDIDATE: AdapterIdentity(weights_sha256="0" * 64)},
        golden=measured.golden,
        metrics=measured.metrics,
        differences=measured.differences,
        notes=[EVIL],
        seconds=1,
    )


def test_the_page_shows_every_number_and_runs_nothing(measured: Measured) -> None:
    found = page.page(report(measured), "sha256:0")
    assert EVIL not in found
    assert "<script" not in found
    assert found.count("&lt;script&gt;") >= 6
    for metric in measured.metrics[CANDIDATE]:
        assert METRICS[metric].title in found
    assert "better" in found
    assert "worse" in found
    assert found.index(">b<") < found.index(">a<"), "what fails comes first"


MESSAGES = [
    {"messages": [{"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": f"A{number}"}]}
    for number in range(30)
]


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[Path, list[str]]:
    """A dataset, and the lists that its tuning has left; the held-out digests."""
    pq.write_table(pa.Table.from_pylist(MESSAGES), tmp_path / rows.FILE)
    digests = rows.digests(rows.read_table(tmp_path)[1])
    sides = held_out_of(digests, 0.3)
    for name, side in ((TRAINED_ROWS_FILE, False), (HELD_OUT_ROWS_FILE, True)):
        lines = [digest for digest, out in zip(digests, sides, strict=True) if out is side]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in sorted(lines)))
    return tmp_path, sorted(digest for digest, out in zip(digests, sides, strict=True) if out)


def test_held_out_rows_come_with_their_proof(tuned: tuple[Path, list[str]]) -> None:
    folder, held = tuned
    trained = (folder / TRAINED_ROWS_FILE).read_text().split()
    found = held_out.read(folder, folder, set_digest(trained))
    assert found is not None
    assert (found.proof.rows, found.proof.trained_rows, found.proof.overlap) == (len(held), len(trained), 0)
    assert rows.digests(found.values) == held
    prompts = held_out.prompts(found)
    assert {prompt.expected.replace("A", "Q") for prompt in prompts} == {
        str(prompt.messages[-1]["content"]) for prompt in prompts
    }
    assert held_out.overlap_with(held, folder / TRAINED_ROWS_FILE) == 0
    assert held_out.overlap_with(held, folder / "none") is None


def test_a_leak_or_another_tunings_rows_are_refused(tuned: tuple[Path, list[str]]) -> None:
    folder, held = tuned
    with pytest.raises(UserDataError, match="not of the tuning"):
        held_out.read(folder, folder, "sha256:other")
    trained = folder / TRAINED_ROWS_FILE
    before = trained.read_text()
    trained.write_text(before + held[0] + "\n")
    with pytest.raises(UserDataError, match=rf"1 of {len(held)} held-out rows were trained on"):
        held_out.read(folder, folder)
    trained.unlink()
    with pytest.raises(UserDataError, match="unknown"):
        held_out.read(folder, folder)
    trained.write_text(before)
    (folder / HELD_OUT_ROWS_FILE).write_text("0" * 64 + "\n")
    with pytest.raises(UserDataError, match="not in this dataset"):
        held_out.read(folder, folder)
    (folder / HELD_OUT_ROWS_FILE).write_text("")
    assert held_out.read(folder, folder) is None
