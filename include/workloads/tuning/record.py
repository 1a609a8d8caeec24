"""The record of a training: model card, everything needed to repeat it, its metrics, and the data report.

It has no times and no names of pods in it, so the same training leaves the same record. It must never hold a row of the
dataset, or a secret: addresses come from the dataset's report, which has them without credentials.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from include.contracts import adapter_record as record
from include.contracts.methods import Objective
from include.workloads.dataset.page import page
from include.workloads.tuning import processes
from include.workloads.tuning.fit import Job
from include.workloads.tuning.losses import rewards

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "safetensors")
_LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")
_REWARDS = ("reward_margin", "reward_accuracy")


def write(
    job: Job, result: Mapping[str, Any], history: list[dict[str, Any]], config: str, data: Path
) -> None:
    """Write the record of a finished training beside its adapter.

    :param result: what the training reports, with the adapter's digest.
    :param history: the trainer's log.
    :param config: the text of the training config.
    :param data: the folder of the dataset step.
    """
    report = dataset_report(data)
    repeat = {
        record.ADAPTER_SHA256: result["adapter"]["sha256"],
        **needed(job, config, report, result.get("trained_rows_digest")),
    }
    logged = [{key: entry[key] for key in _LOGGED if key in entry} | rewards(entry) for entry in history]
    files = {
        record.CARD: card(repeat, result),
        record.REPRODUCE: _json(repeat),
        record.METRICS: _json([entry for entry in logged if "loss" in entry or "eval_loss" in entry]),
    }
    if report:
        files |= {record.DATASET_REPORT: _json(report), record.DATASET_PAGE: page(report)}
    folder, draft = job.output / record.FOLDER, job.output / f".{record.FOLDER}.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, text in files.items():
        (draft / name).write_text(text, encoding="utf-8", errors="replace")
    if (data / record.ROW_DIGESTS).is_file():
        shutil.copyfile(data / record.ROW_DIGESTS, draft / record.ROW_DIGESTS)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def needed(
    job: Job, config: str, report: Mapping[str, Any] | None, trained_rows_digest: str | None
) -> dict[str, Any]:
    """All that decides what the adapter becomes, known before it is trained. On a processor it gives the same bytes.

    :param config: the text of the training config.
    :param report: the dataset step's, None where there is none.
    :param trained_rows_digest: of the set of rows that are learnt from.
    """
    sources = (report or {}).get("sources") or ()
    return {
        "base_model": job.model_id,
        "revision": job.revision,
        "method": job.config.method,
        "objective": job.config.objective,
        "training_config": config,
        "dataset": {
            "digest": (report or {}).get("digest"),
            "sources": [{key: source.get(key) for key in ("url", "sha256")} for source in sources],
            "trained_rows_digest": trained_rows_digest,
        },
        "started_from": (job.start.digest or str(job.start.folder)) if job.start else None,
        "arguments": {
            "training": dict(job.recipe.training),
            "lora": dict(job.recipe.lora),
            "quantization": dict(job.config.quantization),
        },
        "image": os.environ.get("WORKLOAD_IMAGE") or None,
        "device": _device(job),
        "packages": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def _device(job: Job) -> dict[str, Any]:
    """What computes: on a processor the kind, its instructions and the threads decide in which order sums come."""
    import torch

    found = {"name": job.hardware.name, "gpus": job.hardware.gpus, "dtype": job.precision.dtype}
    if job.hardware.device == "cpu":
        found |= {
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
        }
    if job.sharded:
        found["sharded"] = True  # sums come in another order than with the whole model in each process
    return found


def card(repeat: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The model card, in Markdown with the head that model hubs read."""
    lora, training = repeat["arguments"]["lora"], repeat["arguments"]["training"]
    dataset = repeat["dataset"]
    facts = {
        "Base model": f"{repeat['base_model']} at revision {repeat['revision'] or 'unknown'}",
        "Method": f"{repeat['method']}, rank {lora['r']}, alpha {lora['lora_alpha']}, on {lora['target_modules']}",
        "Started from": repeat["started_from"] or "the base model",
        "Dataset": dataset["digest"] or "unknown",
        "Rows": f"{result.get('rows')}, of them {result.get('rows_held_out') or 0} held out",
        "Steps": f"{result['steps']} ({result['epochs']} epochs), batch {training['per_device_train_batch_size']} x "
        f"{training.get('gradient_accumulation_steps') or 1} sequences of up to {training['max_length']} tokens",
        "Learning rate": f"{training['learning_rate']:g}, {training['lr_scheduler_type']}",
        "Seed": training["seed"],
        "Loss": f"{result['loss_first']} to {result['loss_last']}",
        "Loss on held-out rows": result.get("loss_evaluation", "not measured"),
        **({"Objective": repeat["objective"]} if repeat["objective"] != Objective.SFT else {}),
        **{
            f"{key.replace('_', ' ').capitalize()} on held-out rows": result[key]
            for key in _REWARDS
            if key in result
        },
        "Computed in": f"{repeat['device']['dtype']} on {repeat['device']['name']}",
        "Weights": f"sha256:{repeat['adapter_sha256']}",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    sources = "\n".join(f"* {source['url']} (sha256 {source['sha256']})" for source in dataset["sources"])
    return (
        f"---\nbase_model: {json.dumps(repeat['base_model'])}\nlibrary_name: peft\npipeline_tag: text-generation\n"
        f"tags: [lora, kaito]\n---\n\n# Adapter for {repeat['base_model']}\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Data\n\n{sources or 'Its sources are not known.'}\n\n"
        f"## To make it again\n\n`{record.REPRODUCE}` has the training config, every argument, the digests of model "
        "and data and the versions of the packages. On a processor the same gives the same bytes; on GPUs sums come "
        "in another order.\n"
    )


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"


def dataset_report(data: Path) -> dict[str, Any] | None:
    """What the dataset step reported; None where that cannot be read."""
    try:
        found = json.loads((data / "report.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "sentence" in found else None
