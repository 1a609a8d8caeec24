"""The keys of `training_config.yaml`: which exist, which have no effect, which are refused and why, and their limits.

One table for `check`, the preflight and the trainer: whatever a later step refuses (libraries, push, serving) is
refused here, before a GPU is paid for. Names, types and choices come from the libraries' own classes, written to
training_keys.yaml by `python -m include.workloads.tuning.describe`; a test compares, and another one walks every key
through a training, the adapter's check and serving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from include.contracts import preference_keys, weight_init
from include.contracts.adapter_keys import INITS, MAX_RANK, MUST_BE_NEUTRAL
from include.contracts.methods import OBJECTIVES, Objective
from include.contracts.optimizers import OPTIMIZERS

FILE = Path(__file__).with_name("training_keys.yaml")
SECTIONS = (
    "ModelConfig",
    "QuantizationConfig",
    "LoraConfig",
    "TrainingArguments",
    "DatasetConfig",
    "DataCollator",
)

_WEIGHTS = "the weights are the preset's, already in the pod"
_STEP = "the dataset step has already read, mapped and merged all files into one table"
_HUB = "nothing is pushed to a hub; the adapter is published as an image"
_LOADER = "rows are few and in memory, so they are loaded in the training process"
_RANKS = "ranks are set by the launcher"
_CARRY_ON = "this trainer resumes by itself from its last complete checkpoint"

# Section.key -> what is done instead; the value has no effect.
IGNORED: Mapping[str, str] = {
    "ModelConfig.pretrained_model_name_or_path": _WEIGHTS,
    "ModelConfig.local_files_only": "nothing is ever downloaded here",
    "ModelConfig.device_map": "the trainer places the model itself",
    "ModelConfig.revision": _WEIGHTS,
    "ModelConfig.force_download": _WEIGHTS,
    "ModelConfig.cache_dir": _WEIGHTS,
    "ModelConfig.output_loading_info": "loading is logged anyway",
    "ModelConfig.low_cpu_mem_usage": "transformers always loads this way today",
    "QuantizationConfig.quant_method": "bitsandbytes is the only method here",
    "LoraConfig.peft_type": "the adapter is always a LoRA",
    "LoraConfig.task_type": "the model is always a causal one",
    "LoraConfig.peft_version": "it is the trainer's own",
    "LoraConfig.base_model_name_or_path": _WEIGHTS,
    "LoraConfig.revision": _WEIGHTS,
    "DataCollator.mlm": "a causal model has no masked-token objective, so it is off",
    "DataCollator.mlm_probability": "a causal model has no masked-token objective",
    "DataCollator.pad_to_multiple_of": "rows are packed, not padded",
    "DataCollator.return_tensors": "batches are always PyTorch tensors",
    "DataCollator.tf_experimental_compile": "there is no TensorFlow here",
    "DatasetConfig.dataset_path": _STEP,
    "DatasetConfig.dataset_extension": _STEP,
    "TrainingArguments.output_dir": "results always go to the work volume ($OUTPUT_DIR)",
    "TrainingArguments.overwrite_output_dir": _CARRY_ON,
    "TrainingArguments.resume_from_checkpoint": _CARRY_ON,
    "TrainingArguments.ignore_data_skip": _CARRY_ON,
    "TrainingArguments.report_to": "TensorBoard files are written; kaito.sh/tracking-secret names other trackers",
    "TrainingArguments.run_name": "the run is named by its Workspace",
    "TrainingArguments.logging_dir": "progress is served at /progress and /metrics",
    "TrainingArguments.disable_tqdm": "progress is one log line a second at most",
    "TrainingArguments.save_safetensors": "adapters are always saved as safetensors",
    "TrainingArguments.push_to_hub": _HUB,
    "TrainingArguments.hub_model_id": _HUB,
    "TrainingArguments.hub_strategy": _HUB,
    "TrainingArguments.hub_private_repo": _HUB,
    "TrainingArguments.hub_always_push": _HUB,
    "TrainingArguments.hub_revision": _HUB,
    "TrainingArguments.do_train": "this program trains",
    "TrainingArguments.do_eval": "evaluation runs when DatasetConfig.train_test_split is below 1",
    "TrainingArguments.do_predict": "this program trains",
    "TrainingArguments.local_rank": _RANKS,
    "TrainingArguments.ddp_backend": _RANKS,
    "TrainingArguments.dataloader_num_workers": _LOADER,
    "TrainingArguments.dataloader_persistent_workers": _LOADER,
    "TrainingArguments.dataloader_prefetch_factor": _LOADER,
    "TrainingArguments.dataloader_multiprocessing_context": _LOADER,
    "TrainingArguments.dataloader_in_order": _LOADER,
    "TrainingArguments.dataloader_pin_memory": "memory is pinned wherever there is a GPU",
    "TrainingArguments.greater_is_better": "the best is the lowest loss on the held-out rows",
    "TrainingArguments.trackio_bucket_id": "progress is served at /progress and /metrics",
    "TrainingArguments.trackio_space_id": "progress is served at /progress and /metrics",
    "TrainingArguments.trackio_static_space_id": "progress is served at /progress and /metrics",
    "TrainingArguments.project": "progress is served at /progress and /metrics",
    "TrainingArguments.no_cuda": "a GPU is used wherever there is one",
    "TrainingArguments.use_cpu": "a GPU is used wherever there is one",
    "TrainingArguments.shuffle_dataset": "DatasetConfig.shuffle_dataset decides",
    "TrainingArguments.remove_unused_columns": "the trainer's input is already tokenised",
    "TrainingArguments.dataset_text_field": _STEP,
    "TrainingArguments.dataset_num_proc": "rows are tokenised in one process",
    "TrainingArguments.completion_only_loss": "use assistant_only_loss: rows are chat messages or plain text",
    "TrainingArguments.logging_nan_inf_filter": "a loss that is not a number always stops the run",
}

_VARIANT = "this trainer makes plain LoRA adapters only"
_VARIANTS = (
    "arrow_config",
    "corda_config",
    "eva_config",
    "kasa_config",
    "lora_ga_config",
    "megatron_core",
    "monteclora_config",
    "velora_config",
)

_COMPILER = "compiling needs a C compiler, which the pod image does not have"
_LIGER = "use_liger_kernel alone chooses the kernels that fit the model"

_PARALLEL = (
    "how the GPUs of a machine share a training is the plan's to choose: data parallel, or sharded (FSDP)"
)

# Section.key -> why not. A neutral value (false, empty) of such a key is fine.
REFUSED: Mapping[str, str] = {
    "ModelConfig.trust_remote_code": "code that comes with a model is never run; choose a preset without it",
    "ModelConfig.state_dict": "weights come as safetensors from the preset only",
    "ModelConfig.proxies": "nothing is downloaded here, so there is no proxy to use",
    "TrainingArguments.trust_remote_code": "code that comes with a model is never run",
    "TrainingArguments.hub_token": "secrets do not belong in a ConfigMap; take it out and revoke it",
    "TrainingArguments.deepspeed": _PARALLEL,
    "TrainingArguments.fsdp": _PARALLEL,
    "TrainingArguments.fsdp_config": _PARALLEL,
    "TrainingArguments.parallelism_config": _PARALLEL,
    "TrainingArguments.model_init_kwargs": "set ModelConfig keys instead",
    "TrainingArguments.dataset_kwargs": "set DatasetConfig keys instead",
    "TrainingArguments.accelerator_config": _PARALLEL,
    "TrainingArguments.activation_offloading": "use gradient_checkpointing, which saves the same memory",
    "TrainingArguments.optim_target_modules": "none of the optimizers here takes it",
    "TrainingArguments.debug": "a loss that is not a number stops the run anyway",
    "QuantizationConfig.llm_int8_enable_fp32_cpu_offload": "weights never leave the GPU",
    "TrainingArguments.chat_template_path": "set ModelConfig.chat_template to the template's text instead",
    "TrainingArguments.torch_compile": _COMPILER,
    "TrainingArguments.torch_compile_backend": _COMPILER,
    "TrainingArguments.torch_compile_mode": _COMPILER,
    "TrainingArguments.liger_kernel_config": _LIGER,
    "TrainingArguments.router_aux_loss_coef": "it balances a router, and an adapter leaves the model's router as it is",
    "LoraConfig.inference_mode": "an adapter in inference mode does not learn",
    **{f"LoraConfig.{key}": why for key, why in MUST_BE_NEUTRAL.items()},
    **{f"LoraConfig.{key}": _VARIANT for key in _VARIANTS},
}

RENAMED: Mapping[str, str] = {
    "ModelConfig.dtype": "torch_dtype",
    "TrainingArguments.evaluation_strategy": "eval_strategy",
    "TrainingArguments.max_seq_length": "max_length",
    "TrainingArguments.warmup_ratio": "warmup_steps",
    "TrainingArguments.per_gpu_train_batch_size": "per_device_train_batch_size",
}

_FLOATS = ("bfloat16", "float16", "float32")
_STRATEGY = ("epoch", "no", "steps")
_LOG_LEVELS = ("critical", "debug", "error", "info", "passive", "warning")


@dataclass(frozen=True)
class Scheduler:
    """What lr_scheduler_kwargs may hold for a schedule, and what of it there must be (one of `needs`)."""

    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


_FLOOR = frozenset({"min_lr", "min_lr_rate"})
#: Schedules that run without an evaluation, and their own settings (transformers.optimization.get_*_schedule).
SCHEDULERS: Mapping[str, Scheduler] = {
    "constant": Scheduler(),
    "constant_with_warmup": Scheduler(),
    "cosine": Scheduler(frozenset({"num_cycles"})),
    "cosine_warmup_with_min_lr": Scheduler(_FLOOR | {"num_cycles", "warmup_lr_rate"}, _FLOOR),
    "cosine_with_min_lr": Scheduler(_FLOOR | {"num_cycles"}, _FLOOR),
    "cosine_with_restarts": Scheduler(frozenset({"num_cycles"})),
    "inverse_sqrt": Scheduler(frozenset({"timescale"})),
    "linear": Scheduler(),
    "polynomial": Scheduler(frozenset({"lr_end", "power"})),
    "warmup_stable_decay": Scheduler(
        frozenset(
            {"num_decay_steps", "num_stable_steps", "min_lr_ratio", "num_cycles", "warmup_type", "decay_type"}
        ),
        frozenset({"num_decay_steps"}),
    ),
}
# Narrower than the libraries' own: what the trainer, the machine image and serving can do.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "ModelConfig.torch_dtype": ("auto", *_FLOATS, *(f"torch.{name}" for name in _FLOATS)),
    "QuantizationConfig.bnb_4bit_quant_type": ("fp4", "nf4"),
    "QuantizationConfig.bnb_4bit_compute_dtype": (*_FLOATS, *(f"torch.{name}" for name in _FLOATS)),
    "QuantizationConfig.bnb_4bit_quant_storage": (
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "int8",
        "uint8",
    ),
    "LoraConfig.init_lora_weights": tuple(sorted(INITS | weight_init.INITS)),
    "TrainingArguments.optim": tuple(OPTIMIZERS),
    "TrainingArguments.lr_scheduler_type": tuple(SCHEDULERS),
    "TrainingArguments.log_level": _LOG_LEVELS,
    "TrainingArguments.log_level_replica": _LOG_LEVELS,
    "TrainingArguments.save_strategy": _STRATEGY,
    "TrainingArguments.eval_strategy": _STRATEGY,
    "TrainingArguments.logging_strategy": _STRATEGY,
    "TrainingArguments.loss_type": ("dft", "nll"),
    "TrainingArguments.metric_for_best_model": ("eval_loss", "loss"),
    "TrainingArguments.packing_strategy": ("bfd", "bfd_split", "wrapped"),
    "TrainingArguments.train_sampling_strategy": ("group_by_length", "random", "sequential"),
    "TrainingArguments.truncation_mode": ("keep_start",),  # rows that are too long are cut at their end
    "TrainingArguments.include_num_input_tokens_seen": ("all", "false", "no", "non_padding", "true"),
    "DatasetConfig.preference_data": ("chosen", "refuse"),
}


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes: from `low` to `high`, with or without the ends, and `also`.

    Those above `whole_above` must be whole.
    """

    words: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[float, ...] = ()
    whole_above: float = math.inf

    def holds(self, value: object) -> bool:
        """Whether a value is in range; what is no number is not judged here."""
        if isinstance(value, bool) or not isinstance(value, int | float) or value in self.also:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (value <= self.whole_above or value == int(value))


