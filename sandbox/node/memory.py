"""How much memory a container's processes use, for its memory limit. Reads /proc only."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process started; none when it is gone."""
    result = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            result += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return result
    return result


def _resident(pid: int) -> int:
    """Anonymous and shared-memory bytes: what a cgroup counts that cannot simply be dropped."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return total
    return total


def tree_memory(first: int) -> int:
    """Bytes used by a process and everything it started."""
    total, waiting, seen = 0, [first], set()
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            total += _resident(pid)
            waiting += children(pid)
    return total
