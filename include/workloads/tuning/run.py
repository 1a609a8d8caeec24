"""The tuning run from start to end: read and check, prepare the data, load, train, save, report."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts.evaluation import HELD_OUT_ROWS_FILE, TRAINED_ROWS_FILE
from include.contracts.held_out import MAX_SHARE, set_digest
from include.contracts.methods import OBJECTIVES, Objective, TuningMethod
from include.contracts.sharding import VARIABLE as SHARDED
from include.workloads import contract
from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.hardware import Hardware, choose_precision, detect, use_threads
from include.workloads.tuning import (
    checkpoints,
    exact,
    material,
    memory,
    model,
    preferences,
    processes,
    recipe,
    record,
    rows,
)
from include.workloads.tuning.config import TuningConfig, parse_config
from include.workloads.tuning.fit import Job, fit
from include.workloads.tuning.progress import Progress, serve
from include.workloads.tuning.start import Start, check

log = logging.getLogger("workload")


@dataclass(frozen=True)
class Environment:
    """What the pod was given by env and mounts."""

    weights: Path
    data: Path
    config: Path
    output: Path
    method: str
    objective: str
    model_id: str
    revision: str
    dtype: str | None
    target_modules: tuple[str, ...]
    held_out_share: float
    start: Start | None
    exact: str
    sharded: bool
    host: str
    port: int

    @classmethod
    def read(cls) -> Environment:
        get = os.environ.get
        return cls(
            weights=Path(get("WEIGHTS_PATH", "/workspace/weights")),
            data=Path(get("DATASET_FOLDER_PATH", "/mnt/data")),
            config=Path(get("YAML_FILE_PATH", "/mnt/config/training_config.yaml")),
            output=Path(get("OUTPUT_DIR", "/mnt/results")),
            method=get("TUNING_METHOD", "qlora"),
            objective=contract.one_of("TUNING_OBJECTIVE", OBJECTIVES),
            model_id=get("MODEL_ID", "") or get("MODEL_NAME", ""),
            revision=get("MODEL_REVISION", ""),
            dtype=get("DTYPE") or None,
            target_modules=tuple(contract.comma_list("TUNING_TARGET_MODULES")),
            held_out_share=contract.number("HELD_OUT_SHARE", 0.0, MAX_SHARE),
            start=_start(get("START_ADAPTER_DIR"), get("START_ADAPTER_DIGEST")),
            exact=get("EXACT_RERUN", ""),
            sharded=get(SHARDED, "") == "true" and processes.count() > 1,
            host=get("HOST", "0.0.0.0"),  # noqa: S104 - a pod listens on its own address
            port=int(get("METRICS_PORT", "5000")),
        )


def _start(folder: str | None, digest: str | None) -> Start | None:
    return Start(Path(folder), digest or "") if folder else None


def main() -> dict[str, Any] | None:
    """Train one adapter. Returns the termination result; None on the helper processes of a multi-GPU run."""
    started = time.monotonic()
    env = Environment.read()
    chief = processes.is_chief()
    if not chief:
        log.setLevel(logging.WARNING)  # one voice is enough
    config = _read_config(env)
    try:
        env.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise contract.file_write_error(error, str(env.output)) from error
    progress = Progress(env.output / "progress.json" if chief else None)
    server = serve(progress, env.host, env.port) if chief else None
    try:
        result = _train(env, config, progress)
    except memory.Again:
        result = None
    finally:
        if server is not None:
            server.shutdown()
    if result is None:
        memory.start_again()
    return {**result, "seconds": round(time.monotonic() - started, 1)} if chief else None


def _read_config(env: Environment) -> TuningConfig:
    try:
        text = env.config.read_text()
    except OSError as error:
        raise UserConfigError(
            f"The training configuration {env.config} cannot be read: {error.strerror}."
        ) from error
    config = parse_config(text, env.method, env.objective)
    for note in config.notes:
        log.info("%s", note)
    return config


def _train(env: Environment, config: TuningConfig, progress: Progress) -> dict[str, Any]:
    hardware = detect()
    log.info("%s", use_threads(hardware))
    progress.stage("loading", f"reading the data and {env.model_id or 'the model'} on {hardware.name}")
    job, data = _prepare(env, config, hardware, progress)
    ran_out = memory.times_noted(env.output, job.identity)
    lighter, notice = memory.reduced(job.recipe, config.training, ran_out)
    job = dataclasses.replace(job, recipe=lighter)
    for reason in job.recipe.reasons:
        log.info("%s", reason)
    if notice:
        progress.notice(notice)
    job = _as_recorded(env, job, data)
    _stop_if_asked("loading")
    quantised = config.method == TuningMethod.QLORA
    if quantised:
        progress.stage("quantising", "the base model to 4 bits while loading")
    try:
        base = model.load_model(
            env.weights,
            config.quantization if quantised else None,
            hardware,
            job.precision,
            sharded=job.sharded,
        )
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserConfigError(recipe.loading_advice(env.model_id, config.method)) from error
        raise
    _stop_if_asked("loading")
    job = _unpacked_if_needed(job, base)
    try:
        found = _fit_and_record(env, job, base, data)
    except Exception as error:
        if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
            _make_room(env, job, ran_out)
            raise memory.Again from error
        if fault := _write_fault(error, env):
            raise fault from error
        raise
    return {**found, **({"memory": notice} if notice else {})}


def _unpacked_if_needed(job: Job, base: Any) -> Job:
    """The job, whose rows are packed only where the model keeps them apart."""
    if not job.recipe.training.get("packing"):
        return job
    from include.workloads.tuning.packed_attention import keeps_rows_apart

    if keeps_rows_apart(base, sharded=job.sharded):
        return job
    chosen = recipe.unpacked(job.recipe, job.config, [len(row["input_ids"]) for row in job.train])
    log.info("%s", chosen.reasons[-1])
    return dataclasses.replace(job, recipe=chosen)


def _as_recorded(env: Environment, job: Job, data: dict[str, Any]) -> Job:
    """The job; of an exact rerun with what it must come out as. UserConfigError where it cannot, before loading."""
    if not env.exact:
        return job
    if job.hardware.device == "cuda":
        exact.make_deterministic()
    before = exact.former(env.output)
    report = record.dataset_report(env.data)
    exact.check(before, record.needed(job, env.config.read_text(), report, data["trained_rows_digest"]))
    log.info("Everything is as the record of the training before says: the same weights have to come out.")
    return dataclasses.replace(job, former=before)


def _fit_and_record(env: Environment, job: Job, base: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The termination result of the training; the record lies beside the adapter then."""
    found, history = fit(job, base)
    found |= {"config_sha256": job.config.sha256, **data}
    if found["adapter"]:
        record.write(job, found, history, env.config.read_text(), env.data)
    return found


