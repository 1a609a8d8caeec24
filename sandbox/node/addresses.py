"""Pod addresses: one loopback address per pod, 127.64.x.y, so that every pod may listen on the same port."""

from __future__ import annotations

NETWORK = "127.64"
HOST_ADDRESS = "127.0.0.1"
_SIZE = 65536


class PodAddresses:
    """Gives out addresses. `start` (any number) is where it begins, so that two sandboxes seldom meet."""

    def __init__(self, start: int) -> None:
        self._next = start % _SIZE
        self._used: dict[str, str] = {}

    def take(self, uid: str, wanted: str = "") -> str:
        """The pod's address; `wanted` is what it had before the sandbox was started again."""
        if uid in self._used:
            return self._used[uid]
        taken = set(self._used.values())
        if wanted.startswith(NETWORK) and wanted not in taken:
            self._used[uid] = wanted
            return wanted
        for _ in range(_SIZE):
            self._next = (self._next + 1) % _SIZE
            address = f"{NETWORK}.{self._next // 256}.{self._next % 256}"
            if self._next % 256 not in (0, 255) and address not in taken:
                self._used[uid] = address
                return address
        raise RuntimeError("The sandbox has no pod address left: 65,000 pods are too many for one machine.")

    def give_back(self, uid: str) -> None:
        self._used.pop(uid, None)
