"""Work that a thread does beside its caller: hashing and compressing release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec

Given = ParamSpec("Given")


class Beside:
    """Pieces of work in their order, one at a time: the next is taken when the one before it is done.

    So at most one piece's data is held beside what the caller has. As a context manager it ends the thread, and does
    not raise the fault of a last piece that nobody waited for.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._pending: Future[object] | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def do(self, work: Callable[Given, object], *given: Given.args, **named: Given.kwargs) -> None:
        """Begin a piece of work. Raises the fault of the one before it."""
        self.wait()
        self._pending = self._thread.submit(work, *given, **named)

    def wait(self) -> None:
        """Until all that was begun is done. Raises its fault."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
