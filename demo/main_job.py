"""The main job, told step by step: ask the base model, apply a Workspace, watch Airflow work, ask again."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from demo import external, scenario, stack
from demo.airflow_api import AirflowApi, AirflowServer, parse_time
from demo.cluster import CRDS, Kubectl, WorkClock, connect
from demo.live import LiveView
from demo.preflight import Options
from demo.processes import DemoError, read_record
from demo.report import Answer, MemoryMeter, human_seconds, idle_seconds, write_summary
from demo.target import TargetCluster

DAG_ID = "kaito_tune"
RECONCILER = "kaito_reconcile"
DAGS = {DAG_ID, RECONCILER, "kaito_serve", "kaito_release"}
RUN_SECONDS = 1500
STARTED_WITHIN = 60


class MainJob:
    """One pass of the demo.

    :param state_dir: the demo's own folder; its cluster, registry and Airflow database start empty.
    :param weights_dir: folder of prepared weights, kept between passes.
    :param console: where to tell the story.
    :param external: a cluster that is there already; without one, the sandbox is started.
    """

    def __init__(
        self, state_dir: Path, weights_dir: Path, console: Console, external: Options | None = None
    ) -> None:
        self.options = external
        self.dataset_url = ""
        self.state_dir = state_dir
        self.weights_dir = weights_dir
        self.console = console
        self.seconds: dict[str, float] = {}
        self.summary: dict[str, Any] = {"started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}

    @contextmanager
    def _timed(self, name: str, title: str) -> Iterator[None]:
        self.console.print(f"\n[bold]==> {title}[/]")
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 1)

    def run(self) -> bool:
        """Run the job and return whether tuning taught the model what it did not know.

        :raises DemoError: a part did not start, or the run did not end.
        """
        begin = time.monotonic()
        try:
            return self._run(begin)
        except BaseException as error:
            self.summary |= {
                "passed": False,
                "error": str(error) or type(error).__name__,
                "seconds": self.seconds,
            }
            write_summary(self.state_dir / "summary.json", self.summary)
            raise

    def _run(self, begin: float) -> bool:
        with ExitStack() as cleanup:
            cluster = self._start(cleanup)
            memory = MemoryMeter(lambda: {os.getpid(), *self._pids()})
            memory.start()
            cleanup.callback(memory.stop)
            base, airflow = self._ask_base_and_wait_for_airflow()
            self._apply(cluster)
            clock = WorkClock(cluster.account_kubeconfig)
            clock.start()
            cleanup.callback(clock.stop)
            self._follow_run(cluster, airflow, clock)
            tuned = self._ask_again(cluster)
        self.seconds["total"] = round(time.monotonic() - begin, 1)
        self.summary["peak_memory_gib"] = round(memory.peak_bytes / 2**30, 2)
        return self._finish(base, tuned)

    def _start(self, cleanup: ExitStack) -> TargetCluster:
        cluster = self._start_sandbox(cleanup) if self.options is None else self._enter(self.options)
        stack.start_airflow(cluster, self.weights_dir)
        return cluster

    def _enter(self, options: Options) -> TargetCluster:
        with self._timed("check_cluster", "Checking the cluster, pulling the image, starting Airflow"):
            shutil.rmtree(self.state_dir / "airflow", ignore_errors=True)
            self.dataset_url, cluster = external.serve_dataset(external.open_cluster(self.state_dir, options))
        return cluster

    def _start_sandbox(self, cleanup: ExitStack) -> TargetCluster:
        with self._timed(
            "start_sandbox", "Starting the sandbox (a one-machine cluster, cloud and registry) and Airflow"
        ):
            for leftover in ("cluster.db", "cluster.db-wal", "cluster.db-shm"):
                (self.state_dir / leftover).unlink(missing_ok=True)
            for folder in ("airflow", "registry", "volumes", "logs"):
                shutil.rmtree(self.state_dir / folder, ignore_errors=True)
            dataset = scenario.DatasetServer(self.state_dir / "dataset")
            self.dataset_url = dataset.start()
            cleanup.callback(dataset.stop)
            return stack.start_sandbox(self.state_dir)

    def _pids(self) -> set[int]:
        """Airflow and the sandbox; pods and the registry run below the sandbox."""
        files = (self.state_dir / "airflow" / "airflow.pid", self.state_dir / "sandbox.json")
        return {int(record["pid"]) for path in files if (record := read_record(path))}

    def _ask_base_and_wait_for_airflow(self) -> tuple[list[Answer], AirflowServer]:
        """Ask the base model while Airflow starts: the two do not wait for each other."""
        pool = ThreadPoolExecutor(1)
        starting: Future[AirflowServer] = pool.submit(stack.wait_for_airflow, self.state_dir, DAGS)
        pool.shutdown(wait=False)  # an interrupt must not wait for Airflow to be ready first
        with self._timed("prepare_model", "Preparing SmolLM2-135M-Instruct (from its package, once)"):
            weights = scenario.prepare_weights(self.weights_dir)
        with self._timed("ask_base_model", "Asking the base model three questions"):
            base = scenario.ask_base_model(weights)
            show_answers(self.console, base)
        with self._timed("wait_for_airflow", "Waiting until Airflow is ready"):
            server = starting.result()
            with AirflowApi(server) as api:
                api.unpause(RECONCILER)
        self.console.print(f"    {server.url}  (user {server.username})")
        return base, server

    def _document(self, cluster: TargetCluster) -> dict[str, Any]:
        machine = scenario.INSTANCE_TYPE
        if self.options is not None:
            machine = "" if self.options.provider == "byo" else self.options.instance_type or machine
        return scenario.workspace(self.dataset_url, cluster.registry, machine)

    def _apply(self, cluster: TargetCluster) -> None:
        document = self._document(cluster)
        kubectl = Kubectl(cluster.kubeconfig)
        with self._timed("apply", "kubectl apply -f workspace.yaml"):
            self.console.print(escape(_indent(scenario.show_yaml(document))))
            kubectl("apply", "-f", str(CRDS))
            kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=10s")
            kubectl.apply(*scenario.surroundings(cluster))
            (self.state_dir / "workspace.yaml").write_text(scenario.show_yaml(document) + "\n")
            self.console.print(f"    {kubectl('apply', '-f', str(self.state_dir / 'workspace.yaml'))}")

    def _follow_run(self, cluster: TargetCluster, server: AirflowServer, clock: WorkClock) -> None:
        kubectl = Kubectl(cluster.kubeconfig)
        uid = kubectl("get", "workspace", scenario.WORKSPACE, "-o", "jsonpath={.metadata.uid}")
        run_id = f"{cluster.namespace}.{scenario.WORKSPACE}.{uid[:8]}.g1"
        with (
            self._timed("run", f"Airflow sees it and starts run {run_id} of {DAG_ID}"),
            AirflowApi(server) as api,
        ):
            api.wait_for_run(DAG_ID, run_id, STARTED_WITHIN)
            view = LiveView(self.console, api, cluster.account_kubeconfig)
            run = view.follow(DAG_ID, run_id, RUN_SECONDS)
            tasks = api.tasks(DAG_ID, run_id)
            if run["state"] != "success":
                self._explain_failure(api, run_id, tasks)
            self.summary["tuning"] = api.xcom(DAG_ID, run_id, "tune")
            self.summary["dataset"] = api.xcom(DAG_ID, run_id, "fetch_dataset")
        self._measure(run, tasks, clock)

    def _explain_failure(self, api: AirflowApi, run_id: str, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            if task["state"] == "failed":
                lines = "\n".join(api.log_tail(DAG_ID, run_id, task))
                raise DemoError(
                    f"task {task['task_id']} failed:\n{lines}\nMore: {api.server.url}/dags/{DAG_ID}/runs/{run_id}"
                )
        raise DemoError(f"the run failed: {api.server.url}/dags/{DAG_ID}/runs/{run_id}")

    def _measure(self, run: dict[str, Any], tasks: list[dict[str, Any]], clock: WorkClock) -> None:
        """Record each task's duration, and the time in which no pod, machine or task code worked."""
        start, end = parse_time(run["queued_at"] or run["start_date"]), parse_time(run["end_date"])
        spans = clock.intervals()
        if start is None or end is None:
            raise DemoError("Airflow reported a finished run without times")
        self.summary["tasks"] = {task["task_id"]: round(task["duration"] or 0, 1) for task in tasks}
        self.summary["work"] = [
            {"what": what, "seconds": round((to - since).total_seconds(), 1)} for what, since, to in spans
        ]
        self.summary["run_seconds"] = round((end - start).total_seconds(), 1)
        self.summary["idle_seconds"] = round(
            idle_seconds((start, end), [(since, to) for _, since, to in spans]), 1
        )

    def _ask_again(self, cluster: TargetCluster) -> list[Answer]:
        kubectl = Kubectl(cluster.kubeconfig)
        with self._timed("ask_tuned_model", "The result"):
            for command in (("get", "workspace", scenario.WORKSPACE), ("get", "svc", scenario.WORKSPACE)):
                self.console.print(
                    f"$ kubectl {' '.join(command)}\n{escape(kubectl(*command))}", soft_wrap=True
                )
            # Nodes may know an external registry by another name than this machine does: there, the status says it.
            says = "registry" if self.options is None else "Workspace"
            self.summary["digest"] = (
                scenario.registry_digest(cluster)
                if self.options is None
                else kubectl(
                    "get", "workspace", scenario.WORKSPACE, "-o", "jsonpath={.status.adapter.digest}"
                )
            )
            reference = f"{cluster.registry}/{scenario.IMAGE}@{self.summary['digest']}"
            self.console.print(f"\nadapter image, as the {says} reports it: {reference}", soft_wrap=True)
            address = kubectl("get", "svc", scenario.WORKSPACE, "-o", "jsonpath={.spec.clusterIP}")
            url, http = chat_address(address, cluster)
            self.console.print(
                f'\n$ curl -X POST {url} -H "Content-Type: application/json" '
                '-d \'{"prompt": "...", "return_full_text": false}\'',
                soft_wrap=True,
            )
            with closing(http):
                tuned = scenario.ask_service(url, http)
            show_answers(self.console, tuned)
            if self.options is None:
                self.summary["nodes_left"] = kubectl("get", "nodeclaims", "-o", "name").split()
        return tuned

    def _finish(self, base: list[Answer], tuned: list[Answer]) -> bool:
        passed = all(answer.knows for answer in tuned) and not any(answer.knows for answer in base)
        self.summary |= {
            "passed": passed,
            "seconds": self.seconds,
            "base_answers": [answer.to_dict() for answer in base],
            "tuned_answers": [answer.to_dict() for answer in tuned],
        }
        path = self.state_dir / "summary.json"
        write_summary(path, self.summary)
        tuning = self.summary.get("tuning") or {}
        verdict = "Passed" if passed else "NOT passed"
        self.console.print(
            f"\n[bold]==> {verdict} in {human_seconds(self.seconds['total'])}[/]"
            f"\n    Airflow run      {human_seconds(self.summary['run_seconds'])}, "
            f"of it nobody's work {self.summary['idle_seconds']:.0f}s"
            f"\n    tuning           {tuning.get('tokens_per_second', 0):.0f} tokens/s, "
            f"loss {tuning.get('loss_first', 0):.2f} -> {tuning.get('loss_last', 0):.2f}"
            f"\n    peak memory      {self.summary['peak_memory_gib']} GiB, all processes together"
            f"\n    every number in  {path}",
            soft_wrap=True,
        )
        return passed


def show_answers(console: Console, answers: list[Answer]) -> None:
    """Print each question with its answer, and whether that is right."""
    for answer in answers:
        verdict = "[green]right[/]" if answer.knows else "[yellow]does not know[/]"
        console.print(f"    Q: {escape(answer.question)}\n    A: {escape(answer.text.strip())}   {verdict}")


def chat_address(cluster_ip: str, cluster: TargetCluster) -> tuple[str, httpx.Client]:
    """Return the Service's /chat: by its cluster IP, or through the API server where port 80 could not be bound."""
    direct = httpx.Client(trust_env=False)
    try:
        direct.get(f"http://{cluster_ip}/health", timeout=5)
    except httpx.HTTPError:
        direct.close()
        path = f"/api/v1/namespaces/{cluster.namespace}/services/{scenario.WORKSPACE}:80/proxy/chat"
        return path, connect(cluster.account_kubeconfig, read_timeout=120)
    return f"http://{cluster_ip}/chat", direct


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