def _write_fault(error: Exception, env: Environment) -> contract.WorkloadError | None:
    """The fault of a file that could not be written, whichever library says it; None for any other error."""
    if isinstance(error, contract.WorkloadError):
        return None
    if isinstance(error, OSError):
        return contract.file_write_error(error, f"results to {env.output}", env.output)
    # torch and safetensors write files themselves and tell it in words of their own.
    if any(mark in str(error) for mark in ("No space left", "os error 28", "Disk quota exceeded")) or (
        "file write failed" in str(error) and shutil.disk_usage(env.output).free < contract.NO_ROOM
    ):
        return contract.file_write_error(OSError(errno.ENOSPC, ""), f"results to {env.output}", env.output)
    return None


def _make_room(env: Environment, job: Job, ran_out: int) -> None:
    """Note that the next process needs less memory. UserConfigError when it cannot do with less."""
    training = job.recipe.training
    if memory.lighter(training, job.config.training) is None:
        raise UserConfigError(recipe.memory_advice(training, job.config.method))
    memory.note(env.output, job.identity, ran_out + 1)
    step = job.progress.snapshot.step
    log.warning("Out of memory after step %s: going on from the last checkpoint, with smaller pieces.", step)


def _prepare(
    env: Environment, config: TuningConfig, hardware: Hardware, progress: Progress
) -> tuple[Job, dict[str, Any]]:
    """The job, and what the result says about its rows."""
    precision = choose_precision(hardware, env.dtype or config.model.get("torch_dtype"))
    facts = model.model_facts(env.weights)
    asked_length = config.training.get("max_length")
    if asked_length and facts.context and asked_length > facts.context:
        raise UserConfigError(
            f"TrainingArguments.max_length is {asked_length}, but {env.model_id or 'the model'} reads at most "
            f"{facts.context} tokens."
        )
    tokenizer = model.load_tokenizer(env.weights, config.model.get("chat_template"))
    model.require_tokens(tokenizer, config.training)
    column, values = rows.read_table(env.data)
    found = material.read(config, column, values, tokenizer)
    data = config.dataset
    parts = _split(env, config, found.rows, values)
    train = parts.train
    # Rows that are kept for an evaluation of their own are none of the trainer's business.
    evaluation = parts.held_out if data.get("train_test_split", 1.0) < 1 else []
    chosen = recipe.decide(
        config,
        hardware,
        precision,
        recipe.DataFacts([found.length(row) for row in train]),
        facts,
        env.target_modules,
        sharded=env.sharded,
    )
    if env.start is not None:
        check(env.start, env.model_id, chosen.lora)
    chosen, identity = _as_before(env, config, chosen)
    train, shortened, dropped = found.cut(train, chosen.max_length)
    preferences.require_both(train)
    if evaluation:
        try:
            evaluation = found.cut(evaluation, chosen.max_length)[0]
        except UserDataError as error:
            raise UserDataError(f"Of the {len(evaluation)} rows that are held out: {error}") from error
    count = len(found.rows)
    log.info("%s", found.sentence(shortened, dropped, chosen.max_length))
    rows.check_cut(count, shortened, chosen.max_length, data.get("max_cut_share"))
    rows.check_share(count, dropped, chosen.max_length, data.get("max_dropped_share"))
    told: dict[str, Any] = {"rows": count, "rows_cut": shortened, "rows_dropped": dropped}
    told |= {"rows_held_out": len(parts.held_out), "trained_rows_digest": set_digest(parts.trained_digests)}
    if shortened:
        told["data"] = rows.cut_sentence(count, shortened, dropped, chosen.max_length)
    job = Job(
        config=config,
        recipe=chosen,
        hardware=hardware,
        precision=precision,
        progress=progress,
        tokenizer=tokenizer,
        train=train,
        evaluation=evaluation,
        output=env.output,
        model_id=env.model_id,
        revision=env.revision,
        identity=identity,
        start=env.start,
        sharded=env.sharded,
        weights=env.weights,
    )
    return job, told


