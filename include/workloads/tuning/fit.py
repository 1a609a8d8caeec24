"""Trains the adapter on a loaded base model, resuming where a former attempt stopped, and saves it.

Only the adapter is saved, as safetensors, under its final name only when it is whole. The base model is never written.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.contracts import weight_init
from include.contracts.adapter_keys import ADAPTER_FOLDER
from include.contracts.methods import Objective, TuningMethod
from include.contracts.training_defaults import EARLY_STOPPING_PATIENCE, EARLY_STOPPING_THRESHOLD
from include.workloads.contract import TryAgain, UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import checkpoints, exact, losses, owed
from include.workloads.tuning.config import TuningConfig
from include.workloads.tuning.model import peak_memory_bytes, rounding
from include.workloads.tuning.progress import Progress
from include.workloads.tuning.recipe import Recipe
from include.workloads.tuning.rows import Row
from include.workloads.tuning.start import Start, load
from include.workloads.tuning.targets import adaptable

if TYPE_CHECKING:
    from include.workloads.tuning.beginning import Beginning

log = logging.getLogger("workload")

#: What adapter_config.json always says, default or not.
ALWAYS = frozenset(
    (
        *("base_model_name_or_path", "revision", "peft_type", "task_type", "inference_mode"),
        *("r", "lora_alpha", "lora_dropout", "bias", "target_modules"),
    )
)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Keys that no class of arguments has, or that tokenising has already dealt with.
OURS = ("assistant_only_loss", EARLY_STOPPING_PATIENCE, EARLY_STOPPING_THRESHOLD)


@dataclass(frozen=True)
class Job:
    """Everything that training needs beside the loaded model."""

    config: TuningConfig
    recipe: Recipe
    hardware: Hardware
    precision: Precision
    progress: Progress
    tokenizer: Any
    train: list[Row]
    evaluation: list[Row]
    output: Path
    model_id: str
    revision: str
    identity: str
    start: Start | None = None
    former: Mapping[str, Any] | None = None  # the record that an exact rerun must come to again
    sharded: bool = False  # the base model is too large for one GPU
    weights: Path = Path()  # the base model's files

    @property
    def beginning(self) -> Beginning:
        """How its adapter begins."""
        from include.workloads.tuning.beginning import Beginning

        quantised = self.config.method == TuningMethod.QLORA
        return Beginning(
            self.output,
            self.identity,
            self.recipe.lora,
            self.weights if quantised else None,
            rounding(self.config.quantization, self.precision) if quantised else None,
        )


def fit(job: Job, base: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train and save; returns the termination result without its wall time, and the trainer's log.

    Raises TryAgain after SIGTERM, once a checkpoint is written.
    """
    from include.workloads.tuning.fused.install import install
    from include.workloads.tuning.tracking import watchers
    from include.workloads.tuning.trainer import Watch

    training = job.recipe.training
    patience = losses.Patience(
        training.get(EARLY_STOPPING_PATIENCE) or 0, training.get(EARLY_STOPPING_THRESHOLD) or 0.0
    )
    watch = Watch(job.progress, job.identity, job.recipe.save_every_seconds, patience)
    trainer = build_trainer(job, base, watch)
    watch.trainer = trainer
    trainer.require_a_batch()
    trainable = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    log.info("%s trainable parameters in the adapter (rank %s).", f"{trainable:,}", job.recipe.lora["r"])
    accelerator = trainer.accelerator
    job.beginning.settle(
        accelerator.unwrap_model(trainer.model),
        trainer.args.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    if job.hardware.device == "cpu" and not job.sharded:
        install(accelerator.unwrap_model(trainer.model))
    choice = checkpoints.latest_complete(job.output / "checkpoints", job.identity)
    if trainer.is_world_process_zero():
        for watcher in watchers(job.output, choice.step):
            trainer.add_callback(watcher)
    for skipped in choice.skipped:
        log.info("Passing over %s.", skipped)
    started = time.monotonic()
    try:
        _train(job, trainer, choice, patience)
    except owed.EvaluationStopped as stop:
        raise TryAgain("Stopped before the next step, while looking at the held-out rows.") from stop
    seconds = time.monotonic() - started
    state = trainer.state
    early = state.global_step < state.max_steps and patience.is_over(state.log_history)
    if watch.owes or (watch.stopped and state.global_step < state.max_steps and not early):
        raise TryAgain(
            f"Stopped at step {state.global_step} of {state.max_steps}; a checkpoint is saved and the next attempt "
            "resumes there."
            if state.global_step
            else f"Stopped within the first of {state.max_steps} steps; it can be started again."
        )
    trainer.require_numbers(state.global_step)
    if early:
        log.info("After step %s of %s: %s.", state.global_step, state.max_steps, patience.sentence())
    job.progress.stage("saving", f"the adapter to {job.output / 'adapter'}")
    weights = trainer.adapter_weights()
    adapter = save_adapter(job, trainer, weights) if trainer.is_world_process_zero() else {}
    trainer.accelerator.wait_for_everyone()
    job.progress.stage("done", f"{state.global_step} steps in {seconds:.0f} s")
    trained = [round(loss, 4) for loss in losses.training_losses(state.log_history)]
    found = {
        "steps": state.global_step,
        "epochs": round(state.epoch or 0.0, 3),
        "loss_first": trained[0] if trained else None,
        "loss_last": trained[-1] if trained else None,
        "tokens": trainer.tokens * trainer.args.world_size,
        "tokens_per_second": round(trainer.tokens * trainer.args.world_size / seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(job.hardware.device),
        "device": job.hardware.name,
        "dtype": job.precision.dtype,
        "adapter": adapter,
        "resumed_from_step": choice.step,
        **({"from": job.start.digest or str(job.start.folder)} if job.start else {}),
        **({"objective": job.config.objective} if job.config.objective != Objective.SFT else {}),
        **_evaluated(trainer),
        **({"stopped_early": patience.sentence()} if early else {}),
    }
    return found, state.log_history


def _train(job: Job, trainer: Any, choice: checkpoints.Choice, patience: losses.Patience) -> None:
    """All steps that are left, from the checkpoint of an attempt before where there is one."""
    path = choice.path
    if path is not None:
        trainer.args.eval_on_start = False  # it started before
        if owed.is_owed(path):
            _take(trainer, path, path)
            owed.settle(trainer, path, job.identity)
    if path is not None and _is_the_last(path, patience):
        log.info("All %s steps were done before: only what follows them is left.", choice.step)
        _take(trainer, path, _chosen(trainer, path))
        if trainer.is_world_process_zero():
            job.progress.begin(trainer.state.global_step, trainer.state.max_steps)
        return
    if path is not None:
        log.info("Resuming from step %s.", choice.step)
    elif job.start is not None:
        load(job.start, trainer.accelerator.unwrap_model(trainer.model))
    trainer.train(resume_from_checkpoint=str(path) if path else None)


def _state(checkpoint: Path) -> Any:
    from transformers import TrainerState

    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def _is_the_last(checkpoint: Path, patience: losses.Patience) -> bool:
    """Whether nothing is left to train after a checkpoint; the trainer would take one more step."""
    state = _state(checkpoint)
    return bool(state.global_step >= state.max_steps > 0) or patience.is_over(state.log_history)


def _chosen(trainer: Any, checkpoint: Path) -> Path:
    """The checkpoint whose weights are kept at the end of a training that ended with this one."""
    best = _state(checkpoint).best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return Path(best) if best else checkpoint


def _take(trainer: Any, checkpoint: Path, weights: Path) -> None:
    """Give the trainer what it had at a checkpoint, with the weights of one, without training."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    trainer.state = _state(checkpoint)
    set_peft_model_state_dict(trainer.accelerator.unwrap_model(trainer.model), load_file(weights / WEIGHTS))


def _evaluated(trainer: Any) -> dict[str, Any]:
    """The loss on the held-out rows of the adapter that is saved, and the step that it is of, where it is the best."""
    found = losses.held_out_losses(trainer.state.log_history)
    if not found:
        return {}
    entries = {entry["step"]: entry for entry in trainer.state.log_history if "eval_loss" in entry}
    if trainer.args.load_best_model_at_end and (best := losses.best(found)):
        log.info("The adapter of step %s is kept: its loss on the held-out rows is the lowest (%.4f).", *best)
        return {
            "loss_evaluation": round(best[1], 4),
            "best_step": best[0],
            **losses.rewards(entries[best[0]]),
        }
    step, loss = found[-1]
    return {"loss_evaluation": round(loss, 4), **losses.rewards(entries[step])}


def build_trainer(job: Job, base: Any, watch: Any) -> Any:
    """TRL's trainer over the tokenised rows; settings that peft or trl refuse become the user's sentence."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback

    from include.workloads.tuning import scores

    training = {key: value for key, value in job.recipe.training.items() if key not in OURS}
    if job.evaluation:
        training.setdefault("eval_strategy", "epoch")
        training.setdefault("per_device_eval_batch_size", training["per_device_train_batch_size"])
    else:
        training |= {"eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False}
    fixed = {
        "output_dir": str(job.output / "checkpoints"),
        "report_to": "none",  # include.workloads.tuning.tracking does
        "run_name": os.environ.get("RUN_NAME") or job.model_id or None,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "use_cpu": job.hardware.device == "cpu",
        "dataloader_pin_memory": job.hardware.device == "cuda",
        # It balances a router, which an adapter leaves as it is; and TRL's does not know Granite's.
        "router_aux_loss_coef": 0.0,
    }
    trainer_of, arguments_of = _classes(job.config.objective)
    lora = weight_init.plain(job.recipe.lora)
    lora["target_modules"] = adaptable(base, lora["target_modules"])
    try:
        trainer = trainer_of(
            model=base,
            args=arguments_of(**{"logging_steps": 1, **training, **fixed}),
            train_dataset=Dataset.from_list(job.train),
            eval_dataset=Dataset.from_list(job.evaluation) if job.evaluation else None,
            processing_class=job.tokenizer,
            peft_config=LoraConfig(**lora),
            callbacks=[watch],
        )
    except (ValueError, TypeError) as error:
        raise UserConfigError(f"The libraries refuse the training configuration: {error}") from error
    trainer.keep_adapter_in_float32()
    if job.sharded:
        trainer.shard()
    scores.settle(trainer.accelerator.unwrap_model(trainer.model))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _classes(objective: str) -> tuple[Any, Any]:
    """The trainer of an objective, and the class of its arguments."""
    import trl

    from include.workloads.tuning import trainer

    if objective == Objective.SFT:
        return trainer.AdapterTrainer, trl.SFTConfig
    from include.workloads.tuning import preference_trainer

    if objective == Objective.DPO:
        return preference_trainer.PairTrainer, trl.DPOConfig
    return preference_trainer.MarkedTrainer, trl.KTOConfig


def save_adapter(job: Job, trainer: Any, trained: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write adapter_config.json and adapter_model.safetensors, nothing else; returns path, sha256 and bytes.

    The configuration names the model and its revision instead of a path in this pod, its lists are sorted, and it says
    what is not a default, so that the same adapter always gives the same bytes and older versions of PEFT read it.

    :param trained: the whole weights of an adapter that is sharded; None where the model has them.
    """
    from safetensors.torch import load_file, save_file

    final = job.output / ADAPTER_FOLDER
    draft = job.output / ".adapter.new"
    shutil.rmtree(draft, ignore_errors=True)
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(
        draft, state_dict=trained, save_embedding_layers=False
    )
    config = lean(json.loads((draft / CONFIG).read_text()), _defaults())
    if (beginning := job.beginning).asked:
        config = beginning.converted(config)
        save_file(
            beginning.difference(load_file(draft / WEIGHTS)), draft / WEIGHTS, metadata={"format": "pt"}
        )
    config["base_model_name_or_path"] = job.model_id or None
    config["revision"] = job.revision or None
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    if job.former is not None:
        exact.require_same(job.former, checkpoints.file_sha256(draft / WEIGHTS), job.hardware.device)
    (draft / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in draft.iterdir():
        if path.name not in (WEIGHTS, CONFIG):
            path.unlink()
    former = job.output / ".adapter.old"
    shutil.rmtree(former, ignore_errors=True)
    if final.exists():
        final.rename(former)
    draft.rename(final)
    shutil.rmtree(former, ignore_errors=True)
    weights = final / WEIGHTS
    return {
        "path": str(final),
        "sha256": checkpoints.file_sha256(weights),
        "bytes": weights.stat().st_size,
    }


def lean(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's configuration without the keys that only repeat the library's defaults.

    Each version of PEFT knows more keys, and refuses an adapter with one that it does not know: KAITO's (0.11.1)
    refuses `alora_invocation_tokens: null`. What every reader of adapters asks for is always there.
    """
    return {key: value for key, value in config.items() if key in ALWAYS or value != defaults.get(key)}


def _defaults() -> dict[str, Any]:
    """PEFT's own defaults, as they look in a file. Its version is none of them, and says nothing about the adapter."""
    from peft import LoraConfig

    known: dict[str, Any] = json.loads(json.dumps(LoraConfig().to_dict(), default=list))
    return known
