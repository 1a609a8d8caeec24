"""How long GPUs were held, and how much of it was of use: the records of machines, counted by GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from include.ledger import records

USEFUL, WASTED = "useful", "wasted"


def gpu_seconds(
    held: Iterable[Mapping[str, Any]], gpus_of: Callable[[str], int], now: datetime
) -> dict[tuple[str, str], float]:
    """GPU-seconds by (purpose, `useful` or `wasted`).

    :param held: records of `status.cost`.
    :param gpus_of: the GPUs of a machine type.
    :param now: the end of what has none.
    """
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for record in held:
        gpus, purpose = gpus_of(str(record.get("machine") or "")), str(record.get("purpose") or "")
        whole, useful = records.seconds(record, now), records.useful_seconds(record, now)
        found[purpose, USEFUL] += gpus * useful
        found[purpose, WASTED] += gpus * (whole - useful)
    return dict(found)
