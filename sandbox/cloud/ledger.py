"""The cloud's bill: one line when a machine starts and one when it stops, in <state>/ledger.jsonl.

It must never be rewritten, only appended to, so that a crash can lose at most a line's tail.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rental:
    """One machine's time; `stopped` is None while it runs. Seconds count from start to stop (or to now)."""

    node: str
    instance_type: str
    claim: str
    labels: dict[str, str]
    started: datetime
    stopped: datetime | None

    @property
    def seconds(self) -> float:
        return ((self.stopped or datetime.now(UTC)) - self.started).total_seconds()


class Ledger:
    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, node: str, instance_type: str, claim: str, labels: dict[str, str]) -> None:
        """Note that a machine runs; a machine that is noted already is not noted twice."""
        if not any(rental.node == node and rental.stopped is None for rental in self.rentals()):
            self._append(
                {
                    "event": "start",
                    "node": node,
                    "instanceType": instance_type,
                    "claim": claim,
                    "labels": labels,
                }
            )

    def stop(self, node: str) -> None:
        """Note that a machine is gone; without effect when it is not noted as running."""
        running = next((r for r in self.rentals() if r.node == node and r.stopped is None), None)
        if running is not None:
            self._append(
                {"event": "stop", "node": node, "claim": running.claim, "seconds": round(running.seconds, 3)}
            )

    def rentals(self) -> list[Rental]:
        result: dict[str, Rental] = {}
        done: list[Rental] = []
        for line in self._lines():
            at = datetime.fromisoformat(line["at"])
            if line["event"] == "start":
                result[line["node"]] = Rental(
                    line["node"], line["instanceType"], line["claim"], line.get("labels") or {}, at, None
                )
            elif line["node"] in result:
                rental = result.pop(line["node"])
                done.append(Rental(**{**vars(rental), "stopped": at}))
        return [*done, *result.values()]

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = []
        for text in self._path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue  # the torn last line of a crash
        return lines

    def _append(self, entry: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"at": datetime.now(UTC).isoformat(), **entry}) + "\n")
