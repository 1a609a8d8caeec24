from __future__ import annotations

import threading

import pytest

from include.workloads.serving.generation import Busy, Closed, Request, Settings, Worker, sampling

STOP = frozenset({0})


class Echo:
    """A model that repeats the prompt, held back until `go` is set; it remembers its batches."""

    def __init__(self) -> None:
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


def test_requests_of_one_kind_share_a_batch_and_others_keep_their_turn() -> None:
    model = Echo()
    worker = Worker(model, max_batch=3)
    first = worker.submit(request(1))
    while worker.waiting:
        pass
    warm = sampling(do_sample=True)
    queued = [
        worker.submit(item)
        for item in (
            request(2, adapter="a"),
            request(3),
            request(4, adapter="a"),
            request(5, adapter="a", sampling=warm),
            request(6, adapter="a"),
            request(7, adapter="a"),
            request(8, adapter="a", seed=1),
            request(9, adapter="a", seed=1),
        )
    ]
    model.go.set()
    for item in (first, *queued):
        assert list(item.stream()) == item.prompt_ids
    worker.close(5)
    assert [[item.prompt_ids[0] for item in batch] for batch in model.batches] == [
        [1],
        [2, 4, 6],
        [3],
        [5],
        [7],
        [8],
        [9],
    ]


def test_one_bad_batch_does_not_end_the_server() -> None:
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
