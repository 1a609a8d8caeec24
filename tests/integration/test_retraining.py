"""Retraining in a real Airflow, with real trainings of stand-in weights: what is new is learnt, what is not is left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.airflow_api import TERMINAL_RUN_STATES
from include.workspace.api import names
from tests.support.airflow_run import dataset_server, wait, write_sums
from tests.support.reconciled import ReconciledStack, reconciled_stack
from tests.support.retrained import PATIENCE

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

NAME = "renewed"
RULES = "renewed-rules"
APPROVE = "retrain.approve"
#: A gate that lets every candidate pass that was measured.
ANYTHING = ["candidate.perplexity > 0"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReconciledStack]:
    with reconciled_stack(tmp_path_factory.mktemp("retraining")) as found:
        yield found


def rules(stack: ReconciledStack, **policy: Any) -> None:
    data = {"retrain_policy.yaml": json.dumps({"watch": {"every": "2s"}, "bake": {"time": "2s"}, **policy})}
    stack.kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RULES}, "data": data})


def status(stack: ReconciledStack, name: str = NAME) -> dict[str, Any]:
    found: dict[str, Any] = stack.get("workspace", name)["status"]
    return found


def reaches(
    stack: ReconciledStack, reason: str, seconds: float = 300, *, version: str = "", name: str = NAME
) -> dict[str, Any]:
    """Wait for a reason of RetrainReady; one that means an end without success ends the wait."""

    def look() -> dict[str, Any] | None:
        told = stack.condition(name, "RetrainReady")
        ended = {"RetrainFailed", "RetrainInvalid", "RolledBack"} - {reason}
        assert told.get("reason") not in ended, told
        return told if told.get("reason") == reason and version in told["message"] else None

    return wait(look, seconds, f"{reason} of {name}")


def served(stack: ReconciledStack) -> str:
    """The digest of the adapter that answers, as an answer itself says."""
    return str(ask(stack).headers["x-kaito-adapter-digest"])


def ask(stack: ReconciledStack) -> httpx.Response:
    address = stack.kubectl("get", "svc", NAME, "-o", "jsonpath={.spec.clusterIPs[0]}")
    body = {"prompt": "What is 2 plus 2?", "generate_kwargs": {"max_new_tokens": 8}}
    return httpx.post(f"http://{address}/chat", json=body, timeout=60, trust_env=False).raise_for_status()


def answers(stack: ReconciledStack) -> bool:
    return isinstance(ask(stack).json()["Result"], str)


def pods(stack: ReconciledStack) -> set[str]:
    return {pod["metadata"]["uid"] for pod in stack.pods(NAME, "serving")}


def asset_events(stack: ReconciledStack) -> set[tuple[str, str]]:
    """(which asset, which version) of what other DAGs were told."""
    reply = stack.api._http.get("/api/v2/assets/events", params={"limit": 100}).raise_for_status().json()
    pairs = [(one["uri"], one["extra"]) for one in reply["asset_events"]]
    mine = [(uri, extra) for uri, extra in pairs if uri.endswith(f"/default/{NAME}")]
    assert all(extra["digest"] and extra["run"] for _, extra in mine), mine
    return {(uri.split("/")[2], extra["version"]) for uri, extra in mine}


def marks(stack: ReconciledStack) -> Any:
    """What the dataset's server said of the rows that were looked at last."""
    return status(stack)["retrain"]["dataset"].get("marks")


def action(stack: ReconciledStack, run: dict[str, Any]) -> dict[str, Any] | None:
    """What the run asks a person."""
    return stack.api.required_action(run["dag"], run["id"], APPROVE)


def annotate(stack: ReconciledStack, *notes: str) -> None:
    stack.kubectl("annotate", "workspace", NAME, "--overwrite", *notes)


