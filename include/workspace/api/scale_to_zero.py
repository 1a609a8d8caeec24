"""How long a service may be idle before it is scaled to zero, as a Workspace's annotation says it.

Admission and the reconciler read it here, so that they cannot disagree. It must never guess: what is no such number
scales nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from include.workspace.api.names import SCALE_TO_ZERO

#: A year: whoever means longer means never, which is what no annotation says.
LONGEST_MINUTES = 525_600.0
ALLOWED = "write minutes above 0, such as '30' or '0.5'"
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")


def idle_seconds(annotations: Mapping[str, str]) -> float | None:
    """The idle time in seconds after which a service is scaled to zero, None where that was not asked for.

    :raises ValueError: the annotation is not a number of minutes that it can have.
    """
    given = annotations.get(SCALE_TO_ZERO)
    if given is None:
        return None
    minutes = float(given) if _NUMBER.fullmatch(given) else 0.0
    if not 0 < minutes <= LONGEST_MINUTES:
        raise ValueError(f"{SCALE_TO_ZERO}={given!r} is not a number of minutes above 0; {ALLOWED}")
    return minutes * 60