def _split(
    env: Environment, config: TuningConfig, tokenised: list[rows.Row], values: list[Any]
) -> rows.Split:
    """Hold rows out, and write down which ones are trained on, for whoever evaluates the adapter."""
    data = config.dataset
    share = max(1 - data.get("train_test_split", 1.0), env.held_out_share)
    shuffle, seed = data.get("shuffle_dataset", True), data.get("shuffle_seed", 42)
    parts = rows.split(tokenised, rows.digests(values), 1 - share, shuffle, seed)
    if parts.held_out:
        log.info("%d of %d rows are held out, by their content.", len(parts.held_out), len(tokenised))
    if processes.is_chief():
        sides = {TRAINED_ROWS_FILE: parts.trained_digests, HELD_OUT_ROWS_FILE: parts.held_out_digests}
        for name, digests in sides.items():
            lines = "".join(f"{digest}\n" for digest in sorted(set(digests)))
            contract.atomic_write(env.output / name, lines.encode())
    return parts


def _as_before(env: Environment, config: TuningConfig, chosen: recipe.Recipe) -> tuple[recipe.Recipe, str]:
    """The recipe with as many sequences an update as the attempts before took, and the identity of its checkpoints."""
    count = processes.count()
    run = _identity(env, config, chosen)
    training, told = processes.as_before(chosen.training, count, processes.noted(env.output, run))
    total = processes.sequences(training, count)
    if processes.is_chief():
        processes.note(env.output, run, total)
    reasons = [*chosen.reasons, *([told] if told else [])]
    settled = dataclasses.replace(chosen, training=training, reasons=reasons)
    return settled, hashlib.sha256(f"{run} {total}".encode()).hexdigest()


def _identity(env: Environment, config: TuningConfig, chosen: recipe.Recipe) -> str:
    """Digest of everything that makes an attempt one of this same run, but for the sizes of its pieces."""
    parts = {
        "config": config.sha256,
        "data": checkpoints.file_sha256(env.data / rows.FILE),
        "model": [env.model_id, env.revision, config.method],
        "training": {key: value for key, value in chosen.training.items() if key not in processes.SIZES},
        "lora": dict(chosen.lora),
        **({"from": env.start.digest} if env.start else {}),
        **({"exact": env.exact} if env.exact else {}),  # it trains from its beginning
        **({"objective": config.objective} if config.objective != Objective.SFT else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stop_if_asked(stage: str) -> None:
    if contract.stop_requested():
        raise TryAgain(f"Stopped while {stage}, before the first step; it can be started again.")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's own error, Python's, or the sentence of torch's CPU allocator."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
    )
