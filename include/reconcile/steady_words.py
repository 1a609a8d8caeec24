"""What the kubelet says again at each try, without what is new at each, or a condition were written at each."""

from __future__ import annotations

import re

#: An object that its author has to make. A driver or a Node that is "not found" is usual on a fresh Node, for minutes.
MISSING = re.compile(
    r'\b(?:configmap|secret|persistentvolumeclaim|serviceaccount)s? "[^"]+" not found', re.IGNORECASE
)
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_CHANGING = re.compile(
    "|".join(
        (
            f"(?P<whole>{MISSING.pattern}|sha256:[0-9a-f]+)",  # names, which stay
            # UUIDs of a network namespace and of a request. A volume's and a pod's stay.
            rf"(?P<before>\bcni-|(?:request|correlation|activity|trace)[ _-]?id\W{{0,4}}){_UUID}",
            r"(?<![0-9A-Za-z])[0-9a-f]{32,}(?![0-9A-Za-z])",  # ids of sandboxes, containers and requests
            r"\b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?",
            r'(?<![\w."/:-])(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?(?:ms|us|µs|s)(?![\w-])',  # Go's durations
            r"(?<=:)\d+(?=->)",  # the port that a connection came from
            r"(?<=containerd-mount)\d+",
        )
    ),
    re.IGNORECASE,
)


def steady(message: str) -> str:
    """Return a message with dots in place of ids, times, durations and ports that are others at the next try."""
    return _CHANGING.sub(lambda found: found["whole"] or f"{found['before'] or ''}...", message)
