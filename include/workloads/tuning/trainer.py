"""TRL's SFTTrainer with what a pod needs: progress, checkpoints by time, a clean stop, a stop at a broken loss.

On a CPU the loss is computed here (fused/cross_entropy.py): TRL's chunked head scores every position with entropy and
accuracy, and computes the logits again for the backward pass, which took 43 % of a step of SmolLM2-135M on two cores.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl import SFTTrainer

from include.contracts.plural import plural
from include.workloads import contract
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.tuning import checkpoints, losses, owed, sharding
from include.workloads.tuning.chance import Chance
from include.workloads.tuning.fused.cross_entropy import cross_entropy
from include.workloads.tuning.fused.install import plain_head
from include.workloads.tuning.model import peak_memory_bytes
from include.workloads.tuning.progress import Progress
from include.workloads.tuning.rows import IGNORE

#: The last says where packed rows begin (packed_attention.py).
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "cu_seq_lens_q")


class AdapterTraining:
    """What the trainers of all objectives have."""

    tokens = 0
    sharded = False
    chance: Chance | None = None  # after the last whole update
    model: Any
    args: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any
    state: Any
    control: Any
    callback_handler: Any

    def keep_adapter_in_float32(self) -> None:
        """TRL rounds a QLoRA adapter to bfloat16, which a V100 and most CPUs lack; its updates need float32 too."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not getattr(model, sharding.WAITING, False):
            super()._move_model_to_device(model, device)  # type: ignore[misc]

    def shard(self) -> None:
        """Shard the model over all processes, before there is an optimizer; each of them must call this."""
        sharding.shard(self.model, self.args.device)
        self.sharded = True
        # The Trainer's word for a model that has its own placement and gradient reduction: no DDP around it.
        self.is_distributed_loading_by_transformers = True

    def _defer_fsdp_gradient_reduction(self) -> Any:
        """Gradients are reduced after every piece of an update: kept back, each GPU would hold them whole."""
        return nullcontext()

    def require_a_batch(self) -> None:
        """UserDataError when the rows fill no batch and such a batch is left out: nothing would be trained."""
        sequences = len(self.train_dataset)
        batch = self.args.per_device_train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and sequences < batch:
            raise UserDataError(
                f"The rows make {plural(sequences, 'sequence')}, fewer than the {batch} of "
                "one batch, and TrainingArguments.dataloader_drop_last leaves out a batch that is not full: set it to "
                "false, or per_device_train_batch_size lower."
            )

    def require_numbers(self, step: int) -> None:
        """UserConfigError when a weight of the adapter is no number, whether a loss has told so or not.

        The losses are only told as often as the config says, and never of the last update; every process must call
        this.
        """
        weights = (one.detach() for one in self.model.parameters() if one.requires_grad)
        whole = all(torch.isfinite(sharding.own_part(one)).all() for one in weights)
        if _any_rank(not whole):
            raise _not_a_number("The weights of the adapter are not numbers", step, self.args)

    def adapter_weights(self) -> dict[str, Any] | None:
        """The whole adapter of a sharded model, else None; every process must call this."""
        return sharding.whole_adapter(self.model) if self.sharded else None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer; that of a sharded model takes its slices of a state that was saved whole."""
        try:
            made = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        except (ValueError, TypeError) as error:
            raise _refused(error) from error
        if self.sharded:
            made.register_load_state_dict_pre_hook(sharding.slice_state)
        return made

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *others: Any, **options: Any
    ) -> None:
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *others, **options)  # type: ignore[misc]
        except owed.EvaluationStopped:
            self._checkpoint()
            self.control.should_evaluate, self.control.should_training_stop = False, True
        if self.args.gradient_accumulation_steps > 1:
            self.chance = Chance.now()

    def _checkpoint(self) -> None:
        self._save_checkpoint(self.model, None)  # type: ignore[attr-defined]
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def save_last_update(self) -> None:
        """A checkpoint of the last whole update, within the next one; every process must call this.

        What the next has accumulated is thrown away, and the next attempt repeats it with the same dropout.
        """
        if self.chance is not None:
            self.chance.restore()
        self._checkpoint()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter of a checkpoint, in one piece whatever the number of processes."""
        if not self.sharded:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        weights = self.adapter_weights()
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)  # type: ignore[attr-defined]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        state = sharding.whole_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule, whose warm-up ends before the last step: else one step learns nothing, and some divide by 0."""
        if self.args.get_warmup_steps(num_training_steps) >= num_training_steps:
            self.args.warmup_steps = num_training_steps - 1
        try:
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        except (ValueError, TypeError) as error:
            raise _refused(error) from error


