"""One evaluation from start to end: read and check everything, load, measure, write the report and its page.

What is wrong with the golden set, the adapters or the rows is said before the model is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts import golden_set
from include.contracts.adapter_keys import ADAPTER_FOLDER
from include.contracts.evaluation import (
    PAGE_FILE,
    REPORT_FILE,
    TRAINED_ROWS_FILE,
    AdapterIdentity,
    HeldOut,
    Matcher,
    Report,
    Subject,
    digest_of,
)
from include.contracts.golden_set import GoldenSet, GoldenSetInvalid
from include.workloads import contract
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.evaluation import held_out, measure, page, statistics
from include.workloads.evaluation.engine import Engine, TransformersEngine, read_adapters
from include.workloads.evaluation.judge import Judge
from include.workloads.evaluation.lm_tasks import LmTasks, find_tasks
from include.workloads.hardware import Hardware, Precision, choose_precision, detect, use_threads
from include.workloads.serving.adapters import WEIGHTS, Adapter
from include.workloads.tuning import rows
from include.workloads.tuning.run import is_out_of_memory

log = logging.getLogger("workload")

FOLDER = "evaluation"  # in the results folder


@dataclass(frozen=True)
class Environment:
    """What the pod was given by env and mounts."""

    weights: Path
    data: Path
    results: Path
    candidate: Path
    current: Path | None
    golden: Path | None
    model_id: str
    revision: str
    dtype: str | None
    max_tokens: int
    held_out_prompts: int
    seed: int
    candidate_sha256: str | None
    trained_digest: str | None
    current_digest: str | None
    current_trained: Path | None
    dataset_digest: str | None
    judge_url: str | None
    judge_model: str | None
    judge_key: str | None
    lm_tasks: list[str]
    lm_limit: int
    lm_few_shot: int | None
    lm_folder: Path | None

    @classmethod
    def read(cls) -> Environment:
        get = os.environ.get
        results = Path(get("OUTPUT_DIR", "/mnt/results"))
        return cls(
            weights=Path(get("WEIGHTS_PATH", "/workspace/weights")),
            data=Path(get("DATASET_FOLDER_PATH", "/mnt/data")),
            results=results,
            candidate=Path(get("CANDIDATE_ADAPTER_DIR") or results / ADAPTER_FOLDER),
            current=_path("CURRENT_ADAPTER_DIR"),
            golden=_path("GOLDEN_SET_PATH"),
            model_id=get("MODEL_ID", ""),
            revision=get("MODEL_REVISION", ""),
            dtype=get("DTYPE") or None,
            max_tokens=int(contract.number("MAX_TOKENS", 128, 4096)) or 1,
            held_out_prompts=int(contract.number("HELD_OUT_PROMPTS", 50, 1000)),
            seed=int(contract.number("SEED", 0, 2**32 - 1)),
            candidate_sha256=get("ADAPTER_SHA256") or None,
            trained_digest=get("TRAINED_ROWS_DIGEST") or None,
            current_digest=get("CURRENT_ADAPTER_DIGEST") or None,
            current_trained=_path("CURRENT_TRAINED_ROWS"),
            dataset_digest=get("DATASET_DIGEST") or None,
            judge_url=get("JUDGE_URL") or None,
            judge_model=get("JUDGE_MODEL") or None,
            judge_key=get("JUDGE_API_KEY") or None,
            lm_tasks=contract.comma_list("LM_EVAL_TASKS"),
            lm_limit=int(contract.number("LM_EVAL_LIMIT", 100, 10_000)) or 1,
            lm_few_shot=int(contract.number("LM_EVAL_FEW_SHOT", 0, 50)) if get("LM_EVAL_FEW_SHOT") else None,
            lm_folder=_path("LM_EVAL_FOLDER"),
        )


def _path(name: str) -> Path | None:
    text = os.environ.get(name, "").strip()
    return Path(text) if text else None


@dataclass(frozen=True)
class _Inputs:
    """Everything that was read and checked before the model is loaded."""

    golden: GoldenSet | None
    judge: Judge | None
    adapters: Mapping[Subject, Adapter]
    identities: Mapping[Subject, AdapterIdentity]
    held_out: held_out.HeldOutRows | None
    tasks: LmTasks | None


def main() -> dict[str, Any]:
    """Evaluate. Returns the termination result, which is the report's summary."""
    started = time.monotonic()
    env = Environment.read()
    inputs = _inputs(env)
    hardware = detect()
    log.info("%s", use_threads(hardware))
    precision = choose_precision(hardware, env.dtype)
    log.info("%s", precision.sentence)
    try:
        engine = _engine(env, inputs, hardware, precision)
        work = _work(env, inputs, engine)
        measured = measure.measure(work, engine)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserConfigError(
                "The machine has too little memory for this evaluation: set maxTokens of its policy lower."
            ) from error
        raise
    report = Report(
        model=env.model_id or env.weights.name,
        revision=env.revision,
        engine=engine.name,
        device=hardware.name,
        dtype=precision.dtype,
        seed=env.seed,
        bootstrap_samples=statistics.SAMPLES,
        adapters=dict(inputs.identities),
        dataset_digest=env.dataset_digest,
        held_out=_proof(env, inputs),
        golden=measured.golden,
        metrics=measured.metrics,
        differences=measured.differences,
        notes=measured.notes,
        seconds=round(time.monotonic() - started, 1),
    )
    return _write(env, report)


