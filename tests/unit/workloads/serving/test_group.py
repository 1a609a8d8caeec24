"""Pods of one server as processes of this machine: they start together, end together, and come back whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from include.reconcile import activity

LEADER = "127.77.0.1"
PROGRAM = """
import sys
from include.workloads.contract import run
from include.workloads.serving.group import Member
rank, size, port = map(int, sys.argv[1:4])
address, seconds = sys.argv[4], float(sys.argv[5])
member = Member(rank, size, "127.77.0.1", address, port, health_port=port + 1, drain_seconds=10, join_seconds=seconds)
run(lambda: member.run(sys.argv[6:]))
"""
ENGINE = (
    "import os, pathlib, signal, sys, time; p = pathlib.Path(sys.argv[1]); p.write_text(str(os.getpid()));\n"
    "signal.signal(signal.SIGTERM, lambda *_: (p.with_suffix('.drained').write_text('yes'), sys.exit(0)))\n"
    "time.sleep(120)"
)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind((LEADER, 0))
        return int(free.getsockname()[1])


class Pods:
    """Starts members and ends what is left of them."""

    def __init__(self, folder: Path, port: int, size: int) -> None:
        self.folder, self.port, self.size = folder, port, size
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, rank: int, *engine: str, seconds: float = 30) -> subprocess.Popen[bytes]:
        command = engine or (sys.executable, "-c", ENGINE, str(self.folder / f"engine-{rank}"))
        numbers = [str(rank), str(self.size), str(self.port), f"127.77.0.{rank + 1}", str(seconds)]
        pod = subprocess.Popen([sys.executable, "-c", PROGRAM, *numbers, *command], cwd=Path.cwd())
        self.all.append(pod)
        return pod

    def engine(self, rank: int, other_than: int = 0) -> int:
        """The process id of a rank's engine, once it runs."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            file = self.folder / f"engine-{rank}"
            if file.exists() and (text := file.read_text()) and int(text) != other_than:
                return int(text)
            time.sleep(0.02)
        raise AssertionError(f"engine {rank} did not start")

    def health(self, rank: int) -> int:
        try:
            return httpx.get(f"http://127.77.0.{rank + 1}:{self.port + 1}/health", timeout=5).status_code
        except httpx.TransportError:
            return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def pods(tmp_path: Path, port: int) -> Iterator[Pods]:
    made = Pods(tmp_path, port, 3)
    yield made
    for pod in made.all:
        pod.kill()
        pod.wait()
    for file in tmp_path.glob("engine-?"):
        if alive(pid := int(file.read_text() or 0)):
            os.kill(pid, signal.SIGKILL)


def gone(pid: int, seconds: float = 8) -> bool:
    until = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_no_engine_starts_before_all_pods_are_there(pods: Pods) -> None:
    pods.start(1)
    pods.start(0)
    time.sleep(2.5)
    assert not list(pods.folder.glob("engine-*"))
    assert pods.health(1) == 503
    pods.start(2)
    assert all(pods.engine(rank) for rank in range(3))
    assert (pods.health(1), pods.health(2)) == (200, 200)
    told = activity.read(httpx.get(f"http://127.77.0.2:{pods.port + 1}/metrics", timeout=5).text)
    assert told is not None, "a group may be scaled to zero: silence would count as use"
    assert (told.in_flight, told.last) == (0, 0)


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("what", ["pod", "engine"])
def test_one_that_dies_takes_all_down_and_they_come_back_whole(pods: Pods, killed: int, what: str) -> None:
    first = [pods.start(rank) for rank in range(3)]
    engines = [pods.engine(rank) for rank in range(3)]
    began = time.monotonic()
    os.kill(first[killed].pid if what == "pod" else engines[killed], signal.SIGKILL)
    codes = [pod.wait(15) for pod in first]
    assert time.monotonic() - began < 10
    assert [code for rank, code in enumerate(codes) if rank != killed] == [75, 75]
    assert codes[killed] != 0
    if what == "pod":
        os.kill(engines[killed], signal.SIGKILL)  # a container's end takes it along
    others = [pid for rank, pid in enumerate(engines) if rank != killed or what == "engine"]
    assert all(map(gone, others))
    for rank in range(3):
        pods.start(rank)
    again = [pods.engine(rank, other_than=engines[rank]) for rank in range(3)]
    assert all(map(alive, again))


def test_told_to_stop_the_leader_drains_while_the_workers_still_compute(pods: Pods) -> None:
    slow = ENGINE.replace("(p.with_suffix", "(time.sleep(1.5), p.with_suffix")
    leader = pods.start(0, sys.executable, "-c", slow, str(pods.folder / "engine-0"))
    workers = [pods.start(1), pods.start(2)]
    engines = [pods.engine(rank) for rank in range(3)]
    for pod in (leader, *workers):
        pod.terminate()
    time.sleep(0.7)
    assert all(map(alive, engines[1:])), "the leader is still answering"
    assert leader.wait(10) == 0
    assert (pods.folder / "engine-0.drained").exists()
    assert {worker.wait(10) for worker in workers} <= {0, 75}
    assert all(map(gone, engines))


def test_a_worker_that_meets_an_ending_leader_waits_for_the_next(pods: Pods) -> None:
    slow = ENGINE.replace("(p.with_suffix", "(time.sleep(3), p.with_suffix")
    leader = pods.start(0, sys.executable, "-c", slow, str(pods.folder / "engine-0"))
    workers = [pods.start(1), pods.start(2)]
    engines = [pods.engine(rank) for rank in range(3)]
    workers[0].kill()
    os.kill(engines[1], signal.SIGKILL)
    newcomer = pods.start(1)  # the leader is still ending its engine
    assert leader.wait(15) == 75
    assert workers[1].wait(15) == 75
    assert newcomer.poll() is None, "it had no engine yet: there was nothing to end"
    pods.start(0)
    pods.start(2)
    assert alive(pods.engine(1, other_than=engines[1]))


def test_a_leader_that_never_comes_is_said(tmp_path: Path, port: int) -> None:
    pods = Pods(tmp_path, port, 2)
    worker = pods.start(1, seconds=1)
    assert worker.wait(10) == 75


def test_a_stranger_on_the_port_is_no_member(pods: Pods) -> None:
    pods.start(0)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            with socket.create_connection((LEADER, pods.port), 1) as stranger:
                stranger.sendall(b'{"rank": 1, "size": 99}\n')
                assert stranger.recv(1) == b""
                return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("the leader does not listen")
