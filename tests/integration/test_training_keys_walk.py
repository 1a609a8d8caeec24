"""Every training key that check lets through goes the whole way: config, training, the adapter's check, serving.

What a later step refuses costs a rented machine, so this walks each key with each kind of value on a tiny model. A walk
is a process of its own, forked from one that has imported the libraries, with one thread (tests/conftest.py): what it
computes is so small that threads would only wait for each other. `pytest -m slow -n 2` takes some eight minutes.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.contracts import training_keys as keys
from include.contracts import weight_init
from include.contracts.methods import Objective
from include.workloads.tuning.standin import make_standin
from include.workspace.validation.training_config import config_faults
from tests.support import tuning_children

pytestmark = [pytest.mark.slow, pytest.mark.weights, pytest.mark.timeout(180)]

SECONDS = 120.0
LIBRARIES = ("include.workloads.tuning.preference_trainer", "include.workloads.serving.engine")
# Values that mean something for a key; others get one of their kind.
SAMPLES: dict[str, list[Any]] = {
    "ModelConfig.chat_template": ["{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"],
    "LoraConfig.exclude_modules": [["o_proj"], "o_proj"],
    "LoraConfig.target_modules": [["o_proj", "down_proj"], "o_proj,down_proj", "all-linear", r".*\.o_proj"],
    "LoraConfig.layers_to_transform": [0, [0]],
    "LoraConfig.layers_pattern": ["layers"],
    "LoraConfig.rank_pattern": [{"o_proj": 4}],
    "LoraConfig.alpha_pattern": [{"o_proj": 4}],
    "TrainingArguments.max_length": [32],
    "TrainingArguments.learning_rate": [1e-3],
    "TrainingArguments.max_steps": [1, 2],
}
BESIDE: dict[str, dict[str, Any]] = {
    "LoraConfig.layers_to_transform": {"target_modules": ["o_proj"]},
    "LoraConfig.layers_pattern": {"target_modules": ["o_proj"], "layers_to_transform": [0]},
}
#: What transformers' own loop reads, whatever the objective's trainer is: walked once, with sft.
_LOOP = """
    adam_ average_tokens bf16 data_seed dataloader_ ddp disable_tqdm enable_jit fp16 full_determinism hub_ ignore_
    include_for jit_ learning_rate log_ logging_ lr_scheduler max_grad_norm max_steps num_train_epochs optim push_
    restore_ run_ save_ seed skip_ tf32 torch_ tpu_ use_cache use_ipex use_legacy warmup weight_decay eval_delay
