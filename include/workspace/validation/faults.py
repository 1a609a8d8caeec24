"""What is wrong with a Workspace: the faults of the contracts, and the error that carries all of them."""

from __future__ import annotations

from collections.abc import Iterable

from include.contracts.faults import Fault, Hints, did_you_mean, nearest

__all__ = ["Fault", "Hints", "WorkspaceInvalid", "did_you_mean", "nearest"]


class WorkspaceInvalid(ValueError):
    """A Workspace that cannot be used; `faults` holds every reason, and str() gives one a line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))
