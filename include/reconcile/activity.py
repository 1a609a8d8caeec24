"""What a server's metrics tell of its use, in Prometheus' text format: this project's server, or vLLM.

What is not understood is no answer, and no answer means in use: it must never take silence for idleness.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from include.reconcile.decision import Activity

IN_FLIGHT = "kaito_serving_requests_in_flight"
LAST = "kaito_serving_last_request_timestamp_seconds"
ANSWERED = "kaito_serving_requests_total"
FAILED = "kaito_serving_failed_total"
TIMED, SECONDS = "kaito_serving_answer_seconds_count", "kaito_serving_answer_seconds_sum"
#: vLLM tells of no moment, so its counters are compared from one look to the next.
VLLM_IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
VLLM_COUNTERS = ("vllm:request_success_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})?[ \t]+(?P<value>\S+)", re.MULTILINE)


def read(text: str) -> Activity | None:
    """The use that one server's metrics tell of, None when they do not tell it."""
    result: dict[str, float] = defaultdict(float)
    for sample in _SAMPLE.finditer(text):
        try:
            result[sample["name"]] += float(sample["value"])
        except ValueError:
            return None
    if IN_FLIGHT in result and LAST in result:
        quality = (result.get(name, 0.0) for name in (FAILED, TIMED, SECONDS))
        return _sound(Activity(result[IN_FLIGHT], result.get(ANSWERED, 0.0), result[LAST], *quality))
    if all(name in result for name in VLLM_IN_FLIGHT) and any(name in result for name in VLLM_COUNTERS):
        in_flight = sum(result[name] for name in VLLM_IN_FLIGHT)
        return _sound(Activity(in_flight, sum(result.get(name, 0.0) for name in VLLM_COUNTERS), None))
    return None


def requests(text: str) -> float | None:
    """The requests that one server has answered since it started, None when its metrics do not tell."""
    found: dict[str, float] = defaultdict(float)
    for sample in _SAMPLE.finditer(text):
        if sample["name"] in (ANSWERED, IN_FLIGHT, VLLM_COUNTERS[0]):
            try:
                found[sample["name"]] += float(sample["value"])
            except ValueError:
                return None
    # A counter with labels is not there before the first request.
    told = next(
        (found[name] for name in (ANSWERED, VLLM_COUNTERS[0]) if name in found), 0.0 if found else None
    )
    return told if told is not None and math.isfinite(told) and told >= 0 else None


def together(told: Iterable[Activity | None]) -> Activity | None:
    """The use of a service by that of its servers, None when one of them tells nothing or there is none."""
    known = list(told)
    servers = [one for one in known if one is not None]
    if not servers or len(servers) < len(known):
        return None
    moments = [one.last for one in servers if one.last is not None]
    return Activity(
        sum(one.in_flight for one in servers),
        sum(one.answered for one in servers),
        max(moments) if len(moments) == len(servers) else None,
        sum(one.failed for one in servers),
        sum(one.timed for one in servers),
        sum(one.seconds for one in servers),
    )


def _sound(found: Activity) -> Activity | None:
    numbers = (found.in_flight, found.answered, found.last or 0.0, found.failed, found.timed, found.seconds)
    return found if all(math.isfinite(number) and number >= 0 for number in numbers) else None