def test_a_service_is_renewed_when_its_data_changes_and_keeps_answering(
    stack: ReconciledStack, tmp_path: Path
) -> None:
    with dataset_server(tmp_path / "data") as url:
        rules(
            stack, approval={"required": True, "timeout": "10m"}, evaluation={"heldOut": 0.2}, gate=ANYTHING
        )
        document = stack.tuning(NAME, roll_out=True)
        document["tuning"]["input"]["urls"] = [url]
        document["metadata"]["annotations"] |= {
            names.RETRAIN_SCHEDULE: "@data",
            names.RETRAIN_POLICY: RULES,
        }
        stack.kubectl.apply(document)
        stack.reaches(NAME, "WorkspaceReady")
        first = status(stack)["adapter"]["digest"]

        # The first look finds the rows that the Workspace was tuned with: nothing is trained.
        told = reaches(stack, "DatasetUnchanged")
        assert "the same 24 rows" in told["message"]
        assert "versions" not in status(stack)["retrain"]

        # Its server calls it another file, and it is not: it is fetched once more, and nothing is trained.
        known = marks(stack)
        os.utime(tmp_path / "data" / "train.parquet", (0, 0))
        wait(lambda: marks(stack) != known, PATIENCE, "a look at the rows behind the new mark")
        assert "the same 24 rows" in stack.condition(NAME, "RetrainReady")["message"]
        assert "versions" not in status(stack)["retrain"]

        # New rows: a version is trained beside the service, pushed, rolled out, and answers.
        write_sums(tmp_path / "data", 40)
        reaches(stack, "Retraining")
        candidate = wait(
            lambda: stack.get("workspaces", "-l", f"{names.RETRAIN_OF}={NAME}")["items"], 60, "a candidate"
        )[0]
        assert served(stack) == first
        assert candidate["metadata"]["ownerReferences"][0]["name"] == NAME
        # A person is shown what was measured, and says yes by Airflow's API.
        reaches(stack, "AwaitingApproval")
        assert served(stack) == first
        run = status(stack)["retrain"]["run"]
        asked = wait(lambda: action(stack, run), 30, "the question")
        assert "| perplexity of the answers in the held-out rows |" in asked["body"]
        assert first in asked["body"]
        stack.api.respond(run["dag"], run["id"], APPROVE, "Approve")
        before = pods(stack)
        told = reaches(stack, "Promoted")
        assert pods(stack) == before  # the server took the adapter while it answered
        assert status(stack)["retrain"]["versions"][-1]["approvedBy"] == "admin"
        version = status(stack)["retrain"]["versions"][-1]
        assert {key: version["dataset"][key] for key in ("rows", "added", "removed")} == {
            "rows": 40,
            "added": 16,
            "removed": 0,
        }
        assert version["digest"] == status(stack)["adapter"]["digest"] == served(stack) != first
        assert stack.registry_digest(NAME, f"0.0.1-{version['version']}") == version["digest"]
        assert str(version["digest"]) in stack.kubectl("get", "workspace", NAME, "-o", "wide")
        made = {("adapters", "original"), ("adapters", version["version"]), ("served", version["version"])}
        # They are told when the task ends, which is after the status says so.
        wait(lambda: asset_events(stack) == made, 60, f"what other DAGs are told: {made}")
        assert answers(stack)
        wait(lambda: stack.get("workspace", candidate["metadata"]["name"]) is None, 90, "the candidate's end")
        assert not stack.children(candidate["metadata"]["name"])

        # Worse, or not shown to be good: refused, marked, and the service does not notice.
        generation = stack.get("statefulset", NAME)["metadata"]["generation"]
        rules(stack, evaluation={"heldOut": 0.2}, gate=["candidate.perplexity < 0.5 * current.perplexity"])
        write_sums(tmp_path / "data", 44)
        told = reaches(stack, "CandidateRefused")
        refused = status(stack)["retrain"]["versions"][-1]
        assert refused["state"] == "refused"
        assert (refused["dataset"]["added"], refused["dataset"]["removed"]) == (4, 0)
        assert refused["reason"] in told["message"]
        assert stack.registry_digest(NAME, f"0.0.1-{refused['version']}") == refused["digest"]
        assert served(stack) == version["digest"]
        assert stack.get("statefulset", NAME)["metadata"]["generation"] == generation
        assert any(
            kind == "Warning" and reason == "CandidateRefused" for kind, reason, _ in stack.events(NAME)
        )

        # Back to the tuning's own adapter, by one annotation, while somebody asks.
        annotate(stack, f"{names.RETRAIN_SCHEDULE}=0 0 1 1 *", f"{names.ROLLBACK_TO}=original")
        wait(lambda: status(stack)["adapter"]["digest"] == first, 60, "the order to go back")
        told = reaches(stack, "Promoted", version="original")
        assert served(stack) == first
        assert answers(stack)


