"""The exit codes by which a workload pod says who has to act; the control plane decides about retries by them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of a workload's main container; 64, 65, 75 are sysexits.h's USAGE, DATAERR, TEMPFAIL."""

    OK = 0
    INTERNAL = 1
    CONFIG = 64
    DATA = 65
    TRY_AGAIN = 75


#: Only the Workspace's author can mend these: the same pod would end the same way again.
USER_EXIT_CODES = frozenset({ExitCode.CONFIG, ExitCode.DATA})
