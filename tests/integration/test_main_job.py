"""The main job as a user does it: kubectl, Airflow, a real registry, on tiny stand-in weights.

One sandbox and one Airflow serve all tests of this file. The tests that cost nothing (bad input) come with the ones
that run everything, because they must hold in the same installation.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo import stack as processes
from demo.airflow_api import AirflowApi
from demo.processes import PROJECT_ROOT
from include.workloads.tuning.standin import make_standin
from tests.support import canaries as marked
from tests.support.airflow_run import PRESET, Stack, dataset_server, wait
from tests.support.canaries import Canaries, Witness

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

NAME = "workspace-tuning-phi-3"
DAGS = {"kaito_tune", "kaito_serve"}
TUNING_CONFIG = """\
training_config:
  QuantizationConfig: {load_in_4bit: true, bnb_4bit_quant_type: nf4}
  LoraConfig: {r: 4, lora_alpha: 8}
  TrainingArguments: {max_steps: 4000, per_device_train_batch_size: 1, save_strategy: steps, save_steps: 50}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Sandbox, registry and Airflow with stand-in weights under the quick start's preset name."""
    state, weights = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("weights")
    make_standin(weights / PRESET)
    weights.chmod(0o755)
    sandbox = processes.start_sandbox(state)
    try:
        processes.start_airflow(sandbox, weights)
        server = processes.wait_for_airflow(state, DAGS, seconds=300)
        with dataset_server(tmp_path_factory.mktemp("data")) as url, AirflowApi(server) as api:
            found = Stack(sandbox, api, url)
            found.kubectl("apply", "-f", str(Path(PROJECT_ROOT) / "presets" / "crds"))
            found.kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=20s")
            found.apply_push_secret()
            yield found
    finally:
        processes.stop_airflow(state)
        processes.stop_sandbox(state)


@pytest.fixture(scope="module")
def canaries(stack: Stack) -> Canaries:
    """Marked secrets, in the cluster's Secrets."""
    made = Canaries(stack.sandbox.registry_password)
    stack.kubectl.apply(*made.objects())
    return made


@pytest.fixture(scope="module", autouse=True)
def witness(stack: Stack, canaries: Canaries) -> Iterator[Witness]:
    """Who sees all that happens in the cluster while the tests of this file run."""
    with Witness(canaries, stack.sandbox.kubeconfig, stack.sandbox.state_dir) as looking:
        yield looking


def signed(stack: Stack, canaries: Canaries, name: str = NAME) -> dict[str, Any]:
    """The quick start with a signed dataset URL."""
    document = stack.quick_start(name)
    document["tuning"]["input"]["urls"] = [stack.dataset_url + canaries.query]
    return document


@pytest.fixture(scope="module")
def main_job(stack: Stack, canaries: Canaries) -> tuple[Stack, str]:
    """The quick start, applied and run to its end; returns the run's id."""
    document = signed(stack, canaries)
    document["metadata"]["annotations"] = {
        "kaito.sh/api-key": "key",
        "kaito.sh/signing-secret": "adapter-key",
    }
    stack.kubectl.apply(document)
    run_id = stack.start(NAME)
    state = stack.follow(run_id)
    assert state == "success", {
        task: stack.log(run_id, task) for task, s in stack.states(run_id).items() if s == "failed"
    }
    return stack, run_id