"""
LOOP = tuple(_LOOP.split())
OF_KIND: dict[str, list[Any]] = {
    "bool": [True, False],
    "int": [1, 2],
    "float": [0.5, 1.0],
    "str": ["x"],
    "dict": [{"x": 1}],
    "list[str]": [["x"]],
    "list[int]": [[0]],
    "list[float]": [[0.5]],
}


def probes() -> Iterator[Any]:
    """Each key with each value; the "off" of all switches of a section goes in one walk, since most of it is usual.

    The other objectives' trainers get their own keys and those that they read in a way of their own.
    """
    for section in keys.SECTIONS:
        yield from _of_section(section, Objective.SFT)
    for objective in (Objective.DPO, Objective.KTO):
        yield from _of_section("TrainingArguments", objective)


def _of_section(section: str, objective: str) -> Iterator[Any]:
    off: dict[str, Any] = {}
    mark = "" if objective == Objective.SFT else f"{objective} "
    for key, kind in keys.accepted(section, objective).items():
        if objective != Objective.SFT and key.startswith(LOOP):
            continue
        name = f"{section}.{key}"
        values = SAMPLES.get(name) or keys.choices(name, objective)
        for value in values or [v for word in kind.split("|") for v in OF_KIND.get(word, [])]:
            text = _config(section, {key: value})
            method = _method(section)
            if section == "LoraConfig" and weight_init.needs_whole_weights({key: value}):
                four = _config(section, {key: value}, {"load_in_4bit": True})
                yield pytest.param(four, "qlora", objective, id=f"qlora {name}={value!r}")
            if config_faults(text, method, objective):
                continue
            if value is False and not config_faults(_config(section, {**off, key: False}), method, objective):
                off[key] = False
            else:
                yield pytest.param(text, method, objective, id=f"{mark}{name}={value!r}"[:80])
    if off:
        name = f"{mark}{section}: {len(off)} off"
        yield pytest.param(_config(section, off), _method(section), objective, id=name)


def _method(section: str) -> str:
    return "qlora" if section == "QuantizationConfig" else "lora"


def _config(section: str, given: dict[str, Any], bits: dict[str, Any] | None = None) -> str:
    sections: dict[str, dict[str, Any]] = {
        "LoraConfig": {"r": 2},
        "TrainingArguments": {"max_steps": 1, "max_length": 64},
        **({"QuantizationConfig": bits} if bits else {}),
    }
    if section == "QuantizationConfig" and "load_in_8bit" not in given:
        sections[section] = {"load_in_4bit": True}
    for key in given:
        sections.setdefault(section, {}).update(BESIDE.get(f"{section}.{key}", {}))
    sections.setdefault(section, {}).update(given)
    return json.dumps({"training_config": sections})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("walk")
    make_standin(root / "weights", layers=1)
    turns = [
        [{"role": "user", "content": f"How many, {n}?"}, {"role": "assistant", "content": "eight"}]
        for n in range(12)
    ]
    worse = [[*one[:1], {"role": "assistant", "content": "many"}] for one in turns]
    for objective, rows in (
        (Objective.SFT, [{"messages": one} for one in turns]),
        (Objective.DPO, [{"messages": a, "rejected": b} for a, b in zip(turns, worse, strict=True)]),
        (Objective.KTO, [{"messages": one, "good": n % 2 == 0} for n, one in enumerate(turns)]),
    ):
        (root / objective).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), root / objective / "train.parquet")
    return root


@pytest.fixture(scope="module")
def processes() -> Any:
    return tuning_children.context(LIBRARIES)


def walk(folder: Path, inputs: Path, method: str, objective: str) -> None:
    """What the tuning, adapter and serving pods do, in a process of its own; leaves a file when all went well."""
    config, results = folder / "training_config.yaml", folder / "results"
    os.environ.update(
        tuning_children.environment(inputs / "weights", inputs / objective, config, results, method),
        TUNING_OBJECTIVE=objective,
        DTYPE="bfloat16",
    )
    tuning_children.end_with(folder, partial(_walk, inputs / "weights", folder))


def _walk(weights: Path, folder: Path) -> None:
    from include.workloads.adapter.check import check_adapter
    from include.workloads.hardware import choose_precision, detect
    from include.workloads.serving.adapters import find_adapters
    from include.workloads.serving.engine import Engine
    from include.workloads.tuning import run

    gc.freeze()  # the libraries' own objects: looking through them would take longer than the training
    run.main()
    check_adapter(folder / "results" / "adapter", "The adapter")
    shutil.copytree(folder / "results" / "adapter", folder / "served" / "mine")
    hardware = detect()
    Engine(weights, find_adapters(folder / "served"), hardware, choose_precision(hardware, "bfloat16"))
    (folder / "served.ok").touch()


@pytest.mark.parametrize(("text", "method", "objective"), list(probes()))
def test_what_check_lets_through_is_trained_pushed_and_served(
    text: str, method: str, objective: str, inputs: Path, processes: Any, tmp_path: Path
) -> None:
    (tmp_path / "training_config.yaml").write_text(text)
    tuning_children.run(processes, walk, tmp_path, inputs, method, objective, seconds=SECONDS)
    assert (tmp_path / "served.ok").exists(), (tmp_path / "log").read_text()[-2000:]
