"""`python -m include.workloads.serving.vllm_facts > presets/vllm.yaml`: what this environment's vLLM takes.

Airflow's image has no vLLM and must judge a model and a config without it, so the answers of vLLM's own registry,
quantisation table and command line are kept as a file (`make vllm-facts`). A slow test compares the two. It is never
part of a pod's work.
"""

from __future__ import annotations

import inspect
import os
import sys
from argparse import Action
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import yaml

HEADER = """\
# What vLLM takes, asked of vLLM itself: model architectures that write text, those that only embed, rank or score it
# (pooling; encoders are those of them that keep no KV cache), model types whose config.json it reads without code of
# the repository, methods of quantisation, arguments of `vllm serve` by the kind of their value.
# Made by: make vllm-facts. Not edited by hand; read by include/catalog/engines.py.
"""
WIDTH = 120
NUMBERS = {
    "int": "int",
    "float": "float",
    "human_readable_int": "int",
    "human_readable_int_or_auto": "int",
}
# Pooling models that take no plain text (images, sound), or only with a package that the images lack.
NO_TEXT = frozenset({"Qwen3ASRForcedAlignerForTokenClassification", "Terratorch"})
# transformers' tables of the classes that vLLM turns into pooling models where it has the writer of the same family.
CONVERTED = (
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
)
STRUCTURED = ("loads", "parse_dataclass", "union_dict_and_str", "dict", "json_dict")


def facts() -> dict[str, Any]:
    """Everything that presets/vllm.yaml holds."""
    arguments, choices = _arguments()
    pooling = (_pooling() | _converted()) - _architectures() - NO_TEXT
    return {
        "version": version("vllm").partition("+")[0],
        "architectures": _text(_architectures()),
        "pooling": _text(pooling),
        "encoders": _text(_encoders(pooling)),
        "config_types": _text(_config_types()),
        "quantizations": _text(_quantizations()),
        "arguments": {kind: _text(names) for kind, names in sorted(arguments.items())},
        "choices": choices,
    }


def _text(names: Iterable[str]) -> str:
    return " ".join(sorted(set(names)))


def _architectures() -> set[str]:
    """Those that generate; models that embed, rank, judge or only draft for another are no chat service."""
    from vllm.model_executor.models import registry

    known = set(registry.ModelRegistry.get_supported_archs())
    found: set[str] = set()
    for table in (
        registry._TEXT_GENERATION_MODELS,
        registry._MULTIMODAL_MODELS,
        registry._TRANSFORMERS_SUPPORTED_MODELS,
    ):
        found |= set(table)
    return found & known


def _pooling() -> set[str]:
    """Those that embed, rank or judge texts, and write none."""
    from vllm.model_executor.models import registry

    found: set[str] = set()
    for table in (
        registry._EMBEDDING_MODELS,
        registry._LATE_INTERACTION_MODELS,
        registry._REWARD_MODELS,
        registry._TOKEN_CLASSIFICATION_MODELS,
        registry._SEQUENCE_CLASSIFICATION_MODELS,
    ):
        found |= set(table)
    return found & set(registry.ModelRegistry.get_supported_archs())


def _converted() -> set[str]:
    """Classes without an entry of their own that become pooling models: Qwen3ForSequenceClassification, say."""
    from transformers.models.auto import modeling_auto
    from vllm.config.model import try_match_architecture_defaults
    from vllm.model_executor.models import registry

    found = set()
    for table in CONVERTED:
        for entry in getattr(modeling_auto, table).values():
            for name in [entry] if isinstance(entry, str) else entry:
                match = try_match_architecture_defaults(name)
                base = registry.ModelRegistry._normalize_arch(name, None)
                if match and match[1][0] == "pooling" and base in registry._TEXT_GENERATION_MODELS:
                    found.add(name)
    return found


def _encoders(names: Iterable[str]) -> set[str]:
    """Those that read a text at once, as vLLM judges it (ModelConfig.attn_type), and so have no KV cache."""
    from vllm.model_executor.models.registry import ModelRegistry, _ModelInfo

    found = set()
    for name in set(names) & set(ModelRegistry.models):
        try:
            model = _ModelInfo.from_model_cls(ModelRegistry.models[name].load_model_cls())
        except ImportError:  # of a package for images: what is not known to have no cache is planned with one
            continue
        whole = model.attn_type == "encoder_only" or model.default_seq_pooling_type == "CLS"
        if whole and not model.is_hybrid and not model.supports_multimodal:
            found.add(name)
    return found


def _config_types() -> set[str]:
    from transformers import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    return {*CONFIG_MAPPING, *_CONFIG_REGISTRY}


def _quantizations() -> set[str]:
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    return set(QUANTIZATION_METHODS)


def _arguments() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    actions: Mapping[str, Action] = {
        option[2:]: action
        for action in make_arg_parser(FlexibleArgumentParser(add_help=False))._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    kinds: dict[str, list[str]] = {}
    choices: dict[str, list[str]] = {}
    for name, action in actions.items():
        if name.startswith("no-") and name[3:] in actions:
            continue
        kinds.setdefault(kind_of(action), []).append(name)
        if given := [str(choice) for choice in action.choices or () if choice is not None]:
            choices[name] = given
    return kinds, dict(sorted(choices.items()))


def kind_of(action: Action) -> str:
    """int, float, bool (with a --no- of its own), flag (without), json, list or text."""
    if action.nargs == 0:
        return "bool" if any(name.startswith("--no-") for name in action.option_strings) else "flag"
    if action.nargs in ("+", "*"):
        return "list"
    names = _type_names(action.type)
    if any(name in STRUCTURED for name in names):
        return "json"
    return next((NUMBERS[name] for name in names if name in NUMBERS), "text")


def _type_names(kind: Any) -> list[str]:
    """The name of a converter, and of those that it wraps."""
    found: list[str] = []
    while kind is not None and len(found) < 8:
        found.append(getattr(kind, "__name__", str(kind)))
        try:
            inner = inspect.getclosurevars(kind).nonlocals
        except TypeError:
            break
        kind = next((value for value in inner.values() if callable(value)), None)
    return found


def main() -> None:
    """Print the file."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    found = facts()
    lists = {"choices": found.pop("choices")}
    sys.stdout.write(HEADER + yaml.dump(found, sort_keys=False, width=WIDTH))
    sys.stdout.write(yaml.dump(lists, sort_keys=False, width=WIDTH, default_flow_style=None))


if __name__ == "__main__":
    main()