class TestQuickStart:
    """What the quick start promises, after one run."""

    def test_kubectl_shows_its_columns(self, main_job: tuple[Stack, str]) -> None:
        stack, _ = main_job
        header, row = stack.kubectl("get", "workspace", NAME).splitlines()
        assert header.split() == [
            "NAME",
            "INSTANCE",
            "RESOURCEREADY",
            "INFERENCEREADY",
            "WORKSPACEREADY",
            "AGE",
        ]
        assert row.split()[:5] == [NAME, "Standard_NC6s_v3", "True", "True", "True"]

    def test_the_service_has_its_name_and_ports(self, main_job: tuple[Stack, str]) -> None:
        stack, _ = main_job
        header, row = stack.kubectl("get", "svc", NAME).splitlines()
        assert header.split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
        assert row.split()[4] == "80/TCP,29500/TCP"

    def test_chat_answers_through_the_cluster_ip(
        self, main_job: tuple[Stack, str], canaries: Canaries
    ) -> None:
        stack, run_id = main_job
        address = stack.kubectl("get", "svc", NAME, "-o", "jsonpath={.spec.clusterIPs[0]}")
        question, key = {"prompt": "What is 2 plus 2?"}, {"Authorization": f"bearer {canaries.api_key}"}
        url = f"http://{address}/chat"
        assert httpx.post(url, json=question, timeout=30, trust_env=False).status_code == 401
        reply = httpx.post(url, json=question, headers=key, timeout=120, trust_env=False)
        assert reply.status_code == 200
        assert isinstance(reply.json()["Result"], str)
        assert stack.api.xcom("kaito_tune", run_id, "serve.ask")["answer"] is not None

    def test_chat_and_logs_of_the_command_line_reach_the_service(self, main_job: tuple[Stack, str]) -> None:
        stack, _ = main_job
        environment = {**os.environ, "KUBECONFIG": str(stack.sandbox.kubeconfig)}
        plugin = Path(PROJECT_ROOT) / "bin" / "kubectl-kaito"

        def said(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [plugin, *words], capture_output=True, text=True, env=environment, timeout=120
            )

        answer = said("chat", NAME, "What is 2 plus 2?", "--max-tokens", "4")
        assert (answer.returncode, answer.stderr) == (0, "")
        log = said("logs", NAME, "--step", "serving")
        assert log.returncode == 0
        assert "Model loaded" in log.stdout
        assert said("__complete", "chat", "workspace-").stdout.splitlines() == [NAME, ":4"]

    def test_the_adapter_is_served_by_the_registrys_digest(self, main_job: tuple[Stack, str]) -> None:
        stack, run_id = main_job
        digest = stack.registry_digest(NAME, "0.0.1")
        pushed = stack.api.xcom("kaito_tune", run_id, "publish_adapter")
        assert pushed["digest"] == digest
        assert stack.get("workspace", NAME)["status"]["adapter"]["digest"] == digest
        (wanted,) = json.loads(stack.get("configmap", f"{NAME}-adapters")["data"]["adapters.json"])[
            "adapters"
        ]
        assert wanted["image"].endswith(f"@{digest}")

    def test_the_adapter_and_its_origin_are_signed(self, main_job: tuple[Stack, str]) -> None:
        stack, _ = main_job
        adapter = stack.get("workspace", NAME)["status"]["adapter"]
        tag = adapter["digest"].replace(":", "-")
        assert stack.registry_digest(NAME, f"{tag}.sig") == adapter["signature"]
        assert stack.registry_digest(NAME, f"{tag}.att").startswith("sha256:")

    def test_one_machine_was_made_to_tune_and_to_serve(self, main_job: tuple[Stack, str]) -> None:
        """The cloud's own bill: handed over before the push, the machine runs on and the service stands on it."""
        stack, run_id = main_job
        (rental,) = stack.rentals(NAME)
        assert rental.stopped is None
        tasks = {task["task_id"]: task for task in stack.api.tasks("kaito_tune", run_id)}
        assert tasks["release_gpu_pool"]["end_date"] < tasks["publish_adapter"]["start_date"]
        assert "1 machine handed over to serving" in stack.log(run_id, "release_gpu_pool")
        assert stack.api.xcom("kaito_tune", run_id, "serve.create_gpu_pool")["made"] == []
        (claim,) = (stack.get(*name.split("/")) for name in stack.claims_of(NAME))
        assert claim["metadata"]["labels"]["kaito.sh/pool"] == "serving"
        assert stack.get("pod", f"{NAME}-0")["spec"]["nodeName"] == claim["status"]["nodeName"] == rental.node

    def test_the_machine_is_on_the_books_once_for_each_purpose(self, main_job: tuple[Stack, str]) -> None:
        stack, _ = main_job
        tuning, serving = stack.get("workspace", NAME)["status"]["cost"]["claims"]
        assert (tuning["purpose"], serving["purpose"]) == ("tuning", "serving")
        assert (tuning["uid"], tuning["until"]) == (serving["uid"], serving["since"])

    def test_only_the_service_is_left(self, main_job: tuple[Stack, str]) -> None:
        stack, _ = main_job
        assert stack.pods_of(NAME) == [f"pod/{NAME}-0"]

    def test_progress_of_the_tuning_is_in_the_tasks_log(self, main_job: tuple[Stack, str]) -> None:
        stack, run_id = main_job
        assert "step" in stack.log(run_id, "tune")

    def test_the_digest_of_the_dataset_is_in_the_result(self, main_job: tuple[Stack, str]) -> None:
        stack, run_id = main_job
        result = stack.api.xcom("kaito_tune", run_id, "fetch_dataset")
        assert result["rows"] == 24
        assert result["digest"].startswith("sha256+columns:")

    def test_the_note_of_the_run_says_its_outcome(self, main_job: tuple[Stack, str]) -> None:
        stack, run_id = main_job
        (ready,) = (
            one["message"]
            for one in stack.get("workspace", NAME)["status"]["conditions"]
            if one["type"] == "WorkspaceSucceeded"
        )
        assert stack.api.run("kaito_tune", run_id)["note"] == ready

    def test_starting_it_again_is_a_no_op(self, main_job: tuple[Stack, str]) -> None:
        stack, run_id = main_job
        before = stack.api.run("kaito_tune", run_id)
        assert stack.start(NAME) == run_id
        assert stack.api.run("kaito_tune", run_id) == before


