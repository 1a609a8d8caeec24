"""`status`: what a terminal shows of Workspaces, and how a watch ends."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from include.cli import status
from include.ledger.sources import SourceError
from include.workspace.status.conditions import Phase
from tests.support.fleet import BEGUN, TRAINING, reached

SERVED = (*TRAINING, (Phase.INFERENCE_READY, "Ready."), (Phase.SUCCEEDED, "It answers."))
FAILED = (BEGUN, (Phase.NODES_FAILED, "The quota is spent."))


class FakeCluster:
    """A cluster whose one Workspace goes on by a look each time; the last look stays."""

    def __init__(self, *looks: dict[str, Any]) -> None:
        self.looks = list(looks)

    def __call__(self, context: str | None) -> FakeCluster:
        return self

    def workspaces(self, namespace: str | None) -> list[dict[str, Any]]:
        return self.looks

    def workspace(self, namespace: str, name: str) -> dict[str, Any]:
        if name != "phi":
            raise SourceError(f"There is no Workspace {name} in namespace {namespace}.")
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def events(self, namespace: str, name: str) -> list[dict[str, Any]]:
        return [{"message": "Bought a machine.", "reason": "Bought", "type": "Normal"}]


def training(step: int, loss: float) -> dict[str, Any]:
    found = reached(*TRAINING)
    found["status"]["progress"] = {"step": step, "total": 4, "loss": loss, "etaSeconds": 90}
    return found


def run(cluster: FakeCluster, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    slept: list[float] = []
    code = status.main(words, out, cluster, slept.append)
    return code, out.getvalue()


def test_one_workspace_with_its_cause_and_events() -> None:
    code, text = run(FakeCluster(training(2, 1.5)), "phi")
    assert code == 0
    for words in ("team/phi: Working", "2/4, 1 min 30 s left", "Bought a machine.", "JobStarted"):
        assert words in text


def test_columns_stand_one_below_the_other() -> None:
    found = reached(*SERVED)
    found["status"]["conditions"].append(
        {**found["status"]["conditions"][0], "type": "AConditionWithALongName", "message": "Told."}
    )
    _, text = run(FakeCluster(found), "phi")
    facts, _, conditions = text.partition("Conditions\n")
    lines = [line for line in facts.splitlines() if line.startswith("  ") and ":" in line]
    assert "Requests a second: " in facts
    assert len({len(line) - len(line.split(":", 1)[1].lstrip()) for line in lines}) == 1
    told = conditions.partition("\n\n")[0].splitlines()
    assert len({line.index(word) for line in told for word in ("True", "False") if f" {word} " in line}) == 1


@pytest.mark.parametrize(("last", "code"), [(SERVED, 0), (FAILED, 1)])
def test_a_watch_ends_where_the_workspace_does(last: Any, code: int) -> None:
    looks = training(1, 2.0), training(2, 1.5), training(3, 1.0), reached(*last)
    ended, text = run(FakeCluster(*looks), "phi", "--watch")
    assert ended == code
    assert "loss 2.000 █▅▁ 1.000" in text or "loss 2.000 █▄▁ 1.000" in text


def test_all_of_them_as_a_table_and_for_programs() -> None:
    cluster = FakeCluster(reached(*SERVED, name="a"), reached(*FAILED, name="b"))
    code, text = run(cluster)
    assert code == 0
    assert "The quota is spent." in text
    _, found = run(cluster, "-o", "json", "-s", "quota")
    assert [one["name"] for one in json.loads(found)] == ["b"]


def test_what_cannot_be_read_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FakeCluster(training(1, 1.0)), "other")[0] == 2
    assert "There is no Workspace other" in capsys.readouterr().err


def test_kubectl_finds_it_as_a_plugin() -> None:
    plugin = Path(__file__).parents[3] / "bin" / "kubectl-kaito"
    told = subprocess.run(
        [str(plugin), "status", "--help"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "--watch" in told.stdout
