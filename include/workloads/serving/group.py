"""One server in several pods: they start together, and when one dies all end at once, to come back whole.

A model that is spread over pods cannot go on without one of them, and the engines of the others would wait for it for
minutes. So each pod's first process holds a connection to the leader's and watches it beside its engine. The kubelet
restarts what ended. It must never restart an engine itself: a group has one life.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from include.workloads.contract import TryAgain

log = logging.getLogger("workload")

T = TypeVar("T")

GROUP_PORT = 29501
JOIN_SECONDS = 3600.0  # pods of a group come up as late as their machines and weights do
BEAT_SECONDS, SILENCE_SECONDS = 2.0, 15.0
KILL_SECONDS = 5.0
# What a worker says of its own use (gateway/use.py): requests come to the leader alone.
UNUSED = b"kaito_serving_requests_in_flight 0\nkaito_serving_last_request_timestamp_seconds 0\n"


class Lost(Exception):
    """Another pod of the group is gone."""


@dataclass
class Member:
    """This pod's place in the group. `leader` is the first pod's address, `health_port` where a worker is probed."""

    rank: int
    size: int
    leader: str
    address: str
    port: int = GROUP_PORT
    health_port: int = 5000
    drain_seconds: float = 25.0
    join_seconds: float = JOIN_SECONDS
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    def run(self, command: Sequence[str]) -> None:
        """Run the engine as long as the group is whole. Raises TryAgain when it is not, SystemExit with its code."""
        raise SystemExit(asyncio.run(self._run(command)))

    async def _run(self, command: Sequence[str]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            if self.rank == 0:
                return await self._lead(command)
            return await self._follow(command)
        except Lost as lost:
            raise TryAgain(f"{lost}; the group starts again together.") from None

    # --- the leader -----------------------------------------------------------------------------------------------

    async def _lead(self, command: Sequence[str]) -> int:
        workers: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        whole = asyncio.Event()

        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            rank = await _hello(reader, self.size)
            if rank is None or whole.is_set():
                writer.close()  # of another life of the group: it comes again
                return
            if earlier := workers.get(rank):
                earlier[1].close()
            workers[rank] = (reader, writer)
            log.info("Pod %d of %d has joined.", rank, self.size)
            if len(workers) == self.size - 1:
                whole.set()

        server = await asyncio.start_server(joined, self.address, self.port)
        async with server:
            if not await self._until(whole, "its pods"):
                return 0
            for _, writer in workers.values():
                writer.write(b"go\n")
            watching = [
                _watch(reader, writer, f"Pod {rank} of the group is gone")
                for rank, (reader, writer) in workers.items()
            ]
            return await self._serve(command, watching, stop_at_once=True)

    # --- a worker -------------------------------------------------------------------------------------------------

    async def _follow(self, command: Sequence[str]) -> int:
        started = asyncio.Event()
        probes = await asyncio.start_server(_health(started), self.address, self.health_port)
        async with probes:
            found = await self._admitted()
            if found is None:
                return 0
            reader, writer = found
            started.set()
            watching = [_watch(reader, writer, "The leader of the group is gone")]
            return await self._serve(command, watching, stop_at_once=False)

    async def _admitted(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection over which the leader said to start; None when told to stop.

        A leader whose group is just ending turns newcomers away: they come again, and need not end themselves.
        """
        while (found := await self._join()) is not None:
            reader, writer = found
            line = await self._first(asyncio.ensure_future(reader.readline()))
            if line == b"go\n":
                return found
            writer.close()
            if line is None:
                return None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
        return None

    async def _join(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection to the leader, who may come up later than this pod; None when told to stop."""
        deadline = asyncio.get_running_loop().time() + self.join_seconds
        while not self._stop.is_set():
            with suppress(OSError):  # not there yet, or its name is not known yet
                reader, writer = await asyncio.open_connection(self.leader, self.port)
                writer.write(json.dumps({"rank": self.rank, "size": self.size}).encode() + b"\n")
                return reader, writer
            if asyncio.get_running_loop().time() > deadline:
                raise Lost(f"The leader {self.leader} did not come within {self.join_seconds:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
        return None

    # --- both -----------------------------------------------------------------------------------------------------

    async def _serve(
        self, command: Sequence[str], watching: Sequence[asyncio.Future[None]], *, stop_at_once: bool
    ) -> int:
        """Run the engine until it, another pod, or this pod ends.

        Told to stop, the leader lets its engine finish what it answers; a worker goes on computing for it meanwhile.
        """
        engine = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        ended = asyncio.ensure_future(engine.wait())
        stop = asyncio.ensure_future(self._stop.wait())
        either: list[asyncio.Future[Any]] = [ended, *watching]
        try:
            await asyncio.wait([stop, *either], return_when=asyncio.FIRST_COMPLETED)
            if stop.done() and not ended.done():
                if stop_at_once:
                    engine.send_signal(signal.SIGTERM)
                await asyncio.wait(either, timeout=self.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
                return 0
            if ended.done():
                log.error("The engine ended with code %d.", ended.result())
                return ended.result() or 1
            for one in watching:
                if one.done() and (error := one.exception()) is not None:
                    raise error
            return 1
        finally:
            stop.cancel()
            for one in watching:
                one.cancel()
            await _end(engine, ended)

    async def _until(self, event: asyncio.Event, what: str) -> bool:
        """Wait for an event; False when told to stop first. Raises Lost when it does not come."""
        try:
            return await self._first(asyncio.ensure_future(event.wait()), self.join_seconds) is not None
        except TimeoutError:
            raise Lost(f"Not all of {what} came within {self.join_seconds:g} s") from None

    async def _first(self, wanted: asyncio.Future[T], seconds: float | None = None) -> T | None:
        """What was waited for, or None when told to stop first."""
        stop = asyncio.ensure_future(self._stop.wait())
        both: list[asyncio.Future[Any]] = [wanted, stop]
        done, _ = await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if wanted in done:
            return wanted.result()
        wanted.cancel()
        if not done:
            raise TimeoutError
        return None


async def _hello(reader: asyncio.StreamReader, size: int) -> int | None:
    """The rank that a pod says it has, None for anything else."""
    try:
        said = json.loads(await asyncio.wait_for(reader.readline(), SILENCE_SECONDS))
        rank = said["rank"]
        return rank if said["size"] == size and isinstance(rank, int) and 0 < rank < size else None
    except (ValueError, KeyError, TypeError, OSError, TimeoutError):
        return None


def _watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sentence: str) -> asyncio.Future[None]:
    """Ends with Lost when the other side closes the connection or is silent for too long."""

    async def beat() -> None:
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(BEAT_SECONDS)

    async def watch() -> None:
        beating = asyncio.ensure_future(beat())
        try:
            while await asyncio.wait_for(reader.read(64), SILENCE_SECONDS):
                if beating.done():
                    break
        except (OSError, TimeoutError):
            pass
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await beating
            writer.close()
        raise Lost(sentence)

    return asyncio.ensure_future(watch())


def _health(
    started: asyncio.Event,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A worker has no server to probe: it is well once it computes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(
            OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            asked = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            status = b"200 OK" if started.is_set() else b"503 Service Unavailable"
            body = UNUSED if asked.startswith(b"GET /metrics") else b""
            head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
            writer.write(head + body)
            await writer.drain()
        writer.close()

    return answer


async def _end(engine: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
    """End the engine with all its processes, which may outlive it: they hang in a collective and hear nothing."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(engine.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ended), KILL_SECONDS)
