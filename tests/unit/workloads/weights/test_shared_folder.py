"""A shared volume's folder is filled once, whole or not at all, by whichever pods want it at the same time."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from include.workloads.contract import UserDataError
from include.workloads.weights import shared
from include.workloads.weights.folder import MARK

IDENTITY = {"source": "hub", "model_id": "org/model", "revision": "c" * 40}
CONTENT = b"x" * 1000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "LOOK_SECONDS", 0.01)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "org--model" / ("c" * 40)


def make(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(CONTENT)
    mark = {"identity": IDENTITY, "files": {"model.safetensors": len(CONTENT)}}
    (folder / MARK).write_text(json.dumps(mark))


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_the_first_fills_it_and_the_next_finds_it(target: Path) -> None:
    assert shared.fill(target, IDENTITY, make, "a") is True
    assert shared.fill(target, IDENTITY, _never, "b") is False
    assert left(target) == [target.name]


def test_two_that_start_at_once_fill_it_once_and_the_other_waits(target: Path) -> None:
    begun, go = threading.Event(), threading.Event()
    made: list[str] = []
    results: dict[str, bool] = {}

    def slowly(who: str) -> Callable[[Path], None]:
        def fill(folder: Path) -> None:
            assert not target.exists(), "nobody sees a part of it"
            made.append(who)
            begun.set()
            assert go.wait(10)
            make(folder)

        return fill

    def pod(who: str) -> None:
        results[who] = shared.fill(target, IDENTITY, slowly(who), who)

    first = threading.Thread(target=pod, args=("a",))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(target=pod, args=("b",))
    second.start()
    while not (target.parent / f".{target.name}.clock-b").exists():
        assert second.is_alive()
    go.set()
    first.join(10)
    second.join(10)
    assert (made, results) == (["a"], {"a": True, "b": False})
    assert left(target) == [target.name]


def test_a_pod_that_is_gone_is_not_waited_for(target: Path) -> None:
    _broken_off(target, "a", 3600)
    assert shared.fill(target, IDENTITY, make, "b") is True
    assert left(target) == [target.name], "what it left is taken away"


def test_a_container_that_starts_again_goes_on_with_its_own_part(target: Path) -> None:
    _broken_off(target, "a", 0)
    found: list[list[str]] = []

    def go_on(folder: Path) -> None:
        found.append([path.name for path in folder.iterdir()])
        make(folder)

    assert shared.fill(target, IDENTITY, go_on, "a") is True
    assert found == [["half"]]


def test_a_fill_that_fails_leaves_the_turn_to_the_next(target: Path) -> None:
    def fails(folder: Path) -> None:
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="network"):
        shared.fill(target, IDENTITY, fails, "a")
    assert not target.exists()
    assert shared.fill(target, IDENTITY, make, "b") is True


def test_two_that_fill_it_in_spite_of_the_lock_break_nothing(target: Path) -> None:
    def overtaken(folder: Path) -> None:
        (target.parent / f".{target.name}.lock").unlink()  # a volume that forgets a lock
        assert shared.fill(target, IDENTITY, make, "b") is True
        make(folder)

    assert shared.fill(target, IDENTITY, overtaken, "a") is True
    assert (target / "model.safetensors").read_bytes() == CONTENT
    assert left(target) == [target.name]


def test_something_else_in_its_place_is_told_and_left_alone(target: Path) -> None:
    target.mkdir(parents=True)
    (target / "mine").touch()
    with pytest.raises(
        UserDataError, match=f"org--model/{target.name} of the shared volume is not what its name"
    ):
        shared.fill(target, IDENTITY, _never, "a")
    assert left(target) == [target.name]


def test_code_that_somebody_has_put_there_is_refused(target: Path) -> None:
    shared.fill(target, IDENTITY, make, "a")
    (target / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    with pytest.raises(UserDataError, match="asks for code of its own"):
        shared.fill(target, IDENTITY, _never, "b")


def _never(folder: Path) -> None:
    raise AssertionError(f"{folder} is filled again")


def _broken_off(target: Path, owner: str, seconds: float) -> None:
    """What a pod leaves that ended in the middle of its download."""
    part = target.parent / f".{target.name}.part-{owner}"
    part.mkdir(parents=True)
    lock = target.parent / f".{target.name}.lock"
    lock.write_text(owner)
    (part / "half").touch()
    then = lock.stat().st_mtime - seconds
    for path in (lock, part / "half"):
        os.utime(path, (then, then))