_POSITIVE = Range("must be above 0", 0, open_low=True)
_AT_LEAST_ONE = Range("must be 1 or more", 1)
_NOT_NEGATIVE = Range("must be 0 or more", 0)
_SHARE = Range("must be at least 0 and below 1", 0, 1, open_high=True)
_STEPS = Range(
    "must be above 0: below 1 a share of all steps, else a whole number of them",
    0,
    open_low=True,
    whole_above=1,
)

LIMITS: Mapping[str, Range] = {
    "LoraConfig.r": Range(f"must be from 1 to {MAX_RANK}, the largest rank that can be served", 1, MAX_RANK),
    "LoraConfig.lora_alpha": _POSITIVE,
    "LoraConfig.lora_dropout": _SHARE,
    "DatasetConfig.train_test_split": Range(
        "must be above 0 and at most 1 (1 = all rows train, none evaluate)", 0, 1, open_low=True
    ),
    "DatasetConfig.max_dropped_share": Range(
        "must be at least 0 and at most 1 (0.5 = half of the rows may be unusable)", 0, 1
    ),
    "DatasetConfig.max_cut_share": Range("must be at least 0 and at most 1 (0.05 = one row in twenty)", 0, 1),
    "DatasetConfig.max_duplicate_share": Range(
        "must be at least 0 and at most 1 (0.05 = one row in twenty)", 0, 1
    ),
    "TrainingArguments.learning_rate": Range(
        "must be above 0 and below 1", 0, 1, open_low=True, open_high=True
    ),
    "TrainingArguments.num_train_epochs": _POSITIVE,
    "TrainingArguments.max_steps": Range(
        "must be 1 or more (-1 = as many as the epochs give)", 1, also=(-1,)
    ),
    "TrainingArguments.per_device_train_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.per_device_eval_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.gradient_accumulation_steps": _AT_LEAST_ONE,
    "TrainingArguments.warmup_steps": _NOT_NEGATIVE,
    "TrainingArguments.weight_decay": _NOT_NEGATIVE,
    "TrainingArguments.max_grad_norm": _NOT_NEGATIVE,
    "TrainingArguments.adam_beta1": _SHARE,
    "TrainingArguments.adam_beta2": _SHARE,
    "TrainingArguments.adam_epsilon": _NOT_NEGATIVE,
    "TrainingArguments.max_length": Range("must be 16 tokens or more", 16),
    "TrainingArguments.save_total_limit": _AT_LEAST_ONE,
    "TrainingArguments.save_steps": _STEPS,
    "TrainingArguments.logging_steps": _STEPS,
    "TrainingArguments.eval_steps": _STEPS,
    "TrainingArguments.eval_delay": _NOT_NEGATIVE,
    "TrainingArguments.eval_accumulation_steps": _AT_LEAST_ONE,
    "TrainingArguments.torch_empty_cache_steps": _AT_LEAST_ONE,
    "TrainingArguments.label_smoothing_factor": _SHARE,
    "TrainingArguments.neftune_noise_alpha": _NOT_NEGATIVE,
    "TrainingArguments.seed": Range("must be from 0 to 4294967295", 0, 2**32 - 1),
    "TrainingArguments.early_stopping_patience": _AT_LEAST_ONE,
    "TrainingArguments.early_stopping_threshold": _NOT_NEGATIVE,
    "TrainingArguments.beta": _POSITIVE,
    "TrainingArguments.label_smoothing": Range("must be at least 0 and below 0.5", 0, 0.5, open_high=True),
    "TrainingArguments.ld_alpha": Range("must be from 0 to 1", 0, 1),
    "TrainingArguments.discopop_tau": _POSITIVE,
    "TrainingArguments.f_alpha_divergence_coef": _POSITIVE,
    "TrainingArguments.desirable_weight": _POSITIVE,
    "TrainingArguments.undesirable_weight": _POSITIVE,
}


