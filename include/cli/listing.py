"""What a Workspace can name, as tables for people and rows for programs: models, machines; and the rules.

It must never print a figure that the catalogue does not hold: what is unknown is an empty cell, or null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from include.catalog import Catalog, Machine, Model, load_catalog
from include.cli.rule_texts import SENTENCES, topic

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def models(catalog: Catalog, part: str = "") -> list[Row]:
    """The presets whose name, alias or hub id holds `part`, in any letter case; current ones first."""
    found = [model for model in catalog.models if _holds(part, model.all_names)]
    return [_model(model) for model in sorted(found, key=lambda one: (one.deprecated, one.name.lower()))]


def machines(catalog: Catalog, part: str = "") -> list[Row]:
    """The machine types whose name, GPU or cloud holds `part`, by cloud, GPU memory and name."""
    found = [one for one in catalog.machines if _holds(part, (one.name, one.gpu, one.cloud))]
    ordered = sorted(
        found, key=lambda one: (one.deprecated, one.cloud, one.gpus * one.gpu_memory_gib, one.name)
    )
    return [_machine(machine) for machine in ordered]


def rules(part: str = "") -> list[Row]:
    """The rules whose id is `part`, or whose sentence or topic holds it."""
    rows = [{"id": rule, "about": topic(rule), "rule": text} for rule, text in SENTENCES.items()]
    return [
        row
        for row in rows
        if part.upper() == row["id"] or (part.upper() not in SENTENCES and _holds(part, row.values()))
    ]


def of(verb: str, part: str) -> tuple[Sequence[Column], list[Row]]:
    """The columns and rows of one of the verbs models, machines and rules."""
    if verb == "rules":
        return RULE_COLUMNS, rules(part)
    if verb == "models":
        return MODEL_COLUMNS, models(load_catalog(), part)
    return MACHINE_COLUMNS, machines(load_catalog(), part)


def _model(model: Model) -> Row:
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "id": model.hf_id,
        "revision": model.revision,
        "weightsGiB": round(model.weights_gib, 2),
        "context": model.context,
        "tunable": model.tuning.supported,
        "licence": model.licence,
        "gated": model.gated,
        "deprecated": model.deprecated,
        "lastRelease": model.last_release,
    }


def _machine(machine: Machine) -> Row:
    return {
        "name": machine.name,
        "cloud": machine.cloud,
        "gpu": machine.gpu,
        "gpus": machine.gpus,
        "gpuMemoryGiB": machine.gpu_memory_gib,
        "computeCapability": machine.compute_capability,
        "bfloat16": machine.bf16,
        "nvidia": machine.nvidia,
        "usdPerHour": machine.usd_per_hour,
        "priceAsOf": machine.price_as_of,
        "deprecated": machine.deprecated,
        "lastRelease": machine.last_release,
    }


MODEL_COLUMNS: Sequence[Column] = (
    ("NAME", lambda row: row["name"]),
    ("WEIGHTS", lambda row: f"{row['weightsGiB']:.1f} GiB"),
    ("CONTEXT", lambda row: str(row["context"])),
    ("TUNABLE", lambda row: "yes" if row["tunable"] else "no"),
    ("LICENCE", lambda row: (row["licence"] or "") + (" (gated)" if row["gated"] else "")),
    ("HUB", lambda row: row["id"]),
    ("ALIASES", lambda row: ", ".join(row["aliases"])),
    ("NOTE", lambda row: _dropped(row)),
)
RULE_COLUMNS: Sequence[Column] = (
    ("ID", lambda row: row["id"]),
    ("ABOUT", lambda row: row["about"]),
    ("RULE", lambda row: row["rule"]),
)
MACHINE_COLUMNS: Sequence[Column] = (
    ("NAME", lambda row: row["name"]),
    ("CLOUD", lambda row: row["cloud"]),
    ("GPUS", lambda row: f"{row['gpus']} x {row['gpu']}"),
    ("MEMORY", lambda row: f"{row['gpuMemoryGiB']:g} GiB each"),
    ("BF16", lambda row: "yes" if row["bfloat16"] else "no"),
    ("USD/HOUR", lambda row: "" if row["usdPerHour"] is None else f"{row['usdPerHour']:.2f}"),
    ("NOTE", lambda row: _dropped(row) if row["nvidia"] else "no NVIDIA GPU: not usable here"),
)


def _dropped(row: Row) -> str:
    if not row["deprecated"]:
        return ""
    return f"deprecated; last in KAITO {row['lastRelease']}" if row["lastRelease"] else "deprecated"


def table(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """Aligned lines under a heading; columns that would be empty are left out."""
    cells = [(title, [cell(row) for row in rows]) for title, cell in columns]
    shown = [(title, texts) for title, texts in cells if any(texts)]
    widths = [max(len(title), *(len(text) for text in texts)) for title, texts in shown]
    for line in [[title for title, _ in shown], *zip(*(texts for _, texts in shown), strict=True)]:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def _holds(part: str, names: Iterable[str]) -> bool:
    return any(part.lower() in name.lower() for name in names)
