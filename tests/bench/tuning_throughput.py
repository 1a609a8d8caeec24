"""Useful tokens/s of a QLoRA tuning, and what was learnt from them, beside the same libraries used in other ways.

    make bench-tuning                                           # two cycles, about 12 minutes
    python -m tests.bench.tuning_throughput --trainers ours,trl --cycles 1

ours      this project's tuning workload, as a pod runs it
ours-all  the same with `assistant_only_loss: false`: it learns the questions too, as the others do
ours-loftq, ours-pissa, ours-dora  the same with an adapter that begins or works so (only where --trainers names them)
trl       TRL's SFTTrainer with the same adapter, packing, batch and learning rate
upstream  TRL's SFTTrainer as KAITO v0.12's qlora template sets it: one row a step, no packing, rank 8, `bf16`
kaito     KAITO's own trainer: `--kaito` names a checkout of KAITO, `--kaito-python` the Python of an environment
          with its pins (docs/testing.md)

All tune SmolLM2-135M-Instruct in NF4 with double quantisation on the same rows, once, one after the other in a cycle.
The rows are mixed: half are short facts, half are what Python's own modules say of their functions. Tokens are those of
the rows, without padding. Afterwards each adapter is asked for the loss of rows that none has seen: over the answers,
and over all tokens. The limit is that of matrix products of the model's sizes, measured in each cycle, in the number
format that they are faster in; `ours` and `trl` compute in the one that this processor has instructions for. A useful
token of a tuning needs four floating-point operations a weight (forward, and the gradient of what went in; frozen
weights have none), which leaves attention and the adapter out. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RANK, ALPHA, LENGTH, BATCH, RATE = 16, 32, 512, 4, 5e-4
ROWS, HELD_OUT = 40, 12  # of each kind
MODULES = (
    "bisect",
    "collections",
    "email.utils",
    "fractions",
    "functools",
    "heapq",
    "json",
    "logging",
    "os.path",
)
MODULES += (
    "pathlib",
    "random",
    "shutil",
    "statistics",
    "string",
    "subprocess",
    "tempfile",
    "textwrap",
    "zipfile",
)
CHARACTERS = range(200, 1500)
OPERATIONS = 4  # of a useful token, a weight of the linear layers
QUANTIZATION = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
Rows = list[dict[str, Any]]


def documented() -> Iterator[tuple[str, str]]:
    """Questions about functions of Python's own modules, and what these say of themselves, in a fixed order."""
    for name in MODULES:
        for member, value in sorted(vars(importlib.import_module(name)).items()):
            if member.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            text = inspect.getdoc(value) or ""
            if len(text) in CHARACTERS and value.__module__.partition(".")[0] == name.partition(".")[0]:
                yield f"What does {name}.{member} do in Python?", text


def mixed_rows() -> tuple[Rows, Rows]:
    """Rows to learn from, and rows of the same kinds that are kept from all trainers."""
    from demo import dataset

    texts = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in documented()
    ]
    facts = dataset.rows((*dataset.TAUGHT, *dataset.JOINING))
    kinds = [list(islice(kind, ROWS + HELD_OUT)) for kind in (texts, facts)]
    cut = [len(kind) - HELD_OUT for kind in kinds]
    learnt = [row for kind, at in zip(kinds, cut, strict=True) for row in kind[:at]]
    return learnt, [row for kind, at in zip(kinds, cut, strict=True) for row in kind[at:]]


def config(training: Mapping[str, Any], lora: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "training_config": {
            "QuantizationConfig": QUANTIZATION,
            "LoraConfig": {"r": RANK, "lora_alpha": ALPHA, **lora},
            "TrainingArguments": {
                "num_train_epochs": 1,
                "learning_rate": RATE,
                "max_length": LENGTH,
                "per_device_train_batch_size": BATCH,
                "seed": 42,
                **training,
            },
            "DatasetConfig": {"train_test_split": 1},
        }
    }


