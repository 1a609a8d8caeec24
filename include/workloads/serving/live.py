"""The adapters of a running server: loaded and taken away between two steps of the model, as the pod's sidecar asks.

Names are the engine's, `<name>@<digest12>` where a sidecar follows the Workspace: what clients call them is the
gateway's business. One that a running request still uses goes when that request has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from include.workloads.serving.adapters import Adapter, read_adapter
from include.workloads.serving.generation import Closed, Worker

log = logging.getLogger("workload")

LOOK_SECONDS = 0.5


class Host(Protocol):
    """A model that takes adapters; `Engine` is the real one. Called in the model's thread."""

    def add_adapter(self, adapter: Adapter) -> None:
        """One that is there already stays. Raises UserConfigError when it does not fit."""

    def remove_adapter(self, name: str) -> None:
        """Take away one that no request asks."""


class LiveAdapters(Sequence[str]):
    """Their names, in the order in which they came."""

    def __init__(self, host: Host, worker: Worker, names: Sequence[str] = ()) -> None:
        self._host, self._worker = host, worker
        self._names = list(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def load(self, name: str, path: Path) -> bool:
        """Load an adapter's folder under a name; False when the name is there already. Raises UserConfigError."""
        adapter = read_adapter(path, name=name)
        return bool(self._worker.between_steps(lambda: self._add(adapter)))

    def _add(self, adapter: Adapter) -> bool:
        if adapter.name in self._names:
            return False
        self._host.add_adapter(adapter)
        self._names.append(adapter.name)
        return True

    def unload(self, name: str) -> bool:
        """Answer to this name no more, and let the adapter go; False when there is none of this name."""
        try:
            self._names.remove(name)
        except ValueError:
            return False
        threading.Thread(target=self._let_go, args=(name,), daemon=True, name=f"unload {name}").start()
        return True

    def _let_go(self, name: str) -> None:
        with suppress(Closed):
            while not self._worker.between_steps(lambda: self._gone(name)):
                time.sleep(LOOK_SECONDS)

    def _gone(self, name: str) -> bool:
        """Take it away unless a request asks it; True also when it is wanted again."""
        if name in self._names:
            return True
        if self._worker.wants(name):
            return False
        self._host.remove_adapter(name)
        return True
