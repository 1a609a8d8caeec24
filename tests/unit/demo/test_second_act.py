"""The second act asks the service while the watch looks: between new rows and their run, and never the other way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from demo import second_act
from demo.report import Answer

OLD, NEW = "sha256:old", "sha256:new"


class Act(second_act.SecondAct):
    """One without a cluster: it remembers what it does, in order."""

    def __init__(self, folder: Path) -> None:
        self.state_dir, self.console = folder, Console(quiet=True)
        self.seconds, self.summary, self.done, self.digest = {}, {}, [], OLD
        self.states = iter(["promoted", "refused"])

    def _ask_for_retraining(self) -> None:
        self.done.append("annotate")

    def _workspace(self) -> dict[str, Any]:
        return {"status": {"adapter": {"digest": self.digest}}}

    def _serving_pods(self) -> set[str]:
        return {"one"}

    def _versions(self) -> list[dict[str, Any]]:
        return []

    def _follow(self, server: Any, known: set[str]) -> str:
        self.done.append("follow")
        return "1"

    def _entry(self, version: str) -> dict[str, Any]:
        state = next(self.states)
        self.digest = NEW if state == "promoted" else self.digest
        return {"version": version, "state": state, "digest": NEW}

    def _show_version(self, server: Any, entry: dict[str, Any]) -> None:
        self.done.append("show")

    def _ask(self, chat: str, http: Any, name: str, title: str, questions: Any = None) -> list[Answer]:
        self.done.append(name)
        self.seconds[name] = 1.0
        return [Answer("q", ["8 GPUs"], "8 GPUs" if self.digest == NEW else "4", 1.0)]


class Quiet:
    """Somebody who has asked one question."""

    asked, failures, digests = 1, (), (OLD, NEW)

    def __init__(self, *_: object) -> None:
        return

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def to_dict(self) -> dict[str, Any]:
        return {}


def test_it_asks_between_the_rows_and_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_act, "Asking", Quiet)
    act = Act(tmp_path)
    data: Any = SimpleNamespace(write=lambda rows: act.done.append("write"))
    nobody: Any = None
    assert act._better(nobody, data, "", nobody)
    assert act._worse(nobody, data, "", nobody)
    better = ["write", "annotate", "ask_before", "follow", "show"]
    assert act.done == [*better, "write", "ask_after", "follow", "show", "ask_at_last"]
    act.seconds["total"] = 1.0
    act._finish(True)