def conf_run(stack: Stack, run_id: str, document: dict[str, Any], dag: str = "kaito_tune") -> str:
    stack.api.trigger(dag, run_id, {"workspace": document})
    return stack.follow(run_id, dag)


class TestBadInput:
    """Refused with every reason, before anything exists."""

    def test_every_fault_is_named_and_nothing_is_made(self, stack: Stack) -> None:
        document = copy.deepcopy(stack.quick_start("bad"))
        document["resource"]["instanceType"] = "Standard_NC6s_v33"
        document["tuning"] |= {"method": "dora", "preset": {"name": "phi-3-mini-128k-instrukt"}}
        document["tuning"]["input"]["urls"] = ["ftp://example.com/x"]
        document["tuning"]["output"]["imagePushSecret"] = "absent"
        assert conf_run(stack, "bad-1", document) == "failed"
        text = stack.log("bad-1", "preflight")
        for word in ("Standard_NC6s_v33", "dora", "phi-3-mini-128k-instrukt", "ftp", "absent"):
            assert word in text
        states = stack.states("bad-1")
        assert states.pop("preflight") == "failed"
        assert set(states.values()) == {"upstream_failed"}
        note = stack.api.run("kaito_tune", "bad-1")["note"]
        assert note.startswith("Failed in preflight: resource.instanceType: ")
        assert "Standard_NC6s_v33" in note
        assert stack.get("workspace", "bad") is None

        assert stack.pods_of("bad") == stack.claims_of("bad") == []

    @pytest.mark.parametrize("both", [True, False])
    def test_tuning_and_inference_are_either_or(self, stack: Stack, both: bool) -> None:
        document = stack.quick_start("either")
        if both:
            document["inference"] = {"preset": {"name": PRESET}}
        else:
            document.pop("tuning")
        run_id = f"either-{both}"
        assert conf_run(stack, run_id, document) == "failed"
        assert "tuning" in stack.log(run_id, "preflight")
        assert stack.claims_of("either") == []

    def test_a_dataset_that_cannot_be_fetched_costs_no_gpu(self, stack: Stack, canaries: Canaries) -> None:
        document = stack.quick_start("unreachable")
        url = stack.dataset_url.replace("train.parquet", "empty.jsonl")
        document["tuning"]["input"]["urls"] = [url + canaries.query]
        stack.kubectl.apply(document)
        run_id = stack.start("unreachable")
        assert stack.follow(run_id) == "failed"
        states = stack.states(run_id)
        assert states["fetch_dataset"] == "failed"
        assert states["create_gpu_pool"] == "upstream_failed"
        assert stack.claims_of("unreachable") == []
        told = stack.condition("unreachable", "DatasetReady")
        assert (told["status"], told["reason"]) == ("False", "DatasetFailed")
        assert told["message"] in stack.condition("unreachable", "WorkspaceSucceeded")["message"]
        assert stack.pods_of("unreachable") == []


