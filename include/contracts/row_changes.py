"""How two versions of a dataset differ: the pod that compares them and the control plane that judges say it alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Rows that one version of a dataset has and the one before has not, and the other way round.

    A row that repeats counts each time.
    """

    added: int
    removed: int

    def __str__(self) -> str:
        return f"+{self.added} \N{MINUS SIGN}{self.removed} rows"

    @classmethod
    def of(cls, added: int | None, removed: int | None) -> RowChanges | None:
        """None where one of them is not known."""
        return None if added is None or removed is None else cls(added, removed)
