"""A new Workspace from a form: machines that fit a model with their prices, and the YAML that the form means.

The YAML is what a person would write; it is judged like one (`check`), so nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from include.catalog import Catalog
from include.catalog.choice import Purpose, recommend
from include.catalog.memory import gib
from include.catalog.training_shape import TrainingShape
from include.contracts.methods import OBJECTIVES, Objective
from include.workspace.api import names
from include.workspace.api.dialect import V1BETA1

TUNE, SERVE = "tune", "serve"
METHODS = ("qlora", "lora")
#: What a training may learn from, and what its rows must have for it.
LEARNS_FROM: Mapping[str, str] = {
    Objective.SFT: "answers",
    Objective.DPO: "pairs of answers (chosen, rejected)",
    Objective.KTO: "answers marked good or bad (label)",
}


@dataclass(frozen=True, slots=True)
class MachineChoice:
    """A machine type for a piece of work: list price in USD an hour (None: not known), and why it does not fit."""

    name: str
    cloud: str
    gpus: str
    usd_per_hour: float | None
    needs: str
    why_not: str


def machines(
    catalog: Catalog, model: str, purpose: str, method: str = "qlora", objective: str = Objective.SFT
) -> list[MachineChoice]:
    """The machine types for a model, those that fit first and the cheapest of them at the top.

    :param purpose: `TUNE` or `SERVE`.
    :raises KeyError: there is no such model; the text names the nearest.
    :param objective: what a tuning learns from: pairs take more memory.
    :raises ValueError: the model cannot be tuned, or there is no such objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is none of {', '.join(OBJECTIVES)}.")
    shape = TrainingShape.modest(objective)
    what = Purpose.TUNING if purpose == TUNE else Purpose.SERVING
    return [
        MachineChoice(
            name=one.machine.name,
            cloud=one.machine.cloud,
            gpus=f"{one.machine.gpus} x {one.machine.gpu}, {one.machine.gpu_memory_gib:g} GiB",
            usd_per_hour=one.machine.usd_per_hour,
            needs=gib(one.memory_bytes) if one.memory_bytes else "",
            why_not=one.why_not,
        )
        for one in recommend(catalog.model(model), what, method, catalog, shape=shape)
        if not one.machine.deprecated or one.fits
    ]


def compose(form: Mapping[str, Any]) -> str:
    """The YAML of a form: empty fields are left out, so that `check` names what is missing.

    Fields: name, namespace, purpose (`TUNE`, `SERVE`), model, machine, urls (one a line), method, objective (what it
    learns from; nothing is `sft`), image, secret, rollout ("true": serve it after the tuning), budget (US dollars).
    """
    name = _text(form, "name")
    annotations: dict[str, str] = {}
    if _text(form, "purpose") == TUNE:
        if _text(form, "rollout") == "true":
            annotations[names.ROLLOUT] = "true"
        if (objective := _text(form, "objective")) not in ("", Objective.SFT):
            annotations[names.TUNING_OBJECTIVE] = objective
    if budget := _text(form, "budget"):
        annotations[names.BUDGET] = budget
    meta = {"name": name, "namespace": _text(form, "namespace") or "default", "annotations": annotations}
    document: dict[str, Any] = {
        "apiVersion": V1BETA1,
        "kind": names.KIND,
        "metadata": _filled(meta),
        "resource": _filled(
            {
                "instanceType": _text(form, "machine"),
                "labelSelector": {"matchLabels": {"apps": name or "model"}},
            }
        ),
    }
    preset = {"name": _text(form, "model")}
    if _text(form, "purpose") == TUNE:
        urls = [line.strip() for line in _text(form, "urls").splitlines() if line.strip()]
        output = {"image": _text(form, "image"), "imagePushSecret": _text(form, "secret")}
        document["tuning"] = {
            "preset": preset,
            "method": _text(form, "method") or METHODS[0],
            "input": {"urls": urls},
            "output": _filled(output),
        }
    else:
        document["inference"] = {"preset": preset}
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _text(form: Mapping[str, Any], key: str) -> str:
    value = form.get(key)
    return str(value).strip() if value is not None else ""


def _filled(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if value not in ("", {}, [])}
