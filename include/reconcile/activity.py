"""What a server's metrics tell of its use, in Prometheus' text format: this project's server, or vLLM.

What is not understood is no answer, and no answer means in use: it must never take silence for idleness.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from include.reconcile.decision import Activity, Answers

IN_FLIGHT = "kaito_serving_requests_in_flight"
LAST = "kaito_serving_last_request_timestamp_seconds"
ANSWERED = "kaito_serving_requests_total"
FAILED = "kaito_serving_failed_total"
TIMED, SECONDS = "kaito_serving_answer_seconds_count", "kaito_serving_answer_seconds_sum"
#: The counters as `Answers` names them, each with the digest of the adapter as a label.
BY_ADAPTER = {ANSWERED: "answered", FAILED: "failed", TIMED: "timed", SECONDS: "seconds"}
CANARY, REFUSED = "kaito_serving_canary_percent", "kaito_serving_adapter_refused"
#: vLLM tells of no moment, so its counters are compared from one look to the next.
VLLM_IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")
VLLM_COUNTERS = ("vllm:request_success_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)", re.MULTILINE)
_ADAPTER = re.compile(r'(?:^|,)adapter="(?P<digest>[^"\\]+)"')


def read(text: str) -> Activity | None:
    """The use that one server's metrics tell of, None when they do not tell it."""
    result: dict[str, float] = defaultdict(float)
    adapters: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for sample in _SAMPLE.finditer(text):
        try:
            value = float(sample["value"])
        except ValueError:
            return None
        result[sample["name"]] += value
        if digest := _ADAPTER.search(sample["labels"] or ""):
            adapters[digest["digest"]][sample["name"]] += value
    if IN_FLIGHT in result and LAST in result:
        quality = (result.get(name, 0.0) for name in (FAILED, TIMED, SECONDS))
        failed, timed, seconds = quality
        found = Activity(result[IN_FLIGHT], result.get(ANSWERED, 0.0), result[LAST], failed, timed, seconds)
        return _sound(replace(found, **_told_of(adapters)))
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


def _told_of(adapters: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What the samples with an adapter's digest tell of each."""
    answers = {
        digest: Answers(**{field: told.get(name, 0.0) for name, field in BY_ADAPTER.items()})
        for digest, told in adapters.items()
    }
    canaries = {digest: told[CANARY] for digest, told in adapters.items() if CANARY in told}
    refused = frozenset(digest for digest, told in adapters.items() if told.get(REFUSED))
    return {"adapters": answers, "canaries": canaries, "refused": refused}


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
        _summed(servers),
        {
            digest: percent
            for digest, percent in servers[0].canaries.items()
            if all(digest in one.canaries for one in servers)
        },
        frozenset().union(*(one.refused for one in servers)),
    )


def _summed(servers: Sequence[Activity]) -> dict[str, Answers]:
    digests = {digest for one in servers for digest in one.adapters}
    fields = tuple(BY_ADAPTER.values())
    return {
        digest: Answers(
            **{
                field: sum(getattr(one.adapters.get(digest, Answers()), field) for one in servers)
                for field in fields
            }
        )
        for digest in digests
    }


def _sound(found: Activity) -> Activity | None:
    numbers = (found.in_flight, found.answered, found.last or 0.0, found.failed, found.timed, found.seconds)
    return found if all(math.isfinite(number) and number >= 0 for number in numbers) else None