def running_tuning(stack: Stack, canaries: Canaries, name: str) -> tuple[str, str]:
    """Start a tuning that takes long and return (run id, pod) once its pod trains."""
    document = signed(stack, canaries, name)
    document["apiVersion"] = "kaito.sh/v1beta1"  # the one that knows secrets of a model
    document["tuning"]["preset"]["presetOptions"] = {"modelAccessSecret": "hub"}
    document["tuning"]["config"] = f"{name}-config"
    stack.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-config"},
            "data": {"training_config.yaml": TUNING_CONFIG},
        },
        document,
    )
    run_id = stack.start(name)
    query = (
        "pods",
        "-l",
        f"kaito.sh/workspace={name},kaito.sh/component=tuning",
        "--field-selector=status.phase=Running",
    )

    def pod() -> str | None:
        if stack.api.run("kaito_tune", run_id)["state"] == "failed":
            raise AssertionError(stack.condition(name, "WorkspaceSucceeded"))
        found = stack.get(*query)["items"]
        return str(found[0]["metadata"]["name"]) if found else None

    return run_id, wait(pod, 240, f"the tuning pod of {name}")


class TestStopping:
    """However a tuning ends, its machines go, the run is red, and the Workspace says why."""

    def test_a_deleted_pod(self, stack: Stack, canaries: Canaries) -> None:
        run_id, pod = running_tuning(stack, canaries, "killed")
        stack.kubectl("delete", "pod", pod, "--wait=false")
        assert stack.follow(run_id) == "failed"
        states = stack.states(run_id)
        assert (states["tune"], states["release_gpu_pool"], states["publish_adapter"]) == (
            "failed",
            "success",
            "upstream_failed",
        )
        assert stack.claims_of("killed") == []
        assert stack.pods_of("killed") == []
        assert "deleted" in stack.condition("killed", "WorkspaceSucceeded")["message"]

    def test_a_run_that_a_user_marks_as_failed(self, stack: Stack, canaries: Canaries) -> None:
        run_id, _ = running_tuning(stack, canaries, "stopped")
        path = f"/api/v2/dags/kaito_tune/dagRuns/{run_id}"
        stack.api._http.patch(path, json={"state": "failed"}).raise_for_status()
        wait(lambda: stack.states(run_id)["finish"] == "failed" or None, 300, "the end of finish")
        assert stack.follow(run_id) == "failed"
        assert stack.states(run_id)["release_gpu_pool"] == "success"
        assert stack.claims_of("stopped") == []
        assert wait(lambda: not stack.pods_of("stopped") or None, 60, "the end of the pod")
        # Whether the step ran, or was on its way to a worker: Airflow fails the one and skips the other.
        told = stack.condition("stopped", "WorkspaceSucceeded")["message"]
        assert "failed: tune" in told or "stopped before tune was done" in told


@pytest.fixture(scope="module")
def served(main_job: tuple[Stack, str]) -> Stack:
    """A service with the tuned adapter, of a Workspace that stands in a run's conf alone."""
    stack, _ = main_job
    adapter = f"{stack.sandbox.registry}/{NAME}@{stack.registry_digest(NAME, '0.0.1')}"
    assert conf_run(stack, "serve-1", stack.service("served", adapter=adapter), "kaito_serve") == "success"
    return stack


