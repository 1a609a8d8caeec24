"""Which requests a canary answers: their ids alone decide, alike in every pod and for whoever asks it on purpose.

A request keeps its side when the share grows, and the same id asked twice gets the same version.
"""

from __future__ import annotations

import hashlib
import uuid

#: The header that names a request; who sends none gets an id of ours in the answer.
HEADER = "x-request-id"


def answers(request_id: str, percent: float) -> bool:
    """Whether a request is the canary's.

    :param request_id: as the client sent it.
    :param percent: the canary's share of all requests, 0 to 100.
    """
    drawn = int.from_bytes(hashlib.sha256(request_id.encode("utf-8", "replace")).digest()[:8], "big")
    return drawn * 100 < percent * 2**64


def fresh_id() -> str:
    """An id for a request that came without one."""
    return uuid.uuid4().hex


def id_for_the_canary(percent: float) -> str:
    """An id whose request the canary answers. Raises ValueError for a share that answers nothing."""
    if percent <= 0:
        raise ValueError(f"a canary with {percent:g} percent of the requests answers none")
    return next(found for found in iter(fresh_id, None) if answers(found, percent))
