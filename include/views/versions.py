"""The versions of an adapter, each with the data that it learnt from: the lineage on a Workspace's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.contracts.dataset_digest import short
from include.contracts.redaction import redact
from include.contracts.row_changes import RowChanges
from include.retraining.versions import State
from include.views.words import usd

SERVED = "answers today"
WORDS: Mapping[str, str] = {State.ROLLED_BACK: "rolled back"}


@dataclass(frozen=True, slots=True)
class Version:
    """One version in words; `digest` is whole, `origin` the adapter that it went on from."""

    version: str
    state: str
    digest: str
    data: str
    origin: str
    run: str
    cost: str
    reason: str

    @property
    def tone(self) -> str:
        """The colour of its state."""
        return {SERVED: "good", State.REFUSED: "bad", State.FAILED: "bad"}.get(self.state, "idle")


def versions(status: Mapping[str, Any]) -> list[Version]:
    """The versions that a status tells of, the youngest first. Whatever is not as it should be is left out."""
    retrain = status.get("retrain")
    known = retrain.get("versions") if isinstance(retrain, Mapping) else None
    served = str((status.get("adapter") or {}).get("digest") or "")
    entries = [one for one in (known if isinstance(known, list) else ()) if isinstance(one, Mapping)]
    return [_version(one, served) for one in reversed(entries)]


def _version(entry: Mapping[str, Any], served: str) -> Version:
    def text(key: str) -> str:
        return redact(str(entry.get(key) or ""))

    digest, cost, state = text("digest"), entry.get("usd"), text("state")
    return Version(
        version=text("version"),
        state=SERVED if digest and digest == served else WORDS.get(state, state),
        digest=digest,
        data=_data(entry.get("dataset")),
        origin=short(text("from")),
        run=text("run"),
        cost=usd(float(cost)) if isinstance(cost, int | float) else "",
        reason=text("reason"),
    )


def _data(told: object) -> str:
    """Its rows, what has changed of them, and the digest of the dataset."""
    if not isinstance(told, Mapping):
        return ""
    rows = told.get("rows")
    moved = RowChanges.of(told.get("added"), told.get("removed"))
    parts = (
        f"{rows:,} rows" if isinstance(rows, int) else "",
        str(moved or ""),
        short(str(told.get("digest") or "")),
    )
    return redact(", ".join(one for one in parts if one))
