"""Asks every subject everything, and turns the answers into metrics with intervals and differences.

Every subject gets the same questions in the same order. Latency is measured one request at a time, and the subjects
take turns at each question, so that a machine that grows warm or busy favours none of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from include.contracts.evaluation import (
    METRIC_OF_MATCHER,
    SHOWN_CHARACTERS,
    GoldenAnswer,
    GoldenResults,
    GoldenRow,
    Matcher,
    Measures,
    Metric,
    Subject,
)
from include.contracts.golden_set import GoldenPrompt, GoldenSet
from include.workloads.contract import TryAgain, UserDataError, stop_requested
from include.workloads.evaluation import matching, statistics
from include.workloads.evaluation.engine import Answer, Engine, Question
from include.workloads.evaluation.held_out import HeldOutPrompt
from include.workloads.evaluation.judge import Judge
from include.workloads.evaluation.statistics import Samples
from include.workloads.tuning.rows import Row

log = logging.getLogger("workload")

#: Questions whose latency is measured, and the longest answer to one of them, in tokens.
LATENCY_QUESTIONS, LATENCY_TOKENS = 20, 32
#: Seconds between two lines of progress.
LINE_SECONDS = 5.0
_SCORED = (Matcher.ROUGE_L, Matcher.JUDGE)


@dataclass(frozen=True)
class Work:
    """What is measured."""

    subjects: tuple[Subject, ...]
    golden: GoldenSet | None
    held_out_prompts: Sequence[HeldOutPrompt]
    held_out_rows: Sequence[Row]
    max_tokens: int
    seed: int
    judge: Judge | None = None
    tasks: Tasks | None = None


class Tasks(Protocol):
    """Tasks of somebody else's collection, which ask and judge by themselves (`lm_tasks.LmTasks`)."""

    def scores(self, engine: Engine, subject: Subject) -> dict[str, list[float]]:
        """By the name of each task the scores of its rows, 0 to 1: the same rows for each subject."""


@dataclass(frozen=True)
class Measured:
    """What came out."""

    metrics: Measures
    differences: Measures
    golden: GoldenResults | None
    notes: list[str]


def measure(work: Work, engine: Engine) -> Measured:
    """Ask and judge everything. Raises the contract's errors."""
    progress = _Progress(work)
    samples = Samples()
    questions = _questions(work, engine)
    notes: list[str] = []
    golden = _golden(work, engine, samples, questions.golden, progress)
    _held_out(work, engine, samples, questions.held_out, notes, progress)
    _perplexity(work, engine, samples, progress)
    _tasks(work, engine, samples, notes, progress)
    _latency(
        work, engine, samples, [*questions.golden, *(one for one in questions.held_out if one)], progress
    )
    progress.stage("statistics")
    metrics, differences = samples.measures(work.seed)
    return Measured(metrics, differences, golden, notes)


class _Progress:
    """Lines in the pod's log: what is done of what, and how long the rest may take."""

    def __init__(self, work: Work) -> None:
        golden = len(work.golden.rows) if work.golden else 0
        asked = golden + len(work.held_out_prompts) + len(work.held_out_rows)
        self.total = len(work.subjects) * (
            asked + min(LATENCY_QUESTIONS, golden + len(work.held_out_prompts))
        )
        self.done, self.name = 0, ""
        self._started = self._last = time.monotonic()

    def stage(self, name: str) -> Callable[[int], None]:
        """Enter a stage; the returned function counts what is done in it. Raises TryAgain after SIGTERM."""
        self.name = name
        log.info("%s (%d of %d done)", name, self.done, self.total)
        return self._add

    def _add(self, count: int) -> None:
        if stop_requested():
            raise TryAgain("Stopped before the evaluation was done; it can be started again.")
        self.done += count
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            left = (now - self._started) / max(1, self.done) * max(0, self.total - self.done)
            log.info("%s: %d of %d, about %.0f s left", self.name, self.done, self.total, left)


@dataclass(frozen=True)
class _Questions:
    golden: list[Question]
    held_out: list[Question | None]  # None: too long for the model


def _questions(work: Work, engine: Engine) -> _Questions:
    """All prompts as tokens; those of the golden set must fit, the dataset's may not."""
    golden: list[Question] = []
    too_long: list[str] = []
    for row in work.golden.rows if work.golden else ():
        question = _question(engine, list(row.messages), None, row.max_tokens or work.max_tokens)
        if question is None:
            too_long.append(row.id)
        else:
            golden.append(question)
    if too_long:
        raise UserDataError(
            f"{len(too_long)} rows of the golden set are longer than the {engine.context} tokens that this model "
            f"reads: {', '.join(too_long[:10])}."
        )
    held_out = [
        _question(engine, prompt.messages, prompt.tools, work.max_tokens) for prompt in work.held_out_prompts
    ]
    return _Questions(golden, held_out)


def _question(engine: Engine, messages: list[Any], tools: Any, max_tokens: int) -> Question | None:
    tokenizer = engine.tokenizer
    if getattr(tokenizer, "chat_template", None):
        try:
            text = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program of its own
            roles = ", ".join(str(one["role"]) for one in messages)
            raise UserDataError(
                f"The model's chat template refuses a prompt: {error}; its roles are {roles}."
            ) from None
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer("\n".join(str(one["content"]) for one in messages))["input_ids"]
    room = engine.context - len(ids)
    return Question(tuple(ids), min(max_tokens, room)) if room > 0 else None