def _inputs(env: Environment) -> _Inputs:
    golden = _golden_set(env)
    judge = None
    if golden is not None and Matcher.JUDGE in golden.matchers:
        if not env.judge_url or not env.judge_model:
            named = next(row.id for row in golden.rows if row.matcher is Matcher.JUDGE)
            raise UserConfigError(
                f"Row {named} of the golden set asks a judge, and the policy's evaluation names none."
            )
        judge = Judge(env.judge_url, env.judge_model, env.judge_key)
    folders = {Subject.CANDIDATE: env.candidate}
    if env.current is not None:
        folders = {Subject.CURRENT: env.current, Subject.CANDIDATE: env.candidate}
    adapters = read_adapters(folders)
    identities = {subject: _identity(env, subject, adapter) for subject, adapter in adapters.items()}
    expected, found = env.candidate_sha256, identities[Subject.CANDIDATE].weights_sha256
    if expected and found != expected:
        raise UserDataError(
            f"The candidate's weights have the digest {found}, but the training made {expected}: another adapter lies "
            "there now."
        )
    kept = held_out.read(env.data, env.results, env.trained_digest)
    tasks = find_tasks(env.lm_tasks, env.lm_limit, env.lm_few_shot, env.seed, env.lm_folder)
    if golden is None and kept is None and tasks is None:
        raise UserConfigError(
            "There is nothing to evaluate with: give the policy a golden set, or hold out rows of the dataset."
        )
    return _Inputs(golden, judge, adapters, identities, kept, tasks)


def _golden_set(env: Environment) -> GoldenSet | None:
    if env.golden is None:
        return None
    try:
        return golden_set.read(env.golden.read_bytes())
    except OSError as error:
        raise UserConfigError(f"The golden set {env.golden} cannot be read: {error.strerror}.") from None
    except GoldenSetInvalid as error:
        raise UserDataError(f"The golden set cannot be used:\n{error}") from None


def _identity(env: Environment, subject: Subject, adapter: Adapter) -> AdapterIdentity:
    with (adapter.path / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    image = env.current_digest if subject is Subject.CURRENT else None
    return AdapterIdentity(weights_sha256=weights, image_digest=image)


def _engine(env: Environment, inputs: _Inputs, hardware: Hardware, precision: Precision) -> Engine:
    log.info("loading %s and %d adapters", env.model_id or env.weights, len(inputs.adapters))
    return TransformersEngine(env.weights, inputs.adapters, hardware, precision)


def _work(env: Environment, inputs: _Inputs, engine: Engine) -> measure.Work:
    kept = inputs.held_out
    prompts: list[held_out.HeldOutPrompt] = []
    tokenised: list[rows.Row] = []
    if kept is not None:
        # The first by digest: the same ones each time, and in every version of the dataset.
        some = dataclasses.replace(kept, values=kept.values[: env.held_out_prompts])
        prompts = held_out.prompts(some)
        if some.values:
            tokenised = rows.tokenise(some.column, some.values, engine.tokenizer).rows
    return measure.Work(
        subjects=(Subject.BASE, *inputs.adapters),
        golden=inputs.golden,
        held_out_prompts=prompts,
        held_out_rows=tokenised,
        max_tokens=env.max_tokens,
        seed=env.seed,
        judge=inputs.judge,
        tasks=inputs.tasks,
    )


def _proof(env: Environment, inputs: _Inputs) -> HeldOut | None:
    if inputs.held_out is None:
        return None
    if env.current_trained is None:
        return inputs.held_out.proof
    digests = rows.digests(inputs.held_out.values)
    overlap = held_out.overlap_with(digests, env.current_trained / TRAINED_ROWS_FILE)
    return inputs.held_out.proof.model_copy(update={"current_overlap": overlap})


def _write(env: Environment, report: Report) -> dict[str, Any]:
    """Write report and page into a folder of the report's digest, and nothing of an earlier evaluation beside it."""
    content = report.content()
    digest = digest_of(content)
    folder = env.results / FOLDER / digest.removeprefix("sha256:")
    try:
        shutil.rmtree(env.results / FOLDER, ignore_errors=True)
        folder.mkdir(parents=True)
        contract.atomic_write(folder / REPORT_FILE, content)
        contract.atomic_write(folder / PAGE_FILE, page.page(report, digest).encode())
    except OSError as error:
        raise contract.file_write_error(error, f"the report to {folder}", env.results) from error
    log.info("report %s in %s", digest, folder)
    place = str((folder / REPORT_FILE).relative_to(env.results))
    return report.summary(place, digest).to_json()
