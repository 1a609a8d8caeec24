from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from include.workloads.serving.generation import Busy, Closed, Request, Settings, Worker, sampling
from tests.support.serving_model import WholeAnswers, live

STOP = frozenset({0})


class Echo(WholeAnswers):
    """A model that repeats the prompt, held back until `go` is set; it remembers who ran together."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.batches: list[list[Request]] = []

    def generate(self, batch: list[Request]) -> None:
        self.go.wait(10)
        self.batches.append(batch)
        for request in batch:
            for token in [*request.prompt_ids, 0]:
                request.take(token, STOP)


def request(*ids: int, limit: int = 10, **settings: object) -> Request:
    return Request(list(ids), limit, Settings(**{"adapter": None, **settings}))  # type: ignore[arg-type]


def test_tokens_arrive_until_the_stop_token() -> None:
    model = Echo()
    model.go.set()
    worker = Worker(model)
    asked = worker.submit(request(5, 6))
    assert list(asked.stream()) == [5, 6]
    assert (asked.finish_reason, asked.produced) == ("stop", 3)
    worker.close(5)


def test_the_limit_ends_an_answer() -> None:
    asked = request(limit=2)
    for token in (4, 5, 6):
        asked.take(token, STOP)
    assert list(asked.stream()) == [4, 5]
    assert asked.finish_reason == "length"


def test_a_cancelled_request_leaves() -> None:
    asked = request()
    asked.take(4, STOP)
    asked.cancelled.set()
    asked.take(5, STOP)
    assert list(asked.stream()) == [4]
    assert asked.finish_reason == "cancelled"


def test_requests_run_together_whatever_they_ask_as_many_as_there_is_room_for() -> None:
    model = Echo()
    worker = Worker(model, max_batch=3)
    first = worker.submit(request(1))
    while worker.waiting:
        pass
    warm = sampling(do_sample=True)
    queued = [
        worker.submit(item)
        for item in (request(2, adapter="a"), request(3, sampling=warm), request(4, seed=1), request(5))
    ]
    model.go.set()
    for item in (first, *queued):
        assert list(item.stream()) == item.prompt_ids
    worker.close(5)
    assert [[item.prompt_ids[0] for item in batch] for batch in model.batches] == [[1], [2, 3, 4], [5]]


def test_a_request_that_finds_no_room_waits_and_keeps_its_turn() -> None:
    class Narrow(Echo):
        def fits(self, request: Request) -> bool:
            return len(request.prompt_ids) == 1

    model = Narrow()
    worker = Worker(model)
    first = worker.submit(request(1))
    while worker.waiting:
        pass
    queued = [worker.submit(item) for item in (request(2, 2), request(3))]
    model.go.set()
    for item in (first, *queued):
        list(item.stream())
    worker.close(5)
    assert [[item.prompt_ids[0] for item in batch] for batch in model.batches] == [[1], [2, 3]]


def test_one_bad_step_fails_who_ran_in_it_and_does_not_end_the_server() -> None:
    class Broken(Echo):
        def generate(self, batch: list[Request]) -> None:
            if batch[0].prompt_ids == [13]:
                raise RuntimeError("no luck")
            super().generate(batch)

    model = Broken()
    model.go.set()
    worker = Worker(model)
    with pytest.raises(RuntimeError, match="no luck"):
        list(worker.submit(request(13)).stream())
    assert list(worker.submit(request(7)).stream()) == [7]
    worker.close(5)


def test_a_request_that_cannot_begin_fails_alone() -> None:
    class Picky(Echo):
        def begin(self, request: Request) -> None:
            if request.settings.adapter == "gone":
                raise ValueError("taken away")
            super().begin(request)

    model = Picky()
    model.go.set()
    worker = Worker(model)
    with pytest.raises(ValueError, match="taken away"):
        list(worker.submit(request(13, adapter="gone")).stream())
    assert list(worker.submit(request(7)).stream()) == [7]
    worker.close(5)


def test_jobs_run_between_steps_and_their_errors_are_their_caller_s() -> None:
    worker = Worker(Echo())
    assert worker.between_steps(lambda: threading.current_thread().name) == "generation"
    with pytest.raises(ZeroDivisionError):
        worker.between_steps(lambda: 1 // 0)
    worker.close(5)
    with pytest.raises(Closed):
        worker.between_steps(lambda: 1)


def test_an_adapter_goes_when_nobody_asks_it_any_more(tmp_path: Path) -> None:
    gone: list[str] = []

    class Host(Echo):
        def remove_adapter(self, name: str) -> None:
            gone.append(name)

    model = Host()
    worker = Worker(model)
    adapters = live(model, worker, "a")
    asked = worker.submit(request(5, adapter="a"))
    assert adapters.unload("a")
    assert list(adapters) == []
    assert not adapters.unload("a")
    assert gone == []
    model.go.set()
    assert list(asked.stream()) == [5]
    until = time.monotonic() + 10
    while not gone and time.monotonic() < until:
        time.sleep(0.05)
    assert gone == ["a"]
    worker.close(5)


def test_a_full_queue_and_a_closing_server_refuse() -> None:
    model = Echo()
    worker = Worker(model, max_waiting=1)
    worker.submit(request(1))
    while worker.waiting:
        pass
    waiting = worker.submit(request(2))
    with pytest.raises(Busy):
        worker.submit(request(3))
    model.go.set()
    worker.close(5)
    assert list(waiting.stream()) == [2]
    with pytest.raises(Closed):
        worker.submit(request(4))


async def arrived(asked: Request) -> list[int]:
    return [token async for tokens in asked.arrivals() for token in tokens]


def test_an_event_loop_gets_the_tokens_as_a_thread_does() -> None:
    model = Echo()
    worker = Worker(model)

    async def ask_all() -> list[list[int]]:
        early = worker.submit(request(4, 4))
        readers = [asyncio.ensure_future(arrived(worker.submit(request(place, 9)))) for place in range(1, 9)]
        await asyncio.sleep(0)  # they listen
        model.go.set()
        return [await arrived(early), *[await reader for reader in readers]]

    assert asyncio.run(ask_all()) == [[4, 4], *([place, 9] for place in range(1, 9))]
    worker.close(5)


def test_an_event_loop_gets_what_came_before_an_error_and_then_the_error() -> None:
    asked = request(1)
    asked.take(7, STOP)
    asked.fail(RuntimeError("gone"))
    found: list[int] = []

    async def read() -> None:
        async for tokens in asked.arrivals():
            found.extend(tokens)

    with pytest.raises(RuntimeError, match="gone"):
        asyncio.run(read())
    assert found == [7]


def test_a_reader_whose_loop_is_gone_stops_nobody() -> None:
    asked = request(1)
    asked.take(7, STOP)

    async def read_one() -> list[int]:
        return await anext(asked.arrivals())

    assert asyncio.run(read_one()) == [7]
    asked.take(8, STOP)
    asked.take(0, STOP)
    assert asked.finish_reason == "stop"
