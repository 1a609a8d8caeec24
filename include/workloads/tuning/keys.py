"""Which keys each section of `training_config.yaml` may hold, straight from the libraries' own classes.

Tables of names only: what is ignored and why, what is refused and why, what was renamed, which values are allowed.
A key that is in none of these tables and in the library's class reaches the library as it is.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

SECTIONS = (
    "ModelConfig",
    "QuantizationConfig",
    "LoraConfig",
    "TrainingArguments",
    "DatasetConfig",
    "DataCollator",
)

_MODEL: dict[str, Any] = {"torch_dtype": str, "chat_template": str}
_DATASET: dict[str, Any] = {
    "shuffle_dataset": bool,
    "shuffle_seed": int,
    "train_test_split": float,
    "preference_data": str,
    "max_dropped_share": float,
}
_QUANTIZATION: dict[str, Any] = {
    "load_in_4bit": bool,
    "load_in_8bit": bool,
    "llm_int8_threshold": float,
    "llm_int8_skip_modules": list[str],
    "llm_int8_enable_fp32_cpu_offload": bool,
    "llm_int8_has_fp16_weight": bool,
    "bnb_4bit_compute_dtype": str,
    "bnb_4bit_quant_type": str,
    "bnb_4bit_use_double_quant": bool,
    "bnb_4bit_quant_storage": str,
}

_WEIGHTS = "the weights are the preset's, already in the pod"
_STEP = "the dataset step has already read, mapped and merged all files into one table"
_HUB = "nothing is pushed to a hub; the adapter is published as an image"
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
    "DataCollator.mlm": "a causal model has no masked-token objective, so it is off",
    "DataCollator.mlm_probability": "a causal model has no masked-token objective",
    "DataCollator.pad_to_multiple_of": "rows are packed, not padded",
    "DataCollator.return_tensors": "batches are always PyTorch tensors",
    "DataCollator.tf_experimental_compile": "there is no TensorFlow here",
    "DatasetConfig.dataset_path": _STEP,
    "DatasetConfig.dataset_extension": _STEP,
    "DatasetConfig.context_column": _STEP,
    "DatasetConfig.response_column": _STEP,
    "DatasetConfig.messages_column": _STEP,
    "TrainingArguments.output_dir": "results always go to the work volume ($OUTPUT_DIR)",
    "TrainingArguments.overwrite_output_dir": _CARRY_ON,
    "TrainingArguments.resume_from_checkpoint": _CARRY_ON,
    "TrainingArguments.ignore_data_skip": _CARRY_ON,
    "TrainingArguments.report_to": "progress is served at /progress and /metrics",
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
    "TrainingArguments.local_rank": "ranks are set by the launcher",
    "TrainingArguments.shuffle_dataset": "DatasetConfig.shuffle_dataset decides",
    "TrainingArguments.remove_unused_columns": "the trainer's input is already tokenised",
    "TrainingArguments.dataset_text_field": _STEP,
    "TrainingArguments.dataset_num_proc": "rows are tokenised in one process",
    "TrainingArguments.completion_only_loss": "use assistant_only_loss: rows are chat messages or plain text",
    "TrainingArguments.logging_nan_inf_filter": "a loss that is not a number always stops the run",
}

# Section.key -> why not. A neutral value (false, empty) of such a key is fine.
REFUSED: Mapping[str, str] = {
    "ModelConfig.trust_remote_code": "code that comes with a model is never run; choose a preset without it",
    "ModelConfig.state_dict": "weights come as safetensors from the preset only",
    "ModelConfig.proxies": "nothing is downloaded here, so there is no proxy to use",
    "TrainingArguments.trust_remote_code": "code that comes with a model is never run",
    "TrainingArguments.hub_token": "secrets do not belong in a ConfigMap; take it out and revoke it",
    "TrainingArguments.deepspeed": "only data parallel training on one machine is supported",
    "TrainingArguments.fsdp": "only data parallel training on one machine is supported",
    "TrainingArguments.fsdp_config": "only data parallel training on one machine is supported",
    "TrainingArguments.parallelism_config": "only data parallel training on one machine is supported",
    "TrainingArguments.model_init_kwargs": "set ModelConfig keys instead",
    "TrainingArguments.dataset_kwargs": "set DatasetConfig keys instead",
    "TrainingArguments.chat_template_path": "set ModelConfig.chat_template to the template's text instead",
    "LoraConfig.inference_mode": "an adapter in inference mode does not learn",
    "LoraConfig.layer_replication": "the serving side could not load such an adapter",
}

RENAMED: Mapping[str, str] = {
    "ModelConfig.dtype": "torch_dtype",
    "TrainingArguments.evaluation_strategy": "eval_strategy",
    "TrainingArguments.max_seq_length": "max_length",
    "TrainingArguments.warmup_ratio": "warmup_steps",
    "TrainingArguments.no_cuda": "use_cpu",
    "TrainingArguments.per_gpu_train_batch_size": "per_device_train_batch_size",
}


def is_neutral(value: object) -> bool:
    """False, nothing, or a text that says so: no wish at all."""
    return not value or str(value).strip().lower() in ("false", "none", "null", "main")


@cache
def accepted(section: str) -> Mapping[str, Any]:
    """Key -> type of one section, from the class that will take it (imports the library on first use)."""
    if section == "LoraConfig":
        from peft import LoraConfig

        return _dataclass_types(LoraConfig)
    if section == "TrainingArguments":
        from trl import SFTConfig

        return _dataclass_types(SFTConfig)
    if section == "QuantizationConfig":
        from transformers import BitsAndBytesConfig

        real = set(inspect.signature(BitsAndBytesConfig.__init__).parameters)
        return {key: hint for key, hint in _QUANTIZATION.items() if key in real}
    return {"ModelConfig": _MODEL, "DatasetConfig": _DATASET}.get(section, {})


def _dataclass_types(cls: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _enum_values(name: str) -> Callable[[], frozenset[str]]:
    def values() -> frozenset[str]:
        import transformers.trainer_utils as trainer_utils
        from transformers.training_args import OptimizerNames

        enum = OptimizerNames if name == "OptimizerNames" else getattr(trainer_utils, name)
        return frozenset(str(member.value) for member in enum)

    return values


_STRATEGY = frozenset({"no", "steps", "epoch"})
_FLOATS = frozenset({"float32", "float16", "bfloat16"})

CHOICES: Mapping[str, Callable[[], frozenset[str]]] = {
    "ModelConfig.torch_dtype": lambda: _FLOATS | {"auto"} | {f"torch.{name}" for name in _FLOATS},
    "QuantizationConfig.bnb_4bit_quant_type": lambda: frozenset({"nf4", "fp4"}),
    "QuantizationConfig.bnb_4bit_compute_dtype": lambda: _FLOATS | {f"torch.{name}" for name in _FLOATS},
    "TrainingArguments.lr_scheduler_type": _enum_values("SchedulerType"),
    "TrainingArguments.optim": _enum_values("OptimizerNames"),
    "TrainingArguments.save_strategy": lambda: _STRATEGY,
    "TrainingArguments.eval_strategy": lambda: _STRATEGY,
    "TrainingArguments.logging_strategy": lambda: _STRATEGY,
    "TrainingArguments.packing_strategy": lambda: frozenset({"bfd", "bfd_split", "wrapped"}),
    "DatasetConfig.preference_data": lambda: frozenset({"refuse", "chosen"}),
    "TrainingArguments.loss_type": lambda: frozenset({"nll", "dft"}),
}

_POSITIVE = (lambda value: value > 0, "must be above 0")
_AT_LEAST_ONE = (lambda value: value >= 1, "must be 1 or more")
_NOT_NEGATIVE = (lambda value: value >= 0, "must be 0 or more")
_SHARE = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")

LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "LoraConfig.r": _AT_LEAST_ONE,
    "LoraConfig.lora_alpha": _POSITIVE,
    "LoraConfig.lora_dropout": _SHARE,
    "DatasetConfig.train_test_split": (
        lambda value: 0 < value <= 1,
        "must be above 0 and at most 1 (1 = all rows train, none evaluate)",
    ),
    "DatasetConfig.max_dropped_share": (
        lambda value: 0 <= value <= 1,
        "must be at least 0 and at most 1 (0.5 = half of the rows may be unusable)",
    ),
    "TrainingArguments.learning_rate": (lambda value: 0 < value < 1, "must be above 0 and below 1"),
    "TrainingArguments.num_train_epochs": _POSITIVE,
    "TrainingArguments.max_steps": (
        lambda value: value == -1 or value >= 1,
        "must be 1 or more (-1 = as many as the epochs give)",
    ),
    "TrainingArguments.per_device_train_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.per_device_eval_batch_size": _AT_LEAST_ONE,
    "TrainingArguments.gradient_accumulation_steps": _AT_LEAST_ONE,
    "TrainingArguments.warmup_steps": _NOT_NEGATIVE,
    "TrainingArguments.weight_decay": _NOT_NEGATIVE,
    "TrainingArguments.max_grad_norm": _NOT_NEGATIVE,
    "TrainingArguments.max_length": (
        lambda value: value is None or value >= 16,
        "must be 16 tokens or more",
    ),
    "TrainingArguments.save_total_limit": (
        lambda value: value is None or value >= 1,
        "must be 1 or more",
    ),
    "TrainingArguments.save_steps": _POSITIVE,
    "TrainingArguments.logging_steps": _POSITIVE,
    "TrainingArguments.seed": _NOT_NEGATIVE,
}
