"""The data report: what a finished dataset is like, for machines and for people, and the limits that the config sets.

report.json gets the part about the content of the rows; report.html shows all of it, with the first rows and what of
them is learnt. Both are written before a limit is judged, so that whoever is stopped can see why.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.workloads.contract import UserDataError, atomic_write
from include.workloads.dataset.content import look_at
from include.workloads.dataset.languages import Loading
from include.workloads.dataset.page import page
from include.workloads.dataset.request import Request
from include.workloads.tuning.rows import nothing_held_out

log = logging.getLogger("dataset")

#: Above this share of pairs, length alone would tell the better answer.
LONGER_SHARE = 0.8
PARQUET, REPORT, PAGE = "train.parquet", "report.json", "report.html"
#: The first rows in pieces. They are in no report that leaves the volume.
SAMPLES = "samples.json"


def write_report(output: Path, report: Mapping[str, Any]) -> None:
    """Write a dataset's report beside its rows, whole or not at all."""
    atomic_write(output / REPORT, json.dumps(report, indent=2, ensure_ascii=False).encode() + b"\n")


def describe(request: Request, report: dict[str, Any], model: Loading) -> dict[str, Any]:
    """The report with what the rows are like. UserDataError when that is beyond a limit of the training config."""
    output, asked = request.output, json.loads(json.dumps(request.options.look_identity))
    if report.get("looked_at_with") != asked or not all(
        (output / name).is_file() for name in (PAGE, SAMPLES)
    ):
        content = look_at(output / PARQUET, request.options.look, model)
        samples = content.pop("samples")
        report = {**report, "content": content, "looked_at_with": asked}
        report["findings"] = findings(report)
        atomic_write(output / PAGE, page(report, samples).encode("utf-8", "replace"))
        atomic_write(output / SAMPLES, json.dumps(samples).encode())
        write_report(output, report)
        for sentence in report["findings"]:
            log.info("  %s", sentence)
    _check_limits(request, report)
    return report


def read_samples(request: Request) -> list[list[tuple[str, bool]]]:
    """The first rows in pieces, each with whether it is learnt; none where the installation does not show rows."""
    if not request.samples:
        return []
    found: list[list[tuple[str, bool]]] = json.loads((request.output / SAMPLES).read_text())
    return found


def findings(report: dict[str, Any]) -> list[str]:
    """What a person should know of the rows, a sentence each."""
    content = report["content"]
    told = []
    if report["duplicate_rows"]:
        told.append(f"{report['duplicate_rows']} of {report['rows']} rows repeat an earlier row")
    if (tokens := content["tokens"]) and tokens["cut_share"]:
        told.append(
            f"{tokens['cut_share']:.1%} of the rows are longer than {tokens['max_length']} tokens and are cut, "
            f"{tokens['lost_share']:.1%} lose their whole answer"
        )
    if (held := content["held_out"]) and held["asked_in_training"]:
        told.append(
            f"the question of {held['asked_in_training']} of {held['rows']} held-out rows is also trained on"
        )
    compared = report.get("compared") or {}
    if compared.get("chosen_longer", 0) > LONGER_SHARE * compared.get("pairs", 0):
        told.append(
            f"the better answer is the longer one in {compared['chosen_longer']} of {compared['pairs']} pairs: the "
            "model may learn to be long instead"
        )
    personal = [f"{name} in {count}" for name, count in content["personal"].items() if count]
    if personal:
        told.append(
            f"may be personal data or secrets: {', '.join(personal)} of {content['scanned_rows']} rows"
        )
    return told


def _check_limits(request: Request, report: dict[str, Any]) -> None:
    options, rows, repeated = request.options, report["rows"], report["duplicate_rows"]
    if options.held_out_share > 0 and rows - repeated < 2:
        raise UserDataError(nothing_held_out(rows))
    faults = []
    if options.max_duplicate_share is not None and repeated > options.max_duplicate_share * rows:
        faults.append(
            f"{repeated} of {rows} rows repeat an earlier row, more than {options.max_duplicate_share:.1%} "
            "(DatasetConfig.max_duplicate_share)"
        )
    tokens = report["content"]["tokens"]
    if options.max_cut_share is not None and tokens and tokens["cut_share"] > options.max_cut_share:
        faults.append(
            f"{tokens['cut_share']:.1%} of the rows are longer than {tokens['max_length']} tokens "
            "(TrainingArguments.max_length) and would be cut, more than "
            f"{options.max_cut_share:.1%} (DatasetConfig.max_cut_share)"
        )
    if faults:
        raise UserDataError(f"The data is beyond the limits of the training config: {'; '.join(faults)}.")
