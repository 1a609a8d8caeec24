"""Catalogue records beside what the hub says: for whoever keeps presets/ true, never for a run.

It must never change a record: it tells what differs, and prints a new record for a person to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields

import yaml

from include.catalog.hub import HubError, resolve
from include.catalog.hub_http import Fetch, http_fetch
from include.catalog.models import Model

COMPARED = ("context", "attention", "kv_bytes_per_token", "gated")
SIZE_TOLERANCE = 0.02  # sizes in presets/ have two decimals


def differences(
    model: Model, token: str | None = None, endpoint: str | None = None, fetch: Fetch = http_fetch
) -> Iterator[str]:
    """Sentences about what a record and the hub disagree on, or the hub's refusal."""
    try:
        found = resolve(model.hf_id, revision=model.revision, token=token, endpoint=endpoint, fetch=fetch)
    except HubError as error:
        yield f"{model.name}: {error}"
        return
    for name in COMPARED:
        ours, theirs = getattr(model, name), getattr(found, name)
        if ours != theirs:
            yield f"{model.name}: {name} is {ours} here and {theirs} on the hub"
    if abs(found.weights_gib - model.weights_gib) > SIZE_TOLERANCE * model.weights_gib + 0.01:
        yield f"{model.name}: weights_gib is {model.weights_gib} here and {found.weights_gib:.2f} on the hub"


def as_yaml(model: Model) -> str:
    """The record as a file of a presets folder's models/ would hold it; fields at their default are left out."""
    record = asdict(model) | {"weights_gib": round(model.weights_gib, 2), "aliases": list(model.aliases)}
    for field in fields(Model):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if getattr(model, field.name) == default:
            del record[field.name]
    if "tuning" in record:
        record["tuning"]["target_modules"] = list(model.tuning.target_modules)
    return str(yaml.safe_dump({"models": [record]}, sort_keys=False, default_flow_style=None, width=120))