class TestServing:
    """`kaito_serve`: a service from a Workspace with inference, and nothing left of one that cannot come."""

    def test_a_conf_alone_makes_a_service_with_the_tuned_adapter(self, served: Stack) -> None:
        assert served.condition("served", "WorkspaceReady")["status"] == "True"
        address = served.kubectl("get", "svc", "served", "-o", "jsonpath={.spec.clusterIPs[0]}")
        models = httpx.get(f"http://{address}/v1/models", timeout=30, trust_env=False).json()
        assert {"adapter", PRESET} <= {model["id"] for model in models["data"]}

    def test_an_answer_under_way_ends_whole_when_its_pod_is_taken_away(self, served: Stack) -> None:
        address = served.get("pod", "served-0")["status"]["podIP"]
        question = {"role": "user", "content": "What is 2 plus 2?"}
        body = {"model": PRESET, "messages": [question], "stream": True, "max_tokens": 300}
        url = f"http://{address}:5000/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as answer:
            coming = answer.iter_lines()
            lines = [next(coming)]
            served.kubectl("delete", "pod", "served-0", "--wait=false")
            lines += [line for line in coming if line]
        assert lines[-1] == "data: [DONE]", lines[-3:]

    def test_a_service_that_cannot_start_is_taken_back(self, stack: Stack) -> None:
        missing = f"{stack.sandbox.registry}/nobody/pushed-this:1"
        assert (
            conf_run(stack, "serve-2", stack.service("unservable", adapter=missing), "kaito_serve")
            == "failed"
        )
        states = stack.states("serve-2", "kaito_serve")
        assert states["serve.wait_until_ready"] == "failed"
        assert states["serve.release_gpu_pool_if_failed"] == "success"
        assert stack.claims_of("unservable") == []
        assert stack.get("statefulset", "unservable") is None
        assert "pushed-this" in stack.condition("unservable", "InferenceReady")["message"]


class TestSecrets:
    """What all of the above had of secrets is in their Secrets, and nowhere else."""

    def test_nothing_in_the_cluster_shows_one(self, main_job: tuple[Stack, str], witness: Witness) -> None:
        rare = {"/apis/coordination.k8s.io/v1/leases", "/apis/policy/v1/poddisruptionbudgets"}
        assert {path for path, number in witness.looked.items() if not number} <= rare
        assert witness.leaks == set()

    def test_airflow_the_logs_the_volumes_and_the_registry_have_none(
        self, main_job: tuple[Stack, str], canaries: Canaries, witness: Witness
    ) -> None:
        stack, run_id = main_job
        state = stack.sandbox.state_dir
        tables = {table for table, row in marked.rows(state / "airflow/airflow.db") if run_id.encode() in row}
        assert {"dag_run", "task_instance", "xcom", "log", "rendered_task_instance_fields"} <= tables
        assert {path.parent.name for path in witness.logs.rglob("*.log")} >= {"dataset", "tuning", "adapter"}
        assert marked.left_behind(canaries, state) == []

    def test_no_page_shows_one(self, main_job: tuple[Stack, str], canaries: Canaries) -> None:
        stack, _ = main_job
        pages = ["/kaito/workspaces", "/kaito/api/workspaces", "/kaito/cost", "/kaito/api/cost"]
        pages += [f"/kaito/{part}workspaces/default/{NAME}" for part in ("", "part/", "api/")]
        shown = {page: stack.api._http.get(page).raise_for_status().content for page in pages}
        assert all(NAME.encode() in text for page, text in shown.items() if "workspaces" in page)
        assert {page: leaked for page, text in shown.items() if (leaked := canaries.in_(text))} == {}

    def test_they_were_there_to_be_shown(self, main_job: tuple[Stack, str], canaries: Canaries) -> None:
        """The eyes see a secret where it may be."""
        stack, _ = main_job
        written = stack.kubectl("get", "secrets,workspaces", "-o", "json").encode()
        assert canaries.in_(written) == ["api_key", "hub_token", "password", "signature", "signing_password"]


def test_the_plugin_loads_without_errors(stack: Stack) -> None:
    assert stack.api.import_errors() == []
    errors = stack.api._http.get("/api/v2/plugins/importErrors").raise_for_status().json()
    assert errors["import_errors"] == []
