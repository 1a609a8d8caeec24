"""Retraining in a real Airflow, with real trainings of stand-in weights: what is new is learnt, what is not is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.airflow_api import TERMINAL_RUN_STATES
from include.workspace.api import names
from tests.support.airflow_run import dataset_server, wait, write_sums
from tests.support.reconciled import ReconciledStack, reconciled_stack

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


def terminal(state: str) -> str | None:
    return state if state in TERMINAL_RUN_STATES else None
