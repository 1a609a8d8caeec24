"""`kubectl apply` is all a user needs: Workspaces drive Airflow, and their status is true whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from demo.cluster import NAMESPACE
from demo.processes import PROJECT_ROOT
from include.workspace.api import names
from sandbox.cloud.ledger import Ledger
from tests.support.airflow_run import PRESET, SECRET, wait
from tests.support.reconciled import FINALIZER, ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

LEASE = "kaito-airflow-reconciler"
CONFIG = "served-settings"


def ask(stack: ReconciledStack, name: str, method: str = "POST", path: str = "/chat") -> Any:
    """Ask a service through its cluster IP."""
    address = stack.kubectl("get", "svc", name, "-o", "jsonpath={.spec.clusterIPs[0]}")
    body = {"prompt": "What is 2 plus 2?"} if method == "POST" else None
    reply = httpx.request(method, f"http://{address}{path}", json=body, timeout=60, trust_env=False)
    return reply.raise_for_status().json()


@dataclass(frozen=True)
class Answered:
    """What one question got: status, the adapter's digest by its header, and when."""

    status: int
    digest: str
    moment: float


@contextmanager
def asking(stack: ReconciledStack, name: str, model: str) -> Iterator[list[Answered]]:
    """Two clients that ask a service without a pause, for as long as the block runs."""
    address = stack.kubectl("get", "svc", name, "-o", "jsonpath={.spec.clusterIPs[0]}")
    question = {
        "model": model,
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "What is 2 plus 2?"}],
    }
    found: list[Answered] = []
    over = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=f"http://{address}", timeout=60, trust_env=False) as http:
            while not over.is_set():
                try:
                    reply = http.post("/v1/chat/completions", json=question)
                    digest = reply.headers.get("x-kaito-adapter-digest", "")
                    found.append(Answered(reply.status_code, digest, time.monotonic()))
                except httpx.TransportError:
                    found.append(Answered(0, "", time.monotonic()))

    clients = [threading.Thread(target=client) for _ in range(2)]
    for one in clients:
        one.start()
    try:
        wait(lambda: found or None, 60, "a first answer")
        yield found
    finally:
        over.set()
        for one in clients:
            one.join()


