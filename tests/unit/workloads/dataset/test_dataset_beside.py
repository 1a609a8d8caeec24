"""Work beside its caller: in order, one piece at a time, and no fault is lost."""

from __future__ import annotations

import threading

import pytest

from include.workloads.dataset.beside import Beside


def test_pieces_are_done_in_their_order() -> None:
    done: list[int] = []
    with Beside("test") as beside:
        for number in range(100):
            beside.do(done.append, number)
    assert done == list(range(100))


def test_the_next_piece_waits_for_the_one_before() -> None:
    go_on, running = threading.Event(), threading.Event()
    with Beside("test") as beside:
        beside.do(lambda: (running.set(), go_on.wait(10)))
        assert running.wait(10)
        second = threading.Thread(target=beside.do, args=(lambda: None,))
        second.start()
        second.join(0.05)
        assert second.is_alive()
        go_on.set()
        second.join(10)
        assert not second.is_alive()


@pytest.mark.parametrize("ends", ["wait", "do"])
def test_a_fault_reaches_the_caller_once(ends: str) -> None:
    def fails() -> None:
        raise OSError("no space left")

    with Beside("test") as beside:
        beside.do(fails)
        with pytest.raises(OSError, match="no space left"):
            beside.wait() if ends == "wait" else beside.do(int)
        beside.wait()