class AdapterTrainer(AdapterTraining, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that counts its tokens and, on a CPU, scores only the positions that have a label."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over the labelled tokens of the whole accumulated batch."""
        if model.training:
            real = inputs.get("attention_mask")  # packed batches have none, and no padding either
            self.tokens += int(inputs["input_ids"].numel() if real is None else real.sum())
        if return_outputs or (head := self._head) is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")[:, 1:]
        wanted = labels != IGNORE
        base = self.accelerator.unwrap_model(model).get_base_model()
        hidden = base.base_model(**_model_inputs(inputs), use_cache=False).last_hidden_state[:, :-1]
        count = wanted.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return cross_entropy(hidden[wanted], head.weight, head.bias, labels[wanted]) / count.clamp(min=1)

    @cached_property
    def _head(self) -> Any:
        """The layer that makes the scores, where the loss can be computed from what it is given; else None."""
        alone = self.args.device.type == "cpu" and self.args.world_size == 1  # DDP must see the forward pass
        others = self.label_smoother or self.compute_loss_func or self.aux_loss_enabled
        if not alone or others or self.args.loss_type != "nll":
            return None
        return plain_head(self.accelerator.unwrap_model(self.model).get_base_model())


def _model_inputs(inputs: Any) -> dict[str, Any]:
    return {key: inputs[key] for key in MODEL_INPUTS if key in inputs}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports each step, asks for a checkpoint when one is due, stops on SIGTERM, and when the losses say so."""

    def __init__(
        self, progress: Progress, identity: str, save_every_seconds: float, patience: losses.Patience
    ) -> None:
        self.progress = progress
        self.patience = patience
        self.identity = identity
        self.save_every_seconds = save_every_seconds
        self.trainer: AdapterTraining | None = None
        self.stopped = False
        self.owes = False  # an evaluation, of the last checkpoint
        self._within = False  # it was stopped within an update
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._logged_loss: float | None = None
        self._learning_rate: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at, self._saved_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            self.progress.begin(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logged = logs or {}
        evaluated = float(logged.get("eval_loss", math.nan))
        if math.isfinite(evaluated) and state.is_world_process_zero:
            self.progress.evaluated(evaluated, losses.rewards(logged))
        # The mean of all, told once at the end, has a fault in it of a step whose own loss was never told.
        if not all(math.isfinite(logged.get(key, 0.0)) for key in ("loss", "train_loss")):
            raise _not_a_number("The loss is not a number", state.global_step, args)
        if "loss" not in logged:
            return
        self._logged_loss, self._learning_rate = float(logged["loss"]), logged.get("learning_rate")
        if grown := losses.diverged(state.log_history):
            raise UserConfigError(
                f"The training has diverged: the loss was {grown[0]:.2f} at the start and is {grown[1]:.2f} over the "
                f"last {losses.WINDOW} reports, at step {state.global_step}. Set TrainingArguments.learning_rate lower "
                f"(it is {args.learning_rate:g}), or warmup_steps higher."
            )
        self._report(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        # The checkpoint of this step lacks the evaluation, unless one is written after it.
        self._saved_step = -1
        if not math.isfinite(float((metrics or {}).get("eval_loss", 0.0))):
            raise UserConfigError(
                f"The loss on the held-out rows is not a number after step {state.global_step}: set "
                f"TrainingArguments.learning_rate lower (it is {args.learning_rate:g})."
            )
        if self.patience.is_over(state.log_history):
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _any_rank(contract.stop_requested()):
            self.stopped = True
            control.should_training_stop = True
        if not control.should_log:  # else the step is reported with its loss
            self._report(state)
        due = time.monotonic() - self._saved_at > self.save_every_seconds
        if self.stopped or (_any_rank(due) and state.global_step < state.max_steps):
            control.should_save = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A stop waits for no more pieces of an update, of which a long one outlasts the pod's grace."""
        if _any_rank(contract.stop_requested()):
            self.stopped = self._within = control.should_training_stop = True
            if self.trainer is not None and state.global_step > max(self._saved_step, 0):
                self.trainer.save_last_update()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A stop ends the epoch too, which is no reason to look at the held-out rows in its middle."""
        if self.stopped:
            whole = float(state.epoch or 0.0).is_integer() and not self._within
            control.should_evaluate, control.should_save = control.should_evaluate and whole, False

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a stop an evaluation begins, which is all that later numbers of chance hang on, and goes no further."""
        if _any_rank(contract.stop_requested()):
            self.stopped = self.owes = True
            raise owed.EvaluationStopped

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at, self._saved_step = time.monotonic(), state.global_step
        if self.trainer is not None:
            self.trainer.require_numbers(state.global_step)  # a retry must not go on from others
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            if self.owes:
                owed.note(folder)
            checkpoints.mark_complete(folder, self.identity)

    def _report(self, state: Any) -> None:
        if state.is_world_process_zero and self.trainer is not None:
            tokens = self.trainer.tokens * max(1, self.trainer.args.world_size)
            memory = peak_memory_bytes(self.trainer.args.device.type)
            self.progress.update(
                state.global_step, self._logged_loss, tokens, state.epoch or 0.0, self._learning_rate, memory
            )


def _refused(error: Exception) -> UserConfigError:
    return UserConfigError(f"The libraries refuse the training configuration: {error}")


def _not_a_number(what: str, step: int, args: Any) -> UserConfigError:
    return UserConfigError(
        f"{what} after step {step}: set TrainingArguments.learning_rate lower (it is {args.learning_rate:g}), or "
        "warmup_steps higher."
    )


def _any_rank(flag: bool) -> bool:
    """Whether any process of a data parallel run says so: all must save and stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = "cuda" if torch.cuda.is_available() else "cpu"
    votes = torch.tensor([int(flag)], device=device)
    torch.distributed.all_reduce(votes)
    return bool(votes.item())
