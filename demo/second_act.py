"""The second act: new rows join the dataset, a better version takes over; bad rows come, and theirs is refused.

It goes on from a main job that was kept. Nothing here starts a run: the Workspace's annotation and its dataset do.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from rich.console import Console
from rich.markup import escape

from demo import dataset, scenario, stack
from demo.airflow_api import AirflowApi, AirflowServer
from demo.asking import Asking
from demo.cluster import Kubectl, connect
from demo.live import LiveView
from demo.main_job import chat_address, show_answers
from demo.processes import DemoError, read_pid, read_record
from demo.report import Answer, human_seconds, write_summary
from include.contracts.evaluation import Metric, Summary

DAG_ID = "kaito_retrain"
#: What stands before the ids of its steps.
STEPS = "retrain."
RULES, GOLDEN, SHORT = "gpu-machines-rules", "gpu-machines-golden", "gpu-machines-few-passes"
#: Enough to learn some rows more where the others are known already.
EPOCHS = 4  # with 3, two of three seeds gave one machine the memory of another one
RUN_SECONDS = 900
STARTED_WITHIN = 90
POLL_SECONDS = 0.5
POLICY = {
    "from": "current",
    "config": SHORT,
    "watch": {"every": "5s"},
    "evaluation": {"goldenSet": GOLDEN, "heldOut": 0, "maxTokens": 40},
    "gate": ["candidate.golden >= current.golden"],
    "bake": {"time": "5s"},
}


def is_kept(state_dir: Path) -> bool:
    """Return whether a main job that has passed is still up."""
    passed = (read_record(state_dir / "summary.json") or {}).get("passed")
    return bool(passed) and read_pid(state_dir / "airflow" / "airflow.pid") is not None


class SecondAct:
    """One pass of the second act.

    :param state_dir: the folder of the main job that was kept.
    :param console: where to tell the story.
    """

    def __init__(self, state_dir: Path, console: Console) -> None:
        self.state_dir = state_dir
        self.console = console
        self.seconds: dict[str, float] = {}
        self.summary: dict[str, Any] = {"started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
        self.cluster = stack.Sandbox.load(state_dir)
        self.kubectl = Kubectl(self.cluster.kubeconfig)
        self.http = connect(self.cluster.account_kubeconfig)

    @contextmanager
    def _timed(self, name: str, title: str) -> Iterator[None]:
        self.console.print(f"\n[bold]==> {title}[/]")
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 1)

    def run(self) -> bool:
        """Run the act and return whether the better version took over, and the worse one did not.

        :raises DemoError: a part did not start, or a run did not end.
        """
        begin = time.monotonic()
        try:
            with ExitStack() as cleanup:
                cleanup.enter_context(closing(self.http))
                passed = self._play(cleanup)
        except BaseException as error:
            self._write(passed=False, error=str(error) or type(error).__name__)
            raise
        self.seconds["total"] = round(time.monotonic() - begin, 1)
        self._write(passed=passed)
        self._finish(passed)
        return passed

    def _play(self, cleanup: ExitStack) -> bool:
        server = stack.wait_for_airflow(self.state_dir, {DAG_ID})
        first = self._workspace()
        url = urlsplit(first["tuning"]["input"]["urls"][0])
        data = scenario.DatasetServer(self.state_dir / "dataset")
        data.start(port=url.port or 0)
        cleanup.callback(data.stop)
        chat, http = self._chat()
        cleanup.enter_context(closing(http))
        better = self._better(server, data, chat, http)
        worse = self._worse(server, data, chat, http)
        return better and worse

    # -- the two versions ------------------------------------------------------------------------------------------

    def _better(
        self, server: AirflowServer, data: scenario.DatasetServer, chat: str, http: httpx.Client
    ) -> bool:
        rows = dataset.rows((*dataset.TAUGHT, *dataset.JOINING))
        with self._timed("join", f"New rows join the dataset: {len(dataset.rows())} become {len(rows)}"):
            data.write(rows)
            self._ask_for_retraining()
        current, pods = self._workspace()["status"]["adapter"]["digest"], self._serving_pods()
        title = "Asking the service, while the watch looks, about machines that it has never met"
        before = self._ask(chat, http, "ask_before", title)
        with self._timed(
            "better_run", "The watch has seen it; Airflow tunes, measures and promotes a new version"
        ):
            asking = Asking(chat, lambda: self._chat()[1], self._promotes)
            with asking:
                version = self._follow(server, set())
            entry = self._entry(version)
            self._show_version(server, entry)
        lives = self._serving_pods() == pods
        self.summary["asked_meanwhile"] = {**asking.to_dict(), "same_pod": lives}
        self.console.print(
            f"    asked meanwhile: {asking.asked} questions, {len(asking.failures)} failed; answered by "
            f"{' then '.join(digest[:19] for digest in asking.digests) or 'nobody'}"
            f"{', in the same pod' if lives else '; its one pod was replaced'}",
            soft_wrap=True,
        )
        served = self._workspace()["status"]["adapter"]["digest"]
        promoted = entry["state"] == "promoted" and served == entry["digest"] != current
        # The only pod of a service cannot be replaced without a gap; where it stays, nobody may notice.
        unnoticed = asking.asked > 0 and not (lives and asking.failures)
        return promoted and not any(answer.knows for answer in before) and unnoticed

    def _worse(
        self, server: AirflowServer, data: scenario.DatasetServer, chat: str, http: httpx.Client
    ) -> bool:
        served = self._workspace()["status"]["adapter"]["digest"]
        known = {str(one["version"]) for one in self._versions()}
        with self._timed("poison", "A broken export: each machine gets the facts of the next one"):
            rows = dataset.poisoned_rows()
            data.write(rows)
            question, wrong = (message["content"] for message in rows[0]["messages"])
            self.console.print(f"    {len(rows)} rows, such as\n    Q: {question}\n    A: {wrong}")
        wanted = [*dataset.questions(), *dataset.questions(dataset.JOINING)]
        title = "Asking again, while the watch looks: what it knew, and what has joined"
        meanwhile = self._ask(chat, http, "ask_after", title, wanted)
        with self._timed("worse_run", "The watch has seen that too"):
            version = self._follow(server, known)
            entry = self._entry(version)
            self._show_version(server, entry)
        after = self._ask(
            chat, http, "ask_at_last", "The service has not noticed", dataset.questions(dataset.JOINING[:1])
        )
        left = self._workspace()["status"]["adapter"]["digest"] == served
        return entry["state"] == "refused" and left and all(answer.knows for answer in (*meanwhile, *after))

    def _ask_for_retraining(self) -> None:
        config = yaml.safe_load((Path(__file__).with_name("training_config.yaml")).read_text())
        config["training_config"]["TrainingArguments"]["num_train_epochs"] = EPOCHS
        texts = {
            SHORT: ("training_config.yaml", yaml.safe_dump(config, sort_keys=False)),
            GOLDEN: ("golden.yaml", dataset.golden_set()),
            RULES: ("retrain_policy.yaml", yaml.safe_dump(POLICY, sort_keys=False)),
        }
        made = self.kubectl.apply(
            *(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: text}}
                for name, (key, text) in texts.items()
            )
        )
        self.console.print(escape(_indent(f"{texts[RULES][1].rstrip()}\n{made}")))
        notes = ("kaito.sh/retrain-schedule=@data", f"kaito.sh/retrain-policy={RULES}")
        self.console.print(
            f"$ kubectl annotate workspace {scenario.WORKSPACE} {' '.join(notes)}", soft_wrap=True
        )
        self.kubectl("annotate", "workspace", scenario.WORKSPACE, "--overwrite", *notes)

    def _follow(self, server: AirflowServer, known: set[str]) -> str:
        """Show the next run that makes a version, to its end; returns the version."""
        run = self._next_run(known)
        self.console.print(f"    run {run['id']} makes version {run['version']}", soft_wrap=True)
        with AirflowApi(server) as api:
            view = LiveView(self.console, api, self.cluster.account_kubeconfig)
            ended = view.follow(str(run["dag"]), str(run["id"]), RUN_SECONDS)
            for task in api.tasks(str(run["dag"]), str(run["id"])):
                if ended["state"] != "success" and task["state"] == "failed":
                    lines = "\n".join(api.log_tail(str(run["dag"]), str(run["id"]), task))
                    raise DemoError(f"task {task['task_id']} failed:\n{lines}")
        if ended["state"] != "success":
            raise DemoError(f"run {run['id']} failed: {server.url}/dags/{run['dag']}/runs/{run['id']}")
        return str(run["version"])

    def _next_run(self, known: set[str]) -> dict[str, Any]:
        deadline = time.monotonic() + STARTED_WITHIN
        while time.monotonic() < deadline:
            run = (self._workspace()["status"].get("retrain") or {}).get("run") or {}
            if run.get("version") and str(run["version"]) not in known:
                return dict(run)
            time.sleep(POLL_SECONDS)
        raise DemoError(f"no retraining has begun within {STARTED_WITHIN} s: {self._condition()}")

    # -- what is shown ---------------------------------------------------------------------------------------------

    def _show_version(self, server: AirflowServer, entry: dict[str, Any]) -> None:
        run = self._run()
        with AirflowApi(server) as api:
            measured = api.xcom(str(run["dag"]), str(run["id"]), f"{STEPS}evaluate")
            tuned = api.xcom(str(run["dag"]), str(run["id"]), f"{STEPS}tune") or {}
        golden = {
            str(who): metrics[Metric.GOLDEN].value
            for who, metrics in Summary.from_json(measured).metrics.items()
        }
        told = self._condition()
        self.summary.setdefault("versions", []).append(
            {**entry, "golden": golden, "steps": tuned.get("steps"), "from": tuned.get("from"), "told": told}
        )
        shares = ", ".join(f"{who} {value:.0%}" for who, value in golden.items())
        self.console.print(
            f"    golden questions right: {shares}\n    {escape(told)}\n"
            f"$ kubectl get workspace {scenario.WORKSPACE} -o wide\n"
            f"{escape(self.kubectl('get', 'workspace', scenario.WORKSPACE, '-o', 'wide'))}",
            soft_wrap=True,
        )

    def _ask(
        self,
        chat: str,
        http: httpx.Client,
        name: str,
        title: str,
        questions: list[tuple[str, list[str]]] | None = None,
    ) -> list[Answer]:
        with self._timed(name, title):
            answers = scenario.ask_service(chat, http, questions or dataset.questions(dataset.JOINING))
            show_answers(self.console, answers)
        self.summary[name] = [answer.to_dict() for answer in answers]
        return answers

    def _chat(self) -> tuple[str, httpx.Client]:
        address = self.kubectl("get", "svc", scenario.WORKSPACE, "-o", "jsonpath={.spec.clusterIP}")
        return chat_address(address, self.cluster)

    def _workspace(self) -> dict[str, Any]:
        path = f"/apis/kaito.sh/v1alpha1/namespaces/{self.cluster.namespace}/workspaces/{scenario.WORKSPACE}"
        result: dict[str, Any] = self.http.get(path).raise_for_status().json()
        return result

    def _serving_pods(self) -> set[str]:
        query = {"labelSelector": f"kaito.sh/workspace={scenario.WORKSPACE},kaito.sh/component=serving"}
        path = f"/api/v1/namespaces/{self.cluster.namespace}/pods"
        found = self.http.get(path, params=query).raise_for_status().json()["items"]
        return {str(pod["metadata"]["uid"]) for pod in found}

    def _run(self) -> dict[str, Any]:
        return dict(self._workspace()["status"]["retrain"]["run"])

    def _versions(self) -> list[dict[str, Any]]:
        return list((self._workspace()["status"].get("retrain") or {}).get("versions") or ())

    def _entry(self, version: str) -> dict[str, Any]:
        return next((one for one in self._versions() if one["version"] == version), {"state": "unknown"})

    def _promotes(self) -> bool:
        """Whether a version is on its way to be served."""
        try:
            return bool((self._workspace()["status"].get("retrain") or {}).get("promotion"))
        except httpx.HTTPError:
            return False

    def _condition(self) -> str:
        """RetrainReady, as a line."""
        for one in self._workspace()["status"].get("conditions") or ():
            if one["type"] == "RetrainReady":
                return f"RetrainReady={one['status']} {one['reason']}: {one['message']}"
        return "the Workspace has no condition RetrainReady"

    def _write(self, **more: Any) -> None:
        path = self.state_dir / "summary.json"
        whole = read_record(path) or {}
        act = {**self.summary, **more, "seconds": self.seconds}
        write_summary(path, {**whole, "second_act": act})

    def _finish(self, passed: bool) -> None:
        spent = self.seconds
        better, worse = spent["ask_before"] + spent["better_run"], spent["ask_after"] + spent["worse_run"]
        self.console.print(
            f"\n[bold]==> {'Passed' if passed else 'NOT passed'} in {human_seconds(spent['total'])}[/]"
            f"\n    better version   {human_seconds(better)} from its rows to its promotion"
            f"\n    worse version    {human_seconds(worse)} from its rows to its refusal"
            f"\n    every number in  {self.state_dir / 'summary.json'}, second_act",
            soft_wrap=True,
        )


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
