"""From a model (and an adapter) to a service that answers: apply the objects, ask one question."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include import manifests
from include.contracts import pooling
from include.contracts.adapter_keys import ADAPTER_FOLDER
from include.contracts.plural import plural
from include.contracts.results import PublishedAdapter
from include.manifests.serving import adapters_of
from include.reconcile import surge
from include.reconcile.surge import Stage
from include.workspace.api import access, names
from include.workspace.status import conditions, retraining
from include.workspace.status.adapter import published
from include.workspace.validation.inference_config import KEY as INFERENCE_KEY
from kaito.controller import references
from kaito.hooks.api import (
    CONFIG_MAP,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    ClusterError,
)
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import surge as second_pod
from kaito.settings import connection_id, manifest_settings
from kaito.tasks import earlier_service, performance, served_adapters
from kaito.tasks.base import Run, WorkspaceTask, tries_left
from kaito.tasks.earlier_service import TEMPLATE_DIGEST
from kaito.tasks.golden_questions import key_header
from kaito.tasks.links import ServiceLink, WorkspaceLink
from kaito.tasks.open_lineage import LineageTask, adapter_place, service_place
from kaito.tasks.stopped import fail_if_stopped

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.planning import Plan

SERVICE_PORT = 80
ANSWER_SECONDS = 180
ANSWER_TOKENS = 64
GET_SECONDS = 10
KEY_BYTES = 32


class RollOutOperator(LineageTask, WorkspaceTask, BaseOperator):
    """Applies the Services and the StatefulSet of the Workspace's name.

    :param adapter_task_id: the task whose result is the pushed adapter; None for a Workspace that names its own.
    """

    def __init__(self, *, adapter_task_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.adapter_task_id = adapter_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        run, plan, adapters = self._read(context)
        for adapter in adapters:
            self.log.info("Adapter %s: %s", adapter["name"], adapter.get("image") or "from its volume")
        told = f"Rolling out {plan.model} with {plural(len(adapters), 'adapter')}"
        try:
            live = self.cluster.find(STATEFUL_SET, run.name, run.namespace)
            stateful_set = self._stateful_set(run, plan, adapters, live)
            stage, how = second_pod.begins(plan, live, stateful_set)
            answers = stage or how == second_pod.STAYS
            phase = conditions.Phase.INFERENCE_READY if answers else conditions.Phase.ROLLING_OUT
            self.report(run, phase, f"{told}; {how}" if how else told)
            self._make_key(run)
            for service in manifests.services(run.workspace, plan):
                self.cluster.apply(SERVICE, service)
            self.cluster.apply(NETWORK_POLICY, manifests.network_policy(run.workspace, plan))
            self.cluster.apply(DISRUPTION_BUDGET, manifests.disruption_budget(run.workspace))
            served_adapters.write(self.cluster, run, adapters, manifests.are_followed(plan, adapters))
            self.cluster.apply(STATEFUL_SET, surge.at(stateful_set, stage) if stage else stateful_set)
        except ClusterError as error:
            raise self._refused(run, error, context) from None
        if stage:
            self._wait_for(run, stage)
        return self._end(run, plan, adapters)

    def go_on(self, context: Context, event: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """Come back from the wait for a pod beside the one that answers, or in its place."""
        run, plan, adapters = self._read(context)
        message = str(event.get("message") or "")
        if event.get("stale"):
            raise AirflowFailException(message)
        ready, first, following = (
            bool(event.get("ready")),
            Stage(stage) is Stage.BESIDE,
            Stage(stage).following,
        )
        full = first and event.get("room") is False
        if not ready and not first:  # the second pod is as wanted, and goes on answering
            raise self._given_up(run, f"{message}. Pod {run.name}-1 answers meanwhile.")
        try:
            live = self.cluster.find(STATEFUL_SET, run.name, run.namespace)
            stateful_set = self._stateful_set(run, plan, adapters, live)
            if ready and following:
                stateful_set = surge.at(stateful_set, following)
            elif not ready and not full:
                stateful_set = surge.withdrawn(stateful_set)
            self.cluster.apply(STATEFUL_SET, stateful_set)
        except ClusterError as error:
            raise self._refused(run, error, context) from None
        self.log.info("%s", message)
        if ready and following:
            self._wait_for(run, following)
        if full:
            told = f"No Node has room for a second pod, so the one that answers is replaced: {message}"
            self.report(run, conditions.Phase.ROLLING_OUT, told)
        elif not ready:
            raise self._given_up(run, f"{message}. The earlier pod still answers.")
        return self._end(run, plan, adapters)

    def _given_up(self, run: Run, message: str) -> AirflowFailException:
        self.report(run, conditions.Phase.INFERENCE_FAILED, message)
        return AirflowFailException(message)

    def _read(self, context: Context) -> tuple[Run, Plan, list[dict[str, Any]]]:
        run = self.this_run(context)
        fail_if_stopped(self, context)
        try:
            live = self.live_workspace(run)
        except StaleWorkspace as stale:
            raise AirflowFailException(str(stale)) from None
        plan = run.serving_plan
        if plan is None:
            raise RuntimeError("A run without a serving plan came to the rollout.")
        return run, plan, self._adapters(run, live, context)

    def _wait_for(self, run: Run, stage: Stage) -> None:
        arguments = second_pod.wait(run, stage, self.kubernetes_conn_id or connection_id())
        self.defer(method_name="go_on", **arguments)

    def _refused(self, run: Run, error: ClusterError, context: Context) -> Exception:
        message = f"The rollout was refused: {error}"
        again = error.transient and tries_left(context)
        self.report(run, conditions.Phase.INFERENCE_FAILED, message, again=again)
        return error if error.transient else AirflowFailException(message)

    def _end(self, run: Run, plan: Plan, adapters: list[dict[str, Any]]) -> dict[str, Any]:
        if manifests.are_followed(plan, adapters):
            served_adapters.look_now(self.cluster, run, adapters)
        images = [place for one in adapters for place in adapter_place(one.get("image"), None)]
        served = images[0].version if len(images) == 1 else None
        self.tell_lineage(images, [service_place(run.namespace, run.name, served)])
        return {"stateful_set": run.name, "adapters": adapters}

    def _make_key(self, run: Run) -> None:
        """Make the service's key where it is ours and absent; a key of the user's own must be there."""
        name = access.api_key_secret(run.workspace)
        if name is None:
            return
        if access.is_ours(run.workspace):
            made, new = self.cluster.get_or_create(
                SECRET, manifests.key_secret(run.workspace, secrets.token_urlsafe(KEY_BYTES))
            )
            if new:
                self.log.info("The service's key is in Secret %s, key %s.", name, access.KEY)
        else:
            made = self.cluster.find(SECRET, name, run.namespace) or {}
        if access.KEY not in (made.get("data") or {}):
            message = (
                f"Secret {name} in namespace {run.namespace} has no {access.KEY}: the annotation {names.API_KEY} must "
                'name a Secret with that key, or say "none".'
            )
            self.report(run, conditions.Phase.INFERENCE_FAILED, message)
            raise AirflowFailException(message)

    def _stateful_set(
        self, run: Run, plan: Plan, adapters: list[dict[str, Any]], live: dict[str, Any] | None
    ) -> dict[str, Any]:
        inference = run.workspace.inference
        config = inference.config if inference else None
        data = (self.cluster.find(CONFIG_MAP, config, run.namespace) or {}).get("data") if config else None
        flags = references.parsed((data or {}).get(INFERENCE_KEY))
        wanted = manifests.stateful_set(run.workspace, plan, manifest_settings(), run.run_id, adapters, flags)
        result = unrolled(wanted, live, data)
        earlier_service.note(self.cluster, run, result, live)
        return result

    def _adapters(self, run: Run, live: Mapping[str, Any], context: Context) -> list[dict[str, Any]]:
        """Return the adapters to serve; a pushed one by its digest, never by a tag that may move."""
        tuning = run.workspace.tuning
        if tuning is None:
            return adapters_of(run.workspace)
        pushed = PublishedAdapter.read(
            context["ti"].xcom_pull(task_ids=self.adapter_task_id)
            if self.adapter_task_id
            else published(live)
        )
        if not pushed:
            raise AirflowFailException(f"Workspace {run.name} has published no adapter to serve.")
        if pushed.volume:
            return [
                {"name": run.name, "volumeSource": tuning.output.volume_source, "subPath": ADAPTER_FOLDER}
            ]
        tried = retraining.canary(live.get("status"), run.generation)
        beside = (str(tried["reference"]), float(tried["percent"])) if tried else ("", 0.0)
        return [manifests.tuned_adapter(run.name, str(pushed.reference), *beside)]


def unrolled(
    wanted: dict[str, Any], live: Mapping[str, Any] | None, config: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the StatefulSet so that pods that already are what is wanted stay: a repair takes nothing down.

    The pods' run label names the run that made them. When nothing else would change, they keep it.

    :param config: data of the ConfigMap that the Workspace names; another one rolls the service.
    """
    template = wanted["spec"]["template"]
    labels = template["metadata"]["labels"]
    bare = {key: value for key, value in labels.items() if key != names.RUN_ID}
    plain = {**template, "metadata": {**template["metadata"], "labels": bare}}
    text = json.dumps([plain, dict(config or {})], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    wanted["metadata"].setdefault("annotations", {})[TEMPLATE_DIGEST] = digest
    if live and (live["metadata"].get("annotations") or {}).get(TEMPLATE_DIGEST) == digest:
        old = ((live["spec"]["template"].get("metadata") or {}).get("labels") or {}).get(names.RUN_ID)
        labels |= {names.RUN_ID: old} if old else {}
    return wanted


def _with(status: dict[str, Any], **parts: object) -> dict[str, Any]:
    """The status with what answers (adapters that change, the task of a model that writes no text), where it is any."""
    rest = {key: value for key, value in status.items() if key not in parts}
    return rest | {key: value for key, value in parts.items() if value}


class AskOperator(WorkspaceTask, BaseOperator):
    """Asks the service through its Service for its models and one question; only answers make the Workspace ready.

    A pod template says by its own probes when it is ready, and knows alone what it answers to: it is not asked.

    :param question: the prompt. (templated)
    """

    template_fields = ("question",)
    operator_extra_links = (WorkspaceLink(), ServiceLink())

    def __init__(self, *, question: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.question = question

    def execute(self, context: Context) -> dict[str, str]:
        run = self.this_run(context)
        if run.workspace.inference is not None and run.workspace.inference.template is not None:
            told = f"The pods of Service {run.name} are ready, by the probes of their template."
            self.report(run, conditions.Phase.SUCCEEDED, told)
            return {"question": "", "answer": ""}
        headers = key_header(self.cluster, run.document)
        adapters = self._adapters(run, headers, context)
        try:
            listed = self._check_models(run, headers)
            task = pooling.first_task(listed)
            text = self._numbers(run, headers, task, listed) if task else self._answer(run, headers)
        except (ClusterError, AirflowException) as error:
            message = f"The service is ready but does not answer: {error}"
            self.report(run, conditions.Phase.INFERENCE_FAILED, message, again=tries_left(context))
            raise
        self.log.info("Q: %s", self.question)
        self.log.info("A: %s", text)
        where = f", at POST {pooling.PATHS[task]}" if task else ""
        message = f"Service {run.name} answers on port {SERVICE_PORT}{where}."
        self.report(
            run,
            conditions.Phase.SUCCEEDED,
            message,
            edit=lambda status: _with(status, adapters=adapters, task=task),
        )
        if task:
            self.log.info("No benchmark: what it counts are tokens that a model writes.")
        else:
            self._measure(run, headers, message)
        return {"question": self.question, "answer": text}

    def _answer(self, run: Run, headers: dict[str, str]) -> str:
        body = {
            "prompt": self.question,
            "return_full_text": False,
            "generate_kwargs": {"max_new_tokens": ANSWER_TOKENS},
        }
        answer = self.cluster.post_to_service(
            run.name,
            run.namespace,
            "chat",
            body,
            port=SERVICE_PORT,
            timeout=ANSWER_SECONDS,
            headers=headers,
        )
        text = answer.get("Result") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise AirflowException(f"POST /chat answered without a Result: {str(answer)[:200]}")
        return text

    def _numbers(self, run: Run, headers: dict[str, str], task: str, listed: object) -> str:
        """What a model says that embeds, ranks or scores: how many numbers."""
        path, body = pooling.question(task, served_adapters.models(listed)[0], self.question)
        answer = self.cluster.post_to_service(
            run.name,
            run.namespace,
            path.removeprefix("/"),
            body,
            port=SERVICE_PORT,
            timeout=ANSWER_SECONDS,
            headers=headers,
        )
        try:
            return pooling.answer_of(task, answer)
        except ValueError as error:
            raise AirflowException(str(error)) from None

    def _check_models(self, run: Run, headers: dict[str, str]) -> object:
        """Return what the engine lists. Raise where that lacks the model or an adapter, from an image or a volume."""
        images = served_adapters.wanted(self.cluster, run)
        own = [str(one["name"]) for one in adapters_of(run.workspace)]
        if run.workspace.tuning is not None and not images:
            own = [run.name]
        said = self._get(run, served_adapters.MODELS, headers)
        try:
            listed = served_adapters.check_listed(said, dict.fromkeys([*images, *own]))
        except served_adapters.NotServed as error:
            raise AirflowException(str(error)) from None
        self.log.info("Models: %s", ", ".join(listed))
        return said

    def _adapters(self, run: Run, headers: dict[str, str], context: Context) -> list[dict[str, str]]:
        """Wait until the sidecar's adapters answer; what served before goes on where they cannot."""
        images = served_adapters.wanted(self.cluster, run)
        if not images:
            return []

        try:
            result = served_adapters.wait(lambda: self._get(run, served_adapters.PATH, headers), images)
        except served_adapters.NotServed as error:
            self.report(run, conditions.Phase.INFERENCE_FAILED, str(error))
            raise AirflowFailException(str(error)) from None
        except ClusterError as error:
            message = f"The service does not say which adapters it has: {error}"
            self.report(run, conditions.Phase.INFERENCE_FAILED, message, again=tries_left(context))
            raise
        for one in result:
            self.log.info("Adapter %s answers as %s", one["name"], one["digest"])
        return result

    def _measure(self, run: Run, headers: dict[str, str], told: str) -> None:
        """Write what the service can do at most; it is ready already, whatever comes of it."""
        plan = run.serving_plan
        if plan is None or not manifests.is_benchmarked(run.workspace, plan):
            return
        said = performance.wait(lambda: self._get(run, performance.PATH, headers))
        if said is None:
            return
        self.log.info("Benchmark: %s", performance.sentence(said))
        self.report(
            run,
            conditions.Phase.SUCCEEDED,
            told,
            edit=lambda status: performance.written(status, said, run.generation),
        )

    def _get(self, run: Run, path: str, headers: dict[str, str]) -> Any:
        return self.cluster.get_from_service(
            run.name, run.namespace, path, port=SERVICE_PORT, timeout=GET_SECONDS, headers=headers
        )
