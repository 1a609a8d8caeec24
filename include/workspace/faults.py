"""What is wrong with a Workspace, in terms that its author can act on.

A fault is found before anything costs money, and all faults are reported at once. A fault must never show a secret:
URLs lose their query and user information before they come here (see urls.redact).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

VALUE_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule: the field's path, its value (None when it is missing), the rule's id, what and what instead.

    Rule ids are those of KAITO's contract (C1, T1, U10 ...); F ids are rules that KAITO lacks; S ids are the schema's.
    """

    path: str
    value: object
    rule: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        what = f" (got {self.shown})" if self.value is not None else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}{self.message}{what}{hint} [{self.rule}]"

    @property
    def shown(self) -> str:
        """The value, cut to a length that fits a sentence."""
        text = repr(self.value)
        return text if len(text) <= VALUE_LENGTH else text[: VALUE_LENGTH - 3] + "..."


class WorkspaceInvalid(ValueError):
    """A Workspace that cannot be used; `faults` holds every reason, and str() gives one a line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or lists them all when none is near; "" when there are none."""
    names = sorted(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    if close:
        return f"did you mean {by_lower[close[0]]}?"
    return f"known here: {', '.join(names)}" if names else ""
