from __future__ import annotations

from pathlib import Path

import pytest

from include.workloads.tuning.checkpoints import MARK, latest_complete, mark_complete


def checkpoint(root: Path, step: int, identity: str | None = "run") -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    (folder / "optimizer.pt").write_bytes(b"moments")
    if identity is not None:
        mark_complete(folder, identity)
    return folder


def test_there_is_nothing_to_resume_at_first(tmp_path: Path) -> None:
    choice = latest_complete(tmp_path / "checkpoints", "run")
    assert (choice.path, choice.step, choice.skipped) == (None, 0, ())


def test_the_newest_by_number_is_taken(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    choice = latest_complete(tmp_path, "run")
    assert (choice.path, choice.step) == (newest, 10)


def unfinished(folder: Path) -> None:
    (folder / MARK).unlink()


def short(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"")


def damaged(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"moMents")


def lost(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def torn_mark(folder: Path) -> None:
    (folder / MARK).write_text('{"identity": "run", "fil')


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (unfinished, "never finished"),
        (short, "optimizer.pt is missing or has another size"),
        (damaged, "optimizer.pt is damaged"),
        (lost, "adapter_model.safetensors is missing"),
        (torn_mark, "its mark cannot be read"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path, harm: object, reason: str) -> None:
    whole = checkpoint(tmp_path, 5)
    assert callable(harm)
    harm(checkpoint(tmp_path, 6))
    choice = latest_complete(tmp_path, "run")
    assert (choice.path, choice.step) == (whole, 5)
    assert reason in choice.skipped[0]
    assert (tmp_path / "checkpoint-6").is_dir()


def test_another_run_s_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5, identity="other data")
    choice = latest_complete(tmp_path, "run")
    assert choice.path is None
    assert "another configuration or other data" in choice.skipped[0]
