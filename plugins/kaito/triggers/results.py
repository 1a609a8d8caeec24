"""What a wait leaves in XCom: written by the trigger, read by the steps after it."""

from __future__ import annotations

import json
from typing import Self

from include.contracts.results import Result


class WaitResult(Result):
    """What was seen when the wait was over.

    :param nodes: the names of the Nodes that are there.
    :param offer: which of several choices of machines they are, None where there was one.
    """

    message: str | None = None
    nodes: tuple[str, ...] = ()
    offer: str | None = None

    @classmethod
    def read(cls, value: object) -> Self:
        """Return it from XCom, where what a trigger leaves stands as JSON text."""
        return super().read(json.loads(value) if isinstance(value, str) else value)
