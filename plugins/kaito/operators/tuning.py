"""The steps of tuning, each in a pod: fetch the dataset, tune, publish the adapter.

The setup of a pool and its wait are over long before a machine dies or a spot machine is evicted, so a second try of
the training asks for machines itself, waits for them in the triggerer, and takes the run's next choice when the cloud
has none of these left. The trainer goes on from its last checkpoint, which is on the Workspace's volume.

A machine that falls silent may still train, and write checkpoints. So it is let go first, and only when its cloud says
that it is gone its pod is forgotten and another one made: there are never two trainings over one volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include import manifests
from include.contracts.purpose import Purpose
from include.pools import lost_nodes as lost
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.kept_adapter import KeptAdapter, State, rerun_of
from kaito.hooks.api import CONFIG_MAP, NETWORK_POLICY, NODE, POD, SECRET, VOLUME_CLAIM, ClusterError
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import kept_adapter
from kaito.operators.workload import SCHEDULE_SECONDS, START_SECONDS, WorkloadPodOperator
from kaito.providers.base import PoolKey
from kaito.settings import manifest_settings, step_timeout
from kaito.tasks.base import Run, tries_left
from kaito.tasks.machines import GONE_WITHIN, NODES_READY_WITHIN, MachineAsking
from kaito.tasks.stopped import stopped
from kaito.triggers.pool import LostMachinesTrigger
from kaito.triggers.workload import NODE_LOST, evicted

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.planning import Plan
    from include.pools.status import PoolStatus
    from include.workspace import Workspace


MACHINES_POLL = 0.5
#: After so many tries a training that fails by itself has failed. Machines that it loses are not its fault, and a spot
#: machine may be taken often: for those the task's retries count.
OWN_TRIES = 3
#: What a step may wait for a place and an image before its pod's own time runs.
WAITING = timedelta(seconds=SCHEDULE_SECONDS + START_SECONDS)
#: The trigger gives up by itself, with a reason; the framework's limit only backs it up.
BACKSTOP = timedelta(seconds=60)


def apply_config(cluster: Any, run: Run, plan: Plan) -> None:
    """Write the training config that the run's pods read: the user's as it is now, or the method's own.

    :raises AirflowFailException: the user's ConfigMap was deleted since the preflight.
    """
    given = kept_adapter.config_text(cluster, run.document)
    cluster.apply(CONFIG_MAP, manifests.tuning_config(run.workspace, plan, given))


class FetchDatasetOperator(WorkloadPodOperator):
    """Downloads and checks the dataset on a CPU node, before any GPU is asked for."""

    BASE_CONTAINER_NAME = "dataset"
    pending = conditions.Phase.DATASET_PENDING
    done = conditions.Phase.DATASET_READY
    failed = conditions.Phase.DATASET_FAILED

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"execution_timeout": step_timeout() + WAITING, **kwargs})

    def prepare(self, run: Run) -> None:
        self.cluster.get_or_create(VOLUME_CLAIM, manifests.work_volume(run.workspace, manifest_settings()))
        self.cluster.apply(NETWORK_POLICY, manifests.egress_policy(run.workspace, manifest_settings()))
        apply_config(self.cluster, run, run.tuning_plan)
        if secret := manifests.dataset_urls(self._with_urls(run)):
            self.cluster.get_or_create(SECRET, secret)

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        return manifests.dataset_pod(self._with_urls(run), run.tuning_plan, manifest_settings(), run.run_id)

    def _with_urls(self, run: Run) -> Workspace:
        # XCom has no signed URLs: this is the one step that needs them, and it gives them to a Secret only.
        return Run(self.live_workspace(run), run.plan, None, run.run_id).workspace

    def made_before(self, trained: Mapping[str, Any]) -> dict[str, Any] | None:
        return dict(trained["dataset"])

    def summary(self, result: dict[str, Any]) -> str:
        rows = result.get("sentence") or f"{result.get('rows')} rows"
        return f"Dataset ready: {rows}; digest {result.get('digest')}"


class TuneOperator(MachineAsking, WorkloadPodOperator):
    """Tunes on the run's GPU machines; a second try goes on from the last checkpoint, on new ones if need be."""

    BASE_CONTAINER_NAME = "tuning"
    purpose = Purpose.TUNING
    lost_seconds: float | None = lost.LOST_SECONDS
    patience = 0
    holds_machines = True
    pending = conditions.Phase.TUNING_PENDING
    out_of_memory = (
        "killed for lack of memory (OOMKilled). A larger machine type, a smaller batch or a shorter sequence helps; "
        "the same attempt again does not."
    )
    working = conditions.Phase.TUNING
    done = conditions.Phase.TUNING
    failed = conditions.Phase.TUNING_FAILED

    def __init__(
        self,
        *,
        execution_timeout: timedelta = timedelta(hours=24),
        dataset_task_id: str = "fetch_dataset",
        **kwargs: Any,
    ) -> None:
        super().__init__(execution_timeout=execution_timeout, **kwargs)
        self.dataset_task_id = dataset_task_id
        self._dataset: dict[str, Any] = {}
        self._try = 1
        #: What the machines were asked for as that are there now, "" where only the first wait has asked.
        self._offer = ""

    def execute(self, context: Context) -> Any:
        self._try = context["ti"].try_number
        self._dataset = dict(context["ti"].xcom_pull(task_ids=self.dataset_task_id) or {})
        return super().execute(context)

    def made_before(self, trained: Mapping[str, Any]) -> dict[str, Any] | None:
        return dict(trained["tuning"])

    def prepare(self, run: Run) -> None:
        if self._try > 1:
            self._have_machines(run)
        apply_config(self.cluster, run, self._plan(run))
        self._take_the_volume(run)

    def _take_the_volume(self, run: Run) -> None:
        """Whatever adapter lies there is no longer one to push: this training may write from now on."""
        live = {**self.live_workspace(run), "metadata": run.document["metadata"]}
        recipe = kept_adapter.recipe(self.cluster, live, self._plan(run))
        begun = KeptAdapter.begun(recipe, run.run_id, rerun_of(live), self._dataset)
        kept_adapter.change(self.cluster, live, lambda _: begun)

    def finished(self, run: Run, result: dict[str, Any]) -> None:
        try:
            kept_adapter.change(
                self.cluster, run.document, lambda known: known and known.finished(run.run_id, result)
            )
        except ClusterError as error:  # a later run then trains again
            self.log.warning("That the adapter is on the work volume could not be recorded: %s", error)
        super().finished(run, result)

    def _have_machines(self, run: Run) -> None:
        """Return if the run's machines are there, else ask for what is missing and wait for it in the triggerer.

        Nobody else does: the setup and its wait have long succeeded.
        """
        seen = self._machines_now(run)
        if seen.ready:
            self._offer = seen.offer
            return
        self.log.info("The run's machines are not all there any more: asking for what is missing.")
        self._delete_lost_machines(run, seen.nodes)
        self.ask(run)
        self._await_machines(run)

    def _delete_lost_machines(self, run: Run, nodes: Iterable[str]) -> bool:
        """Let go of the run's machines if one of these is lost; returns whether they went, and their pods with them.

        :raises AirflowException: they do not go. Nothing takes their place then.
        """
        now = datetime.now(UTC)
        found = [node for name in nodes if (node := self.cluster.find(NODE, name))]
        silent = [node for node in found if lost.is_lost(node, now)]
        if not silent:
            return False
        told = "; ".join(map(lost.sentence, silent))
        self.log.warning("%s. Letting its machine go, before another takes its place.", told)
        self.report(run, conditions.Phase.NODES_PENDING, f"{told}: its machine is let go, then replaced")
        machines = self.machines(run)
        self.record_cost_of_pool(run, machines)
        key = PoolKey(run.name, run.namespace, self.purpose)
        try:
            machines.delete_and_wait(key, run.run_id, timeout=GONE_WITHIN.total_seconds())
        except TimeoutError as error:
            raise AirflowException(f"{told}. Its machine does not go: {error}") from None
        self._forget_pods(run, {node["metadata"]["name"] for node in silent})
        return True

    def _forget_pods(self, run: Run, nodes: set[str]) -> None:
        """Delete the pods of machines that are gone: no kubelet is left that would ever confirm their end."""
        for pod in self.cluster.list(POD, run.namespace, labels={names.WORKSPACE: run.name}):
            node, metadata = (pod.get("spec") or {}).get("nodeName"), pod["metadata"]
            if node in nodes and self.cluster.find(NODE, node) is None:
                self.log.info("Pod %s went with Node %s.", metadata["name"], node)
                self.cluster.delete(
                    POD, metadata["name"], run.namespace, uid=metadata["uid"], grace_seconds=0
                )

    def _await_machines(self, run: Run) -> NoReturn:
        wait = LostMachinesTrigger(
            workspace=run.name,
            namespace=run.namespace,
            purpose=self.purpose,
            kubernetes_conn_id=self.kubernetes_conn_id,
            timeout_seconds=NODES_READY_WITHIN.total_seconds(),
            poll_seconds=MACHINES_POLL,
        )
        self.defer(trigger=wait, method_name="machines_came", timeout=NODES_READY_WITHIN + BACKSTOP)

    def machines_came(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Come back from the wait for other machines: to the training, to the next choice, or to the end."""
        if event.get("ready"):
            return self.execute(context)
        if why := stopped(self, context):
            raise AirflowFailException(why)
        run, message = self.this_run(context), str(event.get("message"))
        if event.get("lost") and self._delete_lost_machines(run, event["lost"]):
            self.ask(run)
            self._await_machines(run)
        if event.get("unavailable"):
            self.ask(run, (str(event.get("offer") or ""), message))
            self._await_machines(run)
        if not event.get("missing") and not event.get("lost"):
            raise AirflowFailException(message)
        again = tries_left(context)
        self.report(run, self.failed, f"{message}{'; trying again' if again else ''}", again=again)
        raise AirflowException(message)

    def _machines_now(self, run: Run) -> PoolStatus:
        return self.machines(run).observe(PoolKey(run.name, run.namespace, self.purpose))

    def _lost_machines(self, run: Run) -> bool:
        return not self._machines_now(run).ready

    def _plan(self, run: Run) -> Plan:
        """The plan of the machines that are there: a later try may have others than the first wait has found."""
        plans = run.candidates(self.purpose)
        return next((plan for plan in plans if plan.offer == self._offer), run.tuning_plan)

    def _deleted(self, event: Mapping[str, Any]) -> bool:
        """As for any pod; but one that went with its machine may be tried again."""
        if not super()._deleted(event):
            return False
        if self._run is None:
            return True
        try:
            self.live_workspace(self._run)
            return not self._went_with_its_machine(self._run, event)
        except (StaleWorkspace, ClusterError, ValueError):
            return True

    def _went_with_its_machine(self, run: Run, event: Mapping[str, Any]) -> bool:
        """Whether the pod was evicted, or its Node is gone (and perhaps replaced by now), or machines are missing.

        Raises ClusterError and ValueError.
        """
        node = event.get("node")
        if event.get("evicted") or (node and self.cluster.find(NODE, node) is None):
            return True
        return self._lost_machines(run)

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        return manifests.tuning_pod(run.workspace, self._plan(run), manifest_settings(), run.run_id)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """As every pod's end; how long it worked is written down before the provider deletes it."""
        self._try = context["ti"].try_number
        self.record_cost(run := self.this_run(context))
        if event.get("status") == NODE_LOST:
            self._lost(run, context, event)
        return super().trigger_reentry(context, event)

    def _stuck(self, run: Run, context: Context, sentence: str) -> Exception:
        """As for any pod; but where the machines are not what they were, the next try asks for others."""
        if not self._lost_machines(run):
            return super()._stuck(run, context, sentence)
        again = tries_left(context)
        self.report(run, self.failed, f"{sentence}{'; trying again' if again else ''}", again=again)
        return AirflowException(sentence)

    def _lost(self, run: Run, context: Context, event: Mapping[str, Any]) -> None:
        """The pod's Node is silent: the next try lets its machine go. Raises AirflowException, or waits on.

        Whether the machine of a BYO Node still runs, only its owner knows.
        """
        told = f"{self.task_id}: {event['message']}"
        self.log.error("%s", told)
        if self.machines(run).makes_machines:
            again = tries_left(context)
            self.report(run, self.failed, f"{told}{'; trying again' if again else ''}", again=again)
            raise AirflowException(told)
        hint = (
            "once you know that its machine is off, the training goes on elsewhere after: kubectl delete node"
        )
        self.report(run, self.working, f"{told}. It is BYO (bring your own): {hint} {event.get('node')}")
        self._run, self.lost_seconds = run, None
        self.pod = self.hook.get_pod(event["name"], event["namespace"])
        self.invoke_defer_method(event.get("last_log_time"), context)

    def _result(self, failure: Exception | None, event: dict[str, Any]) -> dict[str, Any]:
        """As for any pod; but what ended by itself too often is not tried again."""
        try:
            return super()._result(failure, event)
        except AirflowFailException:
            raise
        except AirflowException as error:
            if self._try < OWN_TRIES or self._machine_was_taken(event):
                raise
            raise AirflowFailException(f"{error}; not tried again after {self._try} tries") from failure

    def _machine_was_taken(self, event: Mapping[str, Any]) -> bool:
        if evicted(self.pod) or self._run is None:
            return True
        try:
            return self._went_with_its_machine(self._run, event)
        except (ClusterError, ValueError):
            return True  # the next try sees

    def summary(self, result: dict[str, Any]) -> str:
        rows = f"; {result['data']}" if result.get("data") else ""
        loss = f"{result.get('loss_first')} to {result.get('loss_last')}"
        return f"Tuned in {result.get('steps')} steps, loss {loss}{rows}"


def provenance(run: Run, dataset: Mapping[str, Any], tuning: Mapping[str, Any]) -> dict[str, str]:
    """Return what the adapter image says of its origin, as annotations of its manifest; unknown parts are left out."""
    plan = run.tuning_plan
    known = {
        "base.model": plan.model_id,
        "base.revision": plan.revision,
        "dataset.digest": dataset.get("digest"),
        "dataset.rows": dataset.get("rows"),
        "tuning.method": plan.method,
        "tuning.config-sha256": tuning.get("config_sha256"),
        "tuning.steps": tuning.get("steps"),
        "tuning.loss": tuning.get("loss_last"),
        "tuning.device": tuning.get("device"),
        "run-id": (run.trained or {}).get("run", run.run_id),
        "workspace": f"{run.namespace}/{run.name}",
    }
    return {f"sh.kaito.{key}": str(value) for key, value in known.items() if value is not None}


class PublishAdapterOperator(WorkloadPodOperator):
    """Pushes the adapter as an OCI image and returns its digest.

    :param dataset_task_id: the task whose result says what was learnt from.
    :param tuning_task_id: the task whose result says how.
    """

    BASE_CONTAINER_NAME = "adapter"
    pending = conditions.Phase.PUBLISHING
    working = conditions.Phase.PUBLISHING
    done = conditions.Phase.PUBLISHED
    failed = conditions.Phase.PUBLISH_FAILED

    def __init__(self, *, dataset_task_id: str, tuning_task_id: str, **kwargs: Any) -> None:
        super().__init__(**{"execution_timeout": step_timeout() + WAITING, **kwargs})
        self.dataset_task_id = dataset_task_id
        self.tuning_task_id = tuning_task_id

    def execute(self, context: Context) -> Any:
        run = self.this_run(context)
        self._check_the_volume(run)
        output = run.workspace.tuning.output if run.workspace.tuning else None
        if run.adapter is None and (output is None or output.image):
            return super().execute(context)
        result = run.adapter or {"volume": True}
        self.log.info("%s", self.summary(result))
        context["ti"].xcom_push(key="return_value", value=result)
        self.finished(run, result)
        return result

    def _check_the_volume(self, run: Run) -> None:
        """An adapter of an earlier run must still be the one that the preflight saw."""
        if run.adapter or not run.trained:
            return
        known = kept_adapter.seen(self.cluster, run.document)
        same = known is not None and (known.run, known.recipe) == (run.trained["run"], run.trained["recipe"])
        if known is None or not same or known.state is State.TRAINING:
            raise self._verdict(
                run,
                f"{self.task_id}: the adapter of run {run.trained['run']} is no longer on the work volume; set "
                f"{names.RERUN} to a new value to train again.",
            )

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        pull = context["ti"].xcom_pull
        tuned = pull(task_ids=self.tuning_task_id) or {}
        made = provenance(run, pull(task_ids=self.dataset_task_id) or {}, tuned)
        weights = (tuned.get("adapter") or {}).get("sha256")
        return manifests.adapter_pod(
            run.workspace, run.tuning_plan, manifest_settings(), run.run_id, made, weights
        )

    def summary(self, result: dict[str, Any]) -> str:
        return (
            "The adapter is on its output volume."
            if result.get("volume")
            else f"Adapter: {result.get('reference')}"
        )

    def finished(self, run: Run, result: dict[str, Any]) -> None:
        self.report(run, self.done, self.summary(result), adapter=None if result.get("volume") else result)
        if run.serving_plan is None:
            self.report(run, conditions.Phase.SUCCEEDED, self.summary(result))
