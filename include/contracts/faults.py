"""What is wrong with a Workspace or a training config, in terms that its author can act on.

A fault is found before anything costs money, and all faults are reported at once. A fault must never show a secret:
every text in it is redacted when it is made, whoever prints it later and however.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from include.contracts.redaction import redacted

VALUE_LENGTH = 80
NAME_LENGTH = 120  # of a misspelt name, compared with known ones
CLOSE_LOOKS = 8  # known names that a misspelt one is compared with letter by letter
LIKENESS = 0.6  # difflib's own cutoff
HINTS = 50  # misspelt names of one document that get a suggestion; nobody reads more, and each takes time


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule: the field's path, its value (None when it is missing), the rule's id, what and what instead.

    Rule ids (C1, T1, U10 ...) are those of kaito-api.md#rules; F ids are rules that KAITO lacks, S ids the schema's.
    """

    path: str
    value: object
    rule: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("path", "value", "message", "hint"):
            object.__setattr__(self, name, redacted(getattr(self, name)))

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


class Hints:
    """Suggestions for the misspelt names of one document: the first few get one, a flood of them gets none."""

    def __init__(self, limit: int = HINTS) -> None:
        self._left = limit

    def nearest(self, name: str, known: frozenset[str]) -> str | None:
        """As the function `nearest`, while there are suggestions left."""
        if self._left <= 0:
            return None
        self._left -= 1
        return nearest(name, known)

    def did_you_mean(self, name: str, known: Iterable[str]) -> str:
        """As the function `did_you_mean`, while there are suggestions left; then ""."""
        if self._left <= 0:
            return ""
        self._left -= 1
        return did_you_mean(name, known)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or lists them all when none is near; "" when there are none."""
    names = known if isinstance(known, frozenset) else frozenset(known)
    close = nearest(name, names)
    if close:
        return f"did you mean {close}?"
    return f"known here: {', '.join(sorted(names))}" if names else ""


def nearest(name: str, known: frozenset[str]) -> str | None:
    """The known name that is most like this one, whatever its letter case; None when none is alike.

    Only the few that share most pairs of letters are compared closely: a hundred Workspaces with a hundred misspelt
    names are checked in a fraction of a second.
    """
    import difflib  # a Workspace without a fault needs none

    wanted = name[:NAME_LENGTH].lower()
    by_pair = _by_pair(known)
    shared = Counter(candidate for pair in _pairs(wanted) for candidate in by_pair.get(pair, ()))
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)
    best, alike = None, LIKENESS
    for candidate in heapq.nsmallest(CLOSE_LOOKS, shared, key=lambda name: (-shared[name], name)):
        matcher.set_seq1(candidate.lower())
        if matcher.quick_ratio() >= alike and (ratio := matcher.ratio()) >= alike:
            best, alike = candidate, ratio + 1e-9
    return best


@lru_cache(maxsize=64)
def _by_pair(known: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """The names that hold each pair of letters."""
    result: dict[str, list[str]] = {}
    for name in sorted(known):
        for pair in _pairs(name.lower()):
            result.setdefault(pair, []).append(name)
    return {pair: tuple(names) for pair, names in result.items()}


def _pairs(text: str) -> set[str]:
    """Neighbouring letters, with marks for the beginning and the end so that short names have some too."""
    marked = f"^{text}$"
    return {marked[index : index + 2] for index in range(len(marked) - 1)}