@cache
def _described() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


#: Narrower than the libraries' types, whose other values end in an error.
_KINDS = {"TrainingArguments.pad_to_multiple_of": "int|null", "LoraConfig.loftq_config": "dict|null"}


@cache
def accepted(section: str, objective: str = Objective.SFT) -> Mapping[str, str]:
    """The keys of a section that count, with the kinds of value that each takes (`int|null`)."""
    found: dict[str, str] = {**_described()["sections"].get(section, {})}
    if section == "TrainingArguments" and objective != Objective.SFT:
        own = _described()["objectives"][objective]
        found = {key: kind for key, kind in found.items() if key not in own["lacks"]} | own["keys"]
    return {
        # Where a mapping is taken, a text could only be JSON, which is read as one, or a file that no pod has.
        key: _KINDS.get(f"{section}.{key}")
        or (kind.removesuffix("|str") if "dict" in kind.split("|") else kind)
        for key, kind in found.items()
        if not refused(f"{section}.{key}", objective) and not ignored(f"{section}.{key}", objective)
    }


def refused(name: str, objective: str = Objective.SFT) -> str:
    """Why `Section.key` is not possible here, "" where it is."""
    return REFUSED.get(name) or _of_preference(preference_keys.REFUSED, name, objective)


def ignored(name: str, objective: str = Objective.SFT) -> str:
    """What is done instead of what `Section.key` says, "" where the key counts."""
    return IGNORED.get(name) or _of_preference(preference_keys.IGNORED, name, objective)


def _of_preference(table: Mapping[str, str], name: str, objective: str) -> str:
    section, _, key = name.partition(".")
    return table.get(key, "") if section == "TrainingArguments" and objective != Objective.SFT else ""


@cache
def objectives_with(key: str) -> tuple[str, ...]:
    """The objectives whose TrainingArguments have this key."""
    return tuple(one for one in OBJECTIVES if key in accepted("TrainingArguments", one))


@cache
def writable(section: str, objective: str = Objective.SFT) -> frozenset[str]:
    """The keys of a section that may be written: those that count, and those without effect."""
    idle = {word.partition(".")[2] for word in IGNORED if word.startswith(f"{section}.")}
    return frozenset(accepted(section, objective)) | idle


@cache
def choices(name: str, objective: str = Objective.SFT) -> tuple[str, ...] | None:
    """The words that `Section.key`, or each item of its list, can be; None when any value of its kind will do."""
    section, _, key = name.partition(".")
    own = preference_keys.choices(objective, key) if section == "TrainingArguments" else None
    found = own or _CHOICES.get(name) or _described()["choices"].get(name)
    return tuple(found) if found else None