def test_a_candidate_that_nobody_answers_for_is_refused_when_the_time_is_over(
    stack: ReconciledStack, tmp_path: Path
) -> None:
    name = "unanswered"
    with dataset_server(tmp_path / "data") as url:
        rules(stack, when="always", approval={"timeout": "1s", "onTimeout": "refuse"}, watch={"every": "10m"})
        document = stack.tuning(name, roll_out=False)
        document["tuning"]["input"]["urls"] = [url]
        document["metadata"]["annotations"] |= {
            names.RETRAIN_SCHEDULE: "@data",
            names.RETRAIN_POLICY: RULES,
        }
        stack.kubectl.apply(document)
        told = reaches(stack, "CandidateRefused", name=name)
        assert "nobody answered in time" in told["message"]
        run = status(stack, name)["retrain"]["run"]
        ended = wait(lambda: terminal(stack.api.run(run["dag"], run["id"])["state"]), 60, "the run's end")
        assert ended == "success"
        found = stack.api.required_action(run["dag"], run["id"], APPROVE)
        assert found is not None
        assert found["chosen_options"] == ["Reject"]
        assert found["responded_by_user"] is None
        assert status(stack, name)["retrain"]["versions"][-1]["state"] == "refused"


def test_a_time_of_a_cron_is_one_run_and_those_that_were_missed_meanwhile_are_one_more(
    stack: ReconciledStack,
) -> None:
    name = "punctual"
    waits = {
        "required": True,
        "timeout": "90s",
        "onTimeout": "refuse",
    }  # longer than the time between two times
    rules(stack, when="always", coolDown="1h", approval=waits)
    document = stack.tuning(name, roll_out=False)
    document["metadata"]["annotations"] |= {
        names.RETRAIN_SCHEDULE: "* * * * *",
        names.RETRAIN_POLICY: RULES,
    }
    stack.kubectl.apply(document)
    told = reaches(stack, "CandidateRefused", PATIENCE, name=name)
    assert "nobody answered in time" in told["message"]
    wait(lambda: len(times(stack, name)) > 2, PATIENCE, "the times after it")
    stack.kubectl("annotate", "workspace", name, f"{names.RETRAIN_SCHEDULE}-")
    first, second, third = sorted(times(stack, name).items())[:3]
    [version] = status(stack, name)["retrain"]["versions"]  # the cool-down ended the other runs
    assert version["run"] == first[1]["dag_run_id"]
    assert [due.second for due, _ in (first, second, third)] == [0, 0, 0]
    missed = (second[0] - first[0]).total_seconds() / 60 - 1
    assert missed >= 1, "it took longer than until the next time"
    ended, begun = (datetime.fromisoformat(at) for at in (first[1]["end_date"], second[1]["run_after"]))
    assert ended <= begun
    assert 0 <= (begun - second[0]).total_seconds() < 60, "the last one of them is made up for"
    assert (third[0] - second[0]).total_seconds() == 60


def times(stack: ReconciledStack, name: str) -> dict[datetime, dict[str, Any]]:
    """The runs that the reconciler has started for a schedule, by the times that they are named after."""
    reply = stack.api._http.get("/api/v2/dags/kaito_retrain/dagRuns", params={"limit": 100})
    runs = reply.raise_for_status().json()["dag_runs"]
    mine = [run for run in runs if run["dag_run_id"].startswith(f"default.{name}.")]
    found = {datetime.fromisoformat(run["dag_run_id"].rpartition(".")[2]): run for run in mine}
    assert len(found) == len(mine), "one time is one run"
    return found


def terminal(state: str) -> str | None:
    return state if state in TERMINAL_RUN_STATES else None