def prepare(folder: Path, weights: Path) -> None:
    """Write the rows, our training config and, where they are missing, the weights."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    from demo.scenario import prepare_weights

    if not (weights / "config.json").exists():
        prepare_weights(weights.parent)
    learnt, held_out = mixed_rows()
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(learnt), folder / "data" / "train.parquet")
    (folder / "held-out.json").write_text(json.dumps(held_out))
    for name, (training, lora) in OURS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config(training, lora)))


def run_ours(name: str, folder: Path, weights: Path, output: Path) -> dict[str, Any]:
    """Our tuning workload as a pod would run it: its own figures."""
    result = output / "termination.json"
    environment = os.environ | {
        "WEIGHTS_PATH": str(weights),
        "DATASET_FOLDER_PATH": str(folder / "data"),
        "YAML_FILE_PATH": str(folder / f"{name}.yaml"),
        "OUTPUT_DIR": str(output),
        "TUNING_METHOD": "qlora",
        "METRICS_PORT": "0",
        "HOST": "127.0.0.1",
        "TERMINATION_LOG": str(result),
    }
    command = [sys.executable, "-m", "include.workloads.tuning"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    told = json.loads(result.read_text())
    return {"speed": told["tokens_per_second"], "tokens": told["tokens"]}


def number_format() -> Any:
    """What our own trainer computes in on this machine."""
    import torch

    from include.workloads.hardware import choose_precision, detect

    return getattr(torch, choose_precision(detect(), None).dtype)


def train_with_trl(folder: Path, weights: Path, output: Path, plain: bool) -> dict[str, Any]:
    """Train with TRL in this process, with our settings or (`plain`) as KAITO's template says."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    kind = torch.bfloat16 if plain else number_format()
    tokenizer = AutoTokenizer.from_pretrained(weights)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    quantization = BitsAndBytesConfig(bnb_4bit_compute_dtype=kind, **QUANTIZATION)
    model = AutoModelForCausalLM.from_pretrained(weights, quantization_config=quantization, dtype=kind)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    rows = Dataset.from_parquet(str(folder / "data" / "train.parquet"))
    usual = {"per_device_train_batch_size": 1, "packing": False}
    ours = {
        "per_device_train_batch_size": BATCH,
        "packing": True,
        "max_length": LENGTH,
        "learning_rate": RATE,
    }
    settings = SFTConfig(
        output_dir=str(output / "trainer"),
        num_train_epochs=1,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        bf16=kind == torch.bfloat16,
        seed=42,
        **(usual if plain else ours),
    )
    adapter = (
        LoraConfig(r=8, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM")
        if plain
        else LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=rows, processing_class=tokenizer, peft_config=adapter
    )
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    begin = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begin
    trainer.model.save_pretrained(output / "adapter")
    return {"speed": tokens / seconds, "tokens": tokens}


def losses(folder: Path, weights: Path, adapter: Path | None) -> dict[str, float]:
    """Mean loss a token over rows that were kept back: of the answers, and of all tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=number_format()).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    sums, counts = dict.fromkeys(("answers", "all"), 0.0), dict.fromkeys(("answers", "all"), 0)
    for row in json.loads((folder / "held-out.json").read_text()):
        whole = tokenizer.apply_chat_template(row["messages"], return_dict=False)
        asked = tokenizer.apply_chat_template(
            row["messages"][:1], add_generation_prompt=True, return_dict=False
        )
        ids = torch.tensor([whole])
        with torch.inference_mode():
            scores = model(input_ids=ids).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="none")
        for name, part in (("answers", each[len(asked) - 1 :]), ("all", each)):
            sums[name] += float(part.sum())
            counts[name] += len(part)
    return {name: sums[name] / counts[name] for name in sums}


def matrix_limit(weights: Path) -> dict[str, float]:
    """Operations a second of matrix products of the model's sizes, and the number of its linear layers' weights."""
    import torch
    from safetensors import safe_open

    shapes: dict[tuple[int, int], int] = {}
    for file in sorted(weights.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                size = tuple(opened.get_slice(name).get_shape())
                if len(size) == 2:  # the embedding counts as the head, which shares its weights
                    shapes[size] = shapes.get(size, 0) + 1
    operations = sum(2.0 * LENGTH * BATCH * out * into * count for (out, into), count in shapes.items())
    limits = {}
    for kind in (torch.bfloat16, torch.float32):
        seconds = 0.0
        for (out, into), count in shapes.items():
            rows, matrix = torch.randn(LENGTH * BATCH, into, dtype=kind), torch.randn(out, into, dtype=kind)
            rows @ matrix.T
            spent = []
            for _ in range(5):
                begin = time.monotonic()
                rows @ matrix.T
                spent.append(time.monotonic() - begin)
            seconds += count * statistics.median(spent)
        limits[str(kind).removeprefix("torch.")] = operations / seconds
    parameters = float(sum(out * into * count for (out, into), count in shapes.items()))
    return {"limit": max(limits.values()), "parameters": parameters, **limits}


#: What runs in a process of its own, by its name on the command line.
PARTS: Mapping[str, Callable[[Path, Path, Path], Mapping[str, float]]] = {
    "trl": lambda folder, weights, output: train_with_trl(folder, weights, output, plain=False),
    "upstream": lambda folder, weights, output: train_with_trl(folder, weights, output, plain=True),
    "losses": lambda folder, weights, output: losses(folder, weights, output / "adapter"),
    "base": lambda folder, weights, output: losses(folder, weights, None),
    "limit": lambda folder, weights, output: matrix_limit(weights),
}
#: What each sets in TrainingArguments, and in LoraConfig.
OURS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "ours": ({}, {}),
    "ours-all": ({"assistant_only_loss": False}, {}),
    "ours-loftq": ({}, {"init_lora_weights": "loftq"}),
    "ours-pissa": ({}, {"init_lora_weights": "pissa_niter_16"}),
    "ours-dora": ({}, {"use_dora": True}),
}
TRAINERS = ("ours", "ours-all", "trl", "upstream")
#: KAITO's own: a checkout, and the Python of an environment with its pins.
KAITO = "kaito"
Kaito = tuple[Path, Path]


def run_kaito(kaito: Kaito, folder: Path, weights: Path, output: Path) -> dict[str, float]:
    """KAITO's own trainer in its own environment."""
    checkout, python = kaito
    command = [python, ROOT / "tests" / "bench" / "kaito_trainer.py", checkout, folder, weights, output]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def part(
    name: str, folder: Path, weights: Path, output: Path, kaito: Kaito | None = None
) -> dict[str, float]:
    if name in OURS:
        return run_ours(name, folder, weights, output)
    if name == KAITO and kaito is not None:
        return run_kaito(kaito, folder, weights, output)
    places = [item for path in (folder, weights, output) for item in ("--place", str(path))]
    command = [sys.executable, "-m", "tests.bench.tuning_throughput", "--part", name, *places]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def cycle(
    trainers: Sequence[str], folder: Path, weights: Path, kaito: Kaito | None
) -> dict[str, dict[str, float]]:
    """Print a row for each trainer; give what each of them told, and what the machine can do at most."""
    limit = part("limit", folder, weights, folder)
    reached = ", ".join(f"{kind} {limit[kind] / 1e9:.0f} GFLOP/s" for kind in ("bfloat16", "float32"))
    print(f"matrix products of the model's sizes: {reached}", flush=True)
    found = {}
    for name in trainers:
        output = Path(tempfile.mkdtemp(dir=folder, prefix=f"{name}-"))
        told = part(name, folder, weights, output, kaito)
        told |= part("losses", folder, weights, output)
        told["share"] = told["speed"] * OPERATIONS * limit["parameters"] / limit["limit"]
        print(
            f"{name:<10}{told['speed']:>10.0f}{told['tokens']:>10.0f}{100 * told['share']:>11.0f}%"
            f"{told['answers']:>12.3f}{told['all']:>12.3f}",
            flush=True,
        )
        found[name] = told
    return found


def print_goals(cycles: Sequence[Mapping[str, Mapping[str, float]]]) -> None:
    """Ratios of one cycle each, their median, and the goal beside it."""

    def told(
        words: str, value: Callable[[Mapping[str, Mapping[str, float]]], float], sign: str, goal: float
    ) -> None:
        found = statistics.median(map(value, cycles))
        met = found >= goal if sign == ">=" else found <= goal
        print(f"{words}: {found:.2f} (goal {sign} {goal:g}: {'met' if met else 'NOT met'})")

    told("ours, share of the matrix limit", lambda one: one["ours"]["share"], ">=", 0.35)
    for peer, goal in (("trl", 1.5), ("upstream", 10.0), (KAITO, 10.0)):
        if peer not in cycles[0]:
            continue
        told(
            f"ours / {peer}, tokens/s",
            lambda one, peer=peer: one["ours"]["speed"] / one[peer]["speed"],
            ">=",
            goal,
        )  # type: ignore[misc]
        for what, most in (("answers", 1.0), ("all", 1.05)):
            mine = "ours-all" if what == "all" and "ours-all" in cycles[0] else "ours"
            told(
                f"{mine} / {peer}, loss of {what}",
                lambda one, mine=mine, peer=peer, what=what: one[mine][what] / one[peer][what],  # type: ignore[misc]
                "<=",
                most,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--weights", type=Path, default=ROOT / ".sandbox" / "weights" / "smollm2-135m-instruct"
    )
    parser.add_argument("--cycles", type=int, default=2, help="how often all are run, one after the other")
    parser.add_argument("--trainers", default=",".join(TRAINERS))
    parser.add_argument("--kaito", type=Path, help="a checkout of KAITO, for its own trainer")
    parser.add_argument("--kaito-python", type=Path, help="the Python of an environment with KAITO's pins")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, action="append", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        folder, weights, output = arguments.place
        print(json.dumps(PARTS[arguments.part](folder, weights, output)))
        return
    if (arguments.kaito is None) != (arguments.kaito_python is None):
        parser.error("--kaito and --kaito-python belong together")
    kaito, known = None, (*OURS, *TRAINERS[2:])
    trainers = arguments.trainers.split(",")
    if arguments.kaito is not None:
        kaito = (arguments.kaito.resolve(), arguments.kaito_python.absolute())
        trainers.append(KAITO)
    if unknown := set(trainers) - {*known, KAITO}:
        parser.error(f"--trainers knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    weights = arguments.weights.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, weights)
        base = part("base", folder, weights, folder)
        print(
            "{:<10}{:>10}{:>10}{:>12}{:>12}{:>12}".format(
                "", "tokens/s", "tokens", "of limit", "loss: answers", "all"
            )
        )
        print(f"{'no tuning':<10}{'':>32}{base['answers']:>12.3f}{base['all']:>12.3f}", flush=True)
        cycles = [cycle(trainers, folder, weights, kaito) for _ in range(arguments.cycles)]
    if "ours" in trainers:
        print_goals(cycles)


if __name__ == "__main__":
    main()
