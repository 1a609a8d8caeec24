"""Steps take the number of threads that is faster, also when that changes."""

from __future__ import annotations

from include.workloads.serving.pace import EVERY, Pace


class Machine:
    """Steps that last by the number of threads, on a clock of its own."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = {int(key[1:]): value for key, value in seconds.items()}
        self.now, self.threads, self.used = 0.0, 2, []
        self.pace = Pace(2, self.use, lambda: self.now)

    def use(self, threads: int) -> None:
        self.threads = threads

    def steps(self, number: int, rows: int = 1) -> None:
        for _ in range(number):
            with self.pace.step(rows):
                self.used.append(self.threads)
                self.now += self.seconds[self.threads] * rows


def test_beside_a_busy_neighbour_one_thread_is_enough_and_later_all_come_back() -> None:
    machine = Machine(t2=0.5, t1=0.06)
    machine.steps(40)
    assert machine.pace.threads == 1
    machine.seconds = {2: 0.03, 1: 0.06}
    machine.steps(EVERY + 20)
    assert machine.pace.threads == 2


def test_on_a_quiet_machine_trials_are_few() -> None:
    machine = Machine(t2=0.03, t1=0.05)
    machine.steps(1000)
    assert machine.used.count(1) / len(machine.used) < 0.05
    assert machine.threads == 2


def test_steps_for_other_numbers_of_requests_are_not_compared() -> None:
    """Two threads are timed with one request and one thread with many: that says nothing of threads."""
    machine = Machine(t2=0.03, t1=0.05)
    for number in range(300):
        machine.steps(3, rows=1 + number % 5)
    assert machine.pace.threads == 2


def test_requests_that_come_and_go_leave_the_faster_way_in_use() -> None:
    machine = Machine(t2=0.5, t1=0.06)
    machine.steps(40)
    machine.used.clear()
    for number in range(300):
        machine.steps(2, rows=1 + number % 5)
    assert machine.used.count(2) / len(machine.used) < 0.3


def test_one_thread_has_no_choice() -> None:
    machine = Machine(t1=0.05)
    machine.threads = 1
    machine.pace = Pace(1, machine.use, lambda: machine.now)
    machine.steps(50)
    assert set(machine.used) == {1}