def _golden(
    work: Work, engine: Engine, samples: Samples, questions: list[Question], progress: _Progress
) -> GoldenResults | None:
    if work.golden is None:
        return None
    rows = work.golden.rows
    judged: dict[Subject, list[GoldenAnswer]] = {}
    for subject in work.subjects:
        answers = engine.answers(subject, questions, progress.stage(f"golden set, {subject}"))
        judged[subject] = [
            _judged(row, answer, work.judge) for row, answer in zip(rows, answers, strict=True)
        ]
        _count(samples, subject, rows, judged[subject])
    return GoldenResults(
        digest=work.golden.digest,
        rows=[
            GoldenRow(
                id=row.id,
                prompt=row.prompt[:SHOWN_CHARACTERS],
                matcher=row.matcher,
                expected=row.shown_expected[:SHOWN_CHARACTERS],
                answers={subject: judged[subject][place] for subject in work.subjects},
            )
            for place, row in enumerate(rows)
        ],
    )


def _judged(row: GoldenPrompt, answer: Answer, judge: Judge | None) -> GoldenAnswer:
    if row.matcher is not Matcher.JUDGE:
        found = matching.score(row, answer.text)
    elif judge is None:
        raise UserDataError(f"Row {row.id} of the golden set asks a judge, and the policy names none.")
    else:
        found = matching.scored(row, *judge.score(row, answer.text))
    text = answer.text[:SHOWN_CHARACTERS]
    return GoldenAnswer(answer=text, score=found.score, passed=found.passed, why=found.why)


def _count(
    samples: Samples, subject: Subject, rows: Sequence[GoldenPrompt], answers: Sequence[GoldenAnswer]
) -> None:
    passed = [float(answer.passed) for answer in answers]
    samples.add(Metric.GOLDEN, subject, statistics.mean(passed), len(passed))
    for matcher, metric in METRIC_OF_MATCHER.items():
        values = [
            answer.score if matcher in _SCORED else float(answer.passed)
            for row, answer in zip(rows, answers, strict=True)
            if row.matcher is matcher
        ]
        samples.add(metric, subject, statistics.mean(values), len(values))


def _held_out(
    work: Work,
    engine: Engine,
    samples: Samples,
    questions: list[Question | None],
    notes: list[str],
    progress: _Progress,
) -> None:
    fitting = [
        (question, prompt.expected)
        for question, prompt in zip(questions, work.held_out_prompts, strict=True)
        if question is not None
    ]
    if len(fitting) < len(questions):
        notes.append(
            f"{len(questions) - len(fitting)} held-out prompts are longer than the model reads: left out."
        )
    if not fitting:
        return
    for subject in work.subjects:
        stage = progress.stage(f"held-out rows, {subject}")
        answers = engine.answers(subject, [question for question, _ in fitting], stage)
        pairs = [(answer.text, expected) for answer, (_, expected) in zip(answers, fitting, strict=True)]
        same = [float(matching.same_text(*pair)) for pair in pairs]
        alike = [matching.rouge_l(*pair) for pair in pairs]
        samples.add(Metric.HELD_OUT_EXACT_MATCH, subject, statistics.mean(same), len(same))
        samples.add(Metric.HELD_OUT_ROUGE_L, subject, statistics.mean(alike), len(alike))


def _perplexity(work: Work, engine: Engine, samples: Samples, progress: _Progress) -> None:
    if not work.held_out_rows:
        return
    for subject in work.subjects:
        found = engine.losses(subject, work.held_out_rows, progress.stage(f"perplexity, {subject}"))
        losses, tokens = [loss for loss, _ in found], [float(count) for _, count in found]
        samples.add(Metric.PERPLEXITY, subject, statistics.perplexity(losses, tokens), len(found))


def _tasks(work: Work, engine: Engine, samples: Samples, notes: list[str], progress: _Progress) -> None:
    if work.tasks is None:
        return
    found: dict[Subject, dict[str, list[float]]] = {}
    for subject in work.subjects:
        progress.stage(f"lm-eval, {subject}")(0)
        found[subject] = work.tasks.scores(engine, subject)
        values = [score for name in sorted(found[subject]) for score in found[subject][name]]
        samples.add(Metric.LM_EVAL, subject, statistics.mean(values), len(values))
    for name in sorted(found[work.subjects[0]]):
        rows = len(found[work.subjects[0]][name])
        told = (f"{one} {sum(found[one][name]) / max(1, rows):.4g}" for one in work.subjects)
        notes.append(f"lm-eval task {name}, {rows} rows: {', '.join(told)}")


def _latency(
    work: Work, engine: Engine, samples: Samples, questions: Sequence[Question], progress: _Progress
) -> None:
    # Evenly spread, so that short and long prompts are both among them.
    step = max(1, len(questions) // LATENCY_QUESTIONS)
    chosen = [
        Question(one.prompt_ids, min(one.max_tokens, LATENCY_TOKENS))
        for one in questions[::step][:LATENCY_QUESTIONS]
    ]
    if not chosen:
        return
    done = progress.stage("latency")
    times: dict[Subject, list[Answer]] = {subject: [] for subject in work.subjects}
    for subject in work.subjects:
        engine.answer(subject, chosen[0])  # the first of all pays for what is made once
    for number, question in enumerate(chosen):
        turn = number % len(work.subjects)
        for subject in (*work.subjects[turn:], *work.subjects[:turn]):
            times[subject].append(engine.answer(subject, question))
            done(1)
    for subject, answers in times.items():
        first = [answer.first_token_seconds for answer in answers]
        tokens, seconds = [float(answer.tokens) for answer in answers], [answer.seconds for answer in answers]
        samples.add(Metric.P50_TTFT, subject, statistics.quantile(first, 0.5), len(first))
        samples.add(Metric.P95_TTFT, subject, statistics.quantile(first, 0.95), len(first))
        samples.add(Metric.TOKENS_PER_SECOND, subject, statistics.ratio(tokens, seconds), len(first))