def vllm_config(setting: str, name: str = CONFIG) -> dict[str, Any]:
    """Return a ConfigMap of the service, with one setting of its server."""
    data = {"inference_config.yaml": f"vllm:\n  {setting}\n"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def run_of(stack: ReconciledStack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (stack.get("workspace", name).get("status") or {}).get("run") or {}
    return found


def settled(stack: ReconciledStack, name: str, run_id: str) -> dict[str, Any]:
    """Wait until the status says that a run with this id has succeeded."""

    def look() -> dict[str, Any] | None:
        run = run_of(stack, name)
        assert run.get("state") != "failed" or run.get("id") != run_id, stack.condition(
            name, "WorkspaceReady"
        )
        return run if run.get("id") == run_id and run.get("state") == "success" else None

    return wait(look, 180, f"the end of run {run_id}")


def step_of(stack: ReconciledStack, name: str) -> int:
    progress = stack.get("workspace", name)["status"].get("progress") or {}
    return int(progress.get("step") or 0)


def ended_as(stack: ReconciledStack, name: str, reason: str) -> dict[str, Any] | None:
    told = stack.condition(name, "WorkspaceReady")
    return told if told.get("reason") == reason else None


def over(stack: ReconciledStack, run_id: str) -> str | None:
    state = str(stack.api.run("kaito_tune", run_id)["state"])
    return state if state in ("success", "failed") else None


def report(stack: ReconciledStack, by: str) -> dict[str, Any]:
    """Run `python -m include.cli cost` as a user would, with what Airflow remembers alone."""
    server = stack.api.server
    login = {
        "AIRFLOW_USERNAME": server.username,
        "AIRFLOW_PASSWORD": server.password,
        "NO_PROXY": "127.0.0.1",
    }
    command = [
        sys.executable,
        "-m",
        "include.cli",
        "cost",
        "--no-cluster",
        "--airflow",
        server.url,
        "--by",
        by,
    ]
    done = subprocess.run(
        [*command, "-o", "json"],
        cwd=PROJECT_ROOT,
        env={**os.environ, **login},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def tuned(reconciled_stack: ReconciledStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The quick start, applied and nothing else; returns the Workspace's name."""
    name = "workspace-tuning-phi-3"
    file = tmp_path_factory.mktemp("apply") / "workspace.yaml"
    Path(file).write_text(yaml.safe_dump(reconciled_stack.quick_start(name)))
    reconciled_stack.kubectl("apply", "-f", str(file))
    reconciled_stack.reaches(name, "WorkspaceReady")
    return name


class TestApply:
    """What follows from `kubectl apply` alone."""

    def test_the_quick_start_becomes_a_service(self, reconciled_stack: ReconciledStack, tuned: str) -> None:
        stack = reconciled_stack
        assert isinstance(ask(stack, tuned)["Result"], str)
        row = stack.kubectl("get", "workspace", tuned).splitlines()[1].split()
        assert row[2:5] == ["True", "True", "True"] or row.count("True") >= 3
        workspace = stack.get("workspace", tuned)
        assert FINALIZER in workspace["metadata"]["finalizers"]
        assert workspace["metadata"]["annotations"]["workspace.kaito.io/revision"] == "1"
        assert workspace["status"]["adapter"]["digest"] == stack.registry_digest(tuned, "0.0.1")
        assert workspace["status"]["run"]["id"] == stack.run_id(tuned)
        assert workspace["status"]["run"]["url"].startswith("http")

    def test_its_story_is_told_by_events(self, reconciled_stack: ReconciledStack, tuned: str) -> None:
        told = reconciled_stack.events(tuned)
        assert told[0][1] == "Pending"
        reasons = {reason for _, reason, _ in told}
        assert {"DatasetChecked", "AdapterPushed", "Succeeded"} <= reasons
        assert all(type_ == "Normal" for type_, _, _ in told)

    def test_every_fault_stands_in_the_condition_and_nothing_is_made(
        self, reconciled_stack: ReconciledStack
    ) -> None:
        stack = reconciled_stack
        document = stack.quick_start("faulty")
        document["tuning"]["preset"]["name"] = "phi-3-mini-128k-instrukt"
        document["tuning"]["output"]["imagePushSecret"] = "absent"
        stack.kubectl.apply(document)
        told = wait(lambda: stack.condition("faulty", "WorkspaceReady") or None, 60, "a condition of faulty")
        assert (told["status"], told["reason"]) == ("False", "workspaceFailed")
        for word in ("phi-3-mini-128k-instrukt", "absent"):
            assert word in told["message"]
        assert stack.children("faulty") == []
        assert "run" not in stack.get("workspace", "faulty")["status"]
        stack.kubectl("delete", "workspace", "faulty", "--wait=false")
        stack.gone("faulty")

    def test_twenty_at_once_get_a_status_and_lose_the_finalizer(
        self, reconciled_stack: ReconciledStack
    ) -> None:
        stack = reconciled_stack
        documents = []
        for number in range(20):
            document = stack.quick_start(f"many-{number}")
            document["metadata"]["labels"] = {"batch": "many"}
            document["tuning"]["output"]["imagePushSecret"] = "absent"
            documents.append(document)
        stack.kubectl.apply(*documents)

        def judged() -> bool | None:
            items = stack.get("workspaces", "-l", "batch=many")["items"]
            told = [w for w in items if (w.get("status") or {}).get("conditions")]
            return len(told) == 20 or None

        wait(judged, 60, "the conditions of twenty Workspaces")
        stack.kubectl("delete", "workspaces", "-l", "batch=many", "--wait=false")
        wait(lambda: not stack.get("workspaces", "-l", "batch=many")["items"] or None, 90, "their end")


class TestService:
    """A live service follows its Workspace and comes back by itself."""

    @pytest.fixture(scope="class")
    def served(self, reconciled_stack: ReconciledStack) -> Iterator[str]:
        stack, name = reconciled_stack, "served"
        stack.kubectl.apply(vllm_config("max-num-seqs: 4"))
        stack.kubectl.apply(stack.service(name, config=CONFIG))
        settled(stack, name, wait(lambda: run_of(stack, name).get("id"), 60, "a run"))
        yield name
        stack.kubectl("delete", "workspace", name, "--wait=false")
        stack.gone(name)

    def test_an_adapter_is_added(self, reconciled_stack: ReconciledStack, tuned: str, served: str) -> None:
        stack = reconciled_stack
        image = f"{stack.sandbox.registry}/{tuned}@{stack.registry_digest(tuned, '0.0.1')}"
        stack.kubectl.apply(stack.service(served, adapter=image, config=CONFIG))
        settled(stack, served, stack.run_id(served))
        models = {model["id"] for model in ask(stack, served, "GET", "/v1/models")["data"]}
        assert {"adapter", PRESET} <= models
        revisions = stack.get("controllerrevisions", "-l", f"workspace.kaito.io/name={served}")["items"]
        assert sorted(r["revision"] for r in revisions) == [1, 2]

    def test_another_version_of_its_adapter_answers_without_a_new_pod_or_a_failed_request(
        self,
        reconciled_stack: ReconciledStack,
        tuned: str,
        served: str,
        record_property: Callable[[str, object], None],
    ) -> None:
        """The sidecar loads it beside the old one, and moves the name; the seconds from the edit are in the report."""
        stack = reconciled_stack
        digest = stack.another_version(tuned, "0.0.1", "0.0.2")
        pods = [pod["metadata"]["uid"] for pod in stack.pods(served, "serving")]
        with asking(stack, served, "adapter") as answers:
            edited = time.monotonic()
            image = f"{stack.sandbox.registry}/{tuned}@{digest}"
            stack.kubectl.apply(stack.service(served, adapter=image, config=CONFIG))
            wait(lambda: any(one.digest == digest for one in answers) or None, 90, "the new version's answer")
            first = next(one.moment for one in answers if one.digest == digest)
            record_property("seconds_from_the_edit", round(first - edited, 1))
            settled(stack, served, stack.run_id(served))
        assert {one.status for one in answers} == {200}
        assert len({one.digest for one in answers}) == 2
        assert [pod["metadata"]["uid"] for pod in stack.pods(served, "serving")] == pods
        [told] = stack.get("workspace", served)["status"]["adapters"]
        assert (told["name"], told["state"], told["digest"]) == ("adapter", "Serving", digest)

    def test_what_is_deleted_by_hand_comes_back(self, reconciled_stack: ReconciledStack, served: str) -> None:
        stack = reconciled_stack
        before = run_of(stack, served)["id"]
        for kind in ("statefulset", "service"):
            stack.kubectl("delete", kind, served, "--wait=false")
        again = wait(lambda: ((r := run_of(stack, served)["id"]) != before and r) or None, 60, "a repair")
        settled(stack, served, again)
        assert run_of(stack, served)["cause"] == "repair"
        assert isinstance(ask(stack, served)["Result"], str)
        assert stack.condition(served, "WorkspaceReady")["status"] == "True"

    def test_an_edit_of_its_config_rolls_it(self, reconciled_stack: ReconciledStack, served: str) -> None:
        stack = reconciled_stack
        before = run_of(stack, served)["id"]
        generation = stack.get("workspace", served)["metadata"]["generation"]
        stack.kubectl.apply(vllm_config("served-model-name: renamed"))
        rolled = wait(lambda: ((r := run_of(stack, served)["id"]) != before and r) or None, 60, "a roll")
        settled(stack, served, rolled)
        assert run_of(stack, served)["cause"] == "inputs"
        assert "renamed" in {model["id"] for model in ask(stack, served, "GET", "/v1/models")["data"]}
        assert stack.get("workspace", served)["metadata"]["generation"] == generation
        assert stack.condition(served, "WorkspaceReady")["status"] == "True"

    @pytest.mark.slow
    def test_another_config_rolls_it(self, reconciled_stack: ReconciledStack, served: str) -> None:
        stack = reconciled_stack
        stack.kubectl.apply(vllm_config("served-model-name: other", name="other-settings"))
        stack.kubectl.apply(stack.service(served, config="other-settings"))
        settled(stack, served, stack.run_id(served))
        assert run_of(stack, served)["cause"] == "spec"
        assert "other" in {model["id"] for model in ask(stack, served, "GET", "/v1/models")["data"]}

    def test_it_sleeps_when_nobody_asks_and_wakes_when_told(
        self, reconciled_stack: ReconciledStack, served: str
    ) -> None:
        stack, idle = reconciled_stack, "kaito.sh/scale-to-zero-after-minutes"
        before = run_of(stack, served)["id"]
        machines = ("get", "nodeclaims,nodes", "-l", f"kaito.sh/workspace={served}", "-o", "name")
        assert len(stack.kubectl(*machines).split()) == 2
        stack.kubectl("annotate", "workspace", served, f"{idle}=0.1")
        wait(lambda: stack.get("workspace", served)["status"].get("idle", {}).get("released"), 90, "sleep")
        assert stack.kubectl(*machines).split() == []
        assert stack.pods(served, "serving") == []
        assert stack.get("statefulset", served)["spec"]["replicas"] == 0
        told = stack.condition(served, "InferenceReady")
        assert (told["status"], told["reason"]) == ("False", "ScaledToZero")
        assert ("Normal", "ScaledToZero") in {(type_, reason) for type_, reason, _ in stack.events(served)}
        assert run_of(stack, served)["id"] == before, "nothing is repaired"
        stack.kubectl("annotate", "workspace", served, f"{idle}-")
        again = wait(lambda: ((r := run_of(stack, served)["id"]) != before and r) or None, 60, "a run")
        settled(stack, served, again)
        assert run_of(stack, served)["cause"] == "wake"
        assert isinstance(ask(stack, served)["Result"], str)
        assert stack.condition(served, "WorkspaceReady")["status"] == "True"


class TestRuns:
    """What a run tells while it works, and what is left when Airflow forgets it.

    Airflow deletes no run that is at work (409). Runs that are lost with its database: see test_reliability.py.
    """

    @pytest.fixture(scope="class")
    def long(self, reconciled_stack: ReconciledStack) -> Iterator[str]:
        stack, name = reconciled_stack, "long"
        stack.kubectl.apply(stack.tuning(name, steps=4000))
        yield name
        stack.kubectl("delete", "workspace", name, "--wait=false", "--ignore-not-found")
        stack.gone(name)

    def test_a_tuning_tells_how_far_it_is(self, reconciled_stack: ReconciledStack, long: str) -> None:
        stack, name = reconciled_stack, long
        stack.running_pod(name, "tuning")

        def told() -> dict[str, Any] | None:
            progress: dict[str, Any] = stack.get("workspace", name)["status"].get("progress") or {}
            return progress if progress.get("step") else None

        progress = wait(told, 90, "the pod's progress in the status")
        assert 0 < progress["step"] <= progress["total"] == 4000
        assert len(stack.pods(name, "tuning")) == 1

    @pytest.mark.slow
    def test_a_spent_budget_stops_it_and_a_raised_one_goes_on(
        self, reconciled_stack: ReconciledStack, long: str
    ) -> None:
        stack, name = reconciled_stack, long
        wait(lambda: step_of(stack, name) > 60 or None, 120, "a checkpoint")
        stack.kubectl("annotate", "workspace", name, "kaito.sh/budget-usd=0.0001")
        told = wait(lambda: ended_as(stack, name, "BudgetExceeded"), 60, "the end of the money")
        assert "The budget of 0.0001 USD is spent" in told["message"]
        wait(lambda: not stack.claims_of(name) or None, 60, "the end of its machine")
        assert ("Warning", "BudgetExceeded") in {(kind, reason) for kind, reason, _ in stack.events(name)}
        assert wait(lambda: over(stack, stack.run_id(name)), 60, "the end of its run") == "failed"
        stack.kubectl(
            "annotate", "--overwrite", "workspace", name, "kaito.sh/budget-usd=50", "kaito.sh/rerun=1"
        )
        pod = stack.running_pod(name, "tuning")
        wait(lambda: step_of(stack, name) > 50 or None, 120, "its progress")
        log = stack.kubectl("logs", pod["metadata"]["name"])
        assert "Resuming from step" in log, log

    @pytest.mark.slow
    def test_the_ledger_agrees_with_the_clouds_bill_after_the_workspace_is_gone(
        self, reconciled_stack: ReconciledStack, long: str
    ) -> None:
        stack, name = reconciled_stack, long
        stack.kubectl("delete", "workspace", name, "--wait=false", "--ignore-not-found")
        stack.gone(name)
        billed = [
            r
            for r in Ledger(stack.sandbox.state_dir / "ledger.jsonl").rentals()
            if r.labels.get(names.WORKSPACE) == name
        ]
        assert all(rental.stopped for rental in billed)

        def counted() -> dict[str, Any] | None:
            found = report(stack, "workspace")["rows"]
            return next((row for row in found if row["workspace"] == name and not row["open"]), None)

        row = wait(counted, 60, f"the events of {name}")
        assert row["machines"] == len(billed)
        seconds = sum(rental.seconds for rental in billed)
        assert row["nodeSeconds"] == pytest.approx(seconds, rel=0.02, abs=2), "a look's length either way"
        assert row["usd"] == pytest.approx(row["nodeSeconds"] / 3600 * 3.06, abs=0.001)
        runs = [r for r in report(stack, "run")["rows"] if r["workspace"] == name]
        assert sum(run["nodeSeconds"] for run in runs) == row["nodeSeconds"]
        assert {run["usefulNodeSeconds"] for run in runs} == {0}, "neither run came to an adapter"

    def test_a_run_that_is_deleted_after_its_end_is_not_made_again(
        self, reconciled_stack: ReconciledStack, tuned: str
    ) -> None:
        stack = reconciled_stack
        run_id = stack.run_id(tuned)
        settled(stack, tuned, run_id)
        path = f"/api/v2/dags/kaito_tune/dagRuns/{run_id}"
        wait(
            lambda: stack.api.run("kaito_tune", run_id)["state"] == "success" or None,
            60,
            "the end of its run",
        )
        stack.api._http.delete(path).raise_for_status()
        stack.kubectl("label", "workspace", tuned, "look=again")
        with pytest.raises(TimeoutError):
            wait(lambda: stack.api._http.get(path).is_success or None, 8, "the run")
        assert run_of(stack, tuned)["id"] == run_id
        assert stack.condition(tuned, "WorkspaceReady")["status"] == "True"


@contextmanager
def another_deployment(stack: ReconciledStack) -> Iterator[None]:
    """Hold the Lease as another Airflow would, by renewing it."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            spec = {"holderIdentity": "another", "renewTime": now, "leaseDurationSeconds": 5}
            note = {"annotations": {"kaito.sh/airflow": "http://another.example.com"}}
            change = json.dumps({"metadata": note, "spec": spec})
            stack.kubectl("patch", "lease", LEASE, "-n", NAMESPACE, "--type=merge", "-p", change)
            over.wait(1)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_of_two_deployments_one_acts_and_the_other_takes_over(reconciled_stack: ReconciledStack) -> None:
    stack = reconciled_stack
    held = wait(lambda: stack.get("lease", LEASE, "-n", NAMESPACE), 90, "the Lease")
    holder = held["spec"]["holderIdentity"]
    with another_deployment(stack):
        wait(
            lambda: "reconciles this cluster" in said_by_the_wait(stack) or None,
            60,
            "the passive one to say so",
        )
        document = stack.quick_start("theirs")
        document["tuning"]["output"]["imagePushSecret"] = f"{SECRET}-absent"
        stack.kubectl.apply(document)
        with pytest.raises(TimeoutError):
            wait(lambda: stack.get("workspace", "theirs").get("status"), 6, "nothing")
    wait(lambda: stack.get("workspace", "theirs").get("status"), 90, "the takeover")
    assert stack.get("lease", LEASE, "-n", NAMESPACE)["spec"]["holderIdentity"] == holder
    stack.kubectl("delete", "workspace", "theirs", "--wait=false")
    stack.gone("theirs")


def said_by_the_wait(stack: ReconciledStack) -> str:
    """Return the log of the wait that is parked now."""
    query = {"limit": 1, "order_by": "-run_after"}
    runs = stack.api._http.get("/api/v2/dags/kaito_reconcile/dagRuns", params=query).json()["dag_runs"]
    return stack.log(runs[0]["dag_run_id"], "wait_for_changes", "kaito_reconcile")
