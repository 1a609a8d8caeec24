"""What a new service can do at most, as its pod has measured it: waited for, and written into the Workspace's status.

The service answers meanwhile, so the Workspace is ready before; a measurement that fails fails nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from include.workspace.status.conditions import ConditionType, set_condition
from kaito.hooks.api import ClusterError

log = logging.getLogger(__name__)

PATH = "kaito/performance"
#: A minute of load, and the answers that are under way at its end.
SECONDS, POLL = 150.0, 2.0
DONE, FAILED, RUNNING = "done", "failed", "running"
COMPLETED, NOT_COMPLETED = "BenchmarkCompleted", "BenchmarkFailed"


def wait(
    ask: Callable[[], Any],
    *,
    seconds: float = SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any] | None:
    """Wait for the benchmark's end; what it says, None where there is none.

    :param ask: what the gateway says at /kaito/performance.
    """
    deadline = clock() + seconds
    while True:
        try:
            said = ask()
        except ClusterError as error:
            log.warning("The service does not say what it can do: %s", error)
            return None
        state = said.get("state") if isinstance(said, Mapping) else None
        if state in (DONE, FAILED):
            return dict(said)
        if state != RUNNING:
            return None
        if clock() >= deadline:
            return {"state": FAILED, "message": f"The benchmark has not ended after {seconds:.0f} s."}
        sleep(POLL)


def written(status: Mapping[str, Any], said: Mapping[str, Any], generation: int) -> dict[str, Any]:
    """The status with the benchmark's word: `performance.metrics` and the condition BenchmarkCompleted."""
    done = said.get("state") == DONE
    metrics = said.get("metrics") if done else None
    result = {**status, "performance": {"metrics": metrics}} if isinstance(metrics, Mapping) else {**status}
    result["conditions"] = set_condition(
        status.get("conditions") or [],
        ConditionType.BENCHMARK_COMPLETED,
        done,
        COMPLETED if done else NOT_COMPLETED,
        sentence(said),
        generation,
        datetime.now(UTC),
    )
    return result


def sentence(said: Mapping[str, Any]) -> str:
    """The result in words."""
    peak = ((said.get("metrics") or {}).get("peakTokensPerMinute") or {}).get("value", 0)
    if said.get("state") == DONE:
        return f"The service takes and gives {int(peak):,} tokens a minute at most."
    return str(said.get("message") or "The benchmark failed.")[:1000]
