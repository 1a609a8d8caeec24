"""Refuses what would only wait: KAITO's rule, with a Retry-After.

KAITO v0.12 presets/workspace/inference/vllm/rate_limit.py: more than T waiting is 429, where T is the number of
sequences that the engine runs together and waiting is the engine's gauge or, because that lags, the guarded requests
in flight beyond T. So T running and T waiting pass. KAITO forgot some paths that are work for the engine, such as
`/v1/responses` and `/v1/messages`; here all of vLLM's are guarded, which is also what makes a request count as use and
what gives it the adapter of a public name.
"""

from __future__ import annotations

from collections.abc import Callable

from include.workloads.serving.gateway.asgi import Refusal

GUARDED = (
    "/chat",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/audio",
    "/v1/rerank",
    "/v1/score",
    "/v2/embed",
    "/v2/rerank",
    "/v1/systemone",
    "/inference/v1/generate",
    "/invocations",
    "/cohere/",
    "/generative_scoring",
    "/tokenize",
    "/detokenize",
    "/pooling",
    "/score",
    "/rerank",
    "/classify",
)
CANCEL = "/cancel"  # `/v1/responses/{id}/cancel` has no body and takes work away, so it is never refused
RETRY_SECONDS = 5


def guarded(path: str) -> bool:
    """Whether requests to this path are work for the engine."""
    return path.startswith(GUARDED) and not path.endswith(CANCEL)


def endpoint(path: str) -> str:
    """A path as a label of metrics: of few values, whatever clients ask for, since each is kept for good.

    :returns: the guarded path that it is or is under, else "other".
    """
    return max((one for one in GUARDED if path.startswith(one)), key=len, default="other")


class QueueGuard:
    """Counts guarded requests in flight and compares them with what the engine says."""

    def __init__(self, running: Callable[[], int | None], waiting: Callable[[], float]) -> None:
        """`running` gives T, None before the engine is up (then nothing is refused); `waiting` the engine's gauge."""
        self._running, self._waiting = running, waiting

    @property
    def limit(self) -> int | None:
        """How many run together, None before the engine is up."""
        return self._running()

    def check(self, in_flight: int) -> None:
        """Raises Refusal 429 when one more would only wait; `in_flight` counts this request too."""
        most = self._running()
        if most is None:
            return
        depth = max(self._waiting(), in_flight - most)
        if depth > most:
            raise Refusal(
                429,
                f"Too many requests are waiting: {depth:g} of at most {most}; try again in a moment.",
                code="rate_limit_exceeded",
                headers={"retry-after": str(RETRY_SECONDS)},
            )
