"""Tokens per second of our QLoRA tuning against the same libraries used as KAITO's trainer uses them.

    python -m tests.bench.tuning_throughput [--weights DIR] [--pairs 2]

The peer is TRL's SFTTrainer with the settings of KAITO v0.12's qlora template (batch of one row, no packing, rank 8,
loss on all tokens), NF4 with double quantisation and bfloat16 compute as that template says. Both train the demo's
dataset on SmolLM2-135M-Instruct, one after the other in the same run, and count real tokens only (no padding).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEER_ROWS = 40
OURS_EPOCHS = 2


def peer(weights: Path, data: Path) -> None:
    """Train as KAITO's template says and print {"tokens_per_second"}; runs in a process of its own."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(weights)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        weights, quantization_config=quantization, dtype=torch.bfloat16
    )
    model = prepare_model_for_kbit_training(model)
    table = Dataset.from_parquet(str(data / "train.parquet"))
    table = table.select(range(min(PEER_ROWS, len(table))))
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        packing=False,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=table,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM"),
    )
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    begin = time.monotonic()
    trainer.train()
    print(json.dumps({"tokens_per_second": tokens / (time.monotonic() - begin)}))


def prepare(folder: Path, weights: Path) -> None:
    """Write the demo's rows, its training config and, if missing, its weights."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    from demo import dataset, scenario

    if not (weights / "config.json").exists():
        scenario.prepare_weights(weights.parent)
    pq.write_table(pa.Table.from_pylist(dataset.rows()), folder / "train.parquet")
    config = yaml.safe_load((ROOT / "demo" / "training_config.yaml").read_text())
    config["training_config"]["TrainingArguments"]["num_train_epochs"] = OURS_EPOCHS
    (folder / "training_config.yaml").write_text(yaml.safe_dump(config))


def run_ours(folder: Path, weights: Path) -> float:
    """Run our tuning workload as a pod would and return its own figure."""
    with tempfile.TemporaryDirectory() as output:
        result = Path(output) / "termination.json"
        environment = os.environ | {
            "WEIGHTS_PATH": str(weights),
            "DATASET_FOLDER_PATH": str(folder),
            "YAML_FILE_PATH": str(folder / "training_config.yaml"),
            "OUTPUT_DIR": output,
            "TUNING_METHOD": "qlora",
            "METRICS_PORT": "0",
            "HOST": "127.0.0.1",
            "TERMINATION_LOG": str(result),
        }
        command = [sys.executable, "-m", "include.workloads.tuning"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(result.read_text())["tokens_per_second"])


def run_peer(folder: Path, weights: Path) -> float:
    """Run the peer in a process of its own and return its figure."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.tuning_throughput",
        "--weights",
        str(weights),
        "--peer",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--weights", type=Path, default=ROOT / ".sandbox" / "weights" / "smollm2-135m-instruct"
    )
    parser.add_argument("--pairs", type=int, default=2, help="how often to run both, one after the other")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    weights = arguments.weights.resolve()
    if arguments.peer:
        peer(weights, arguments.peer)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, weights)
        pairs = [(run_ours(folder, weights), run_peer(folder, weights)) for _ in range(arguments.pairs)]
    for ours, theirs in pairs:
        print(f"ours {ours:6.0f} tokens/s   peer {theirs:6.0f} tokens/s   ratio {ours / theirs:.1f}")
    print(f"median ratio {statistics.median(ours / theirs for ours, theirs in pairs):.1f}")


if __name__ == "__main__":
    main()
