"""The training, in a pod on the run's GPU machines.

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
from include.contracts.results import DatasetResult, TuningResult
from include.pools import lost_nodes as lost
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.kept_adapter import KeptAdapter, rerun_of
from kaito.hooks.api import NODE, POD, ClusterError
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import kept_adapter
from kaito.operators.dataset import apply_config
from kaito.operators.workload import WorkloadPodOperator
from kaito.providers.base import PoolKey
from kaito.settings import manifest_settings
from kaito.tasks.base import Run, tries_left
from kaito.tasks.machines import GONE_WITHIN, NODES_READY_WITHIN, MachineAsking
from kaito.tasks.preflight_result import Trained
from kaito.tasks.stopped import fail_if_stopped
from kaito.triggers.pool import LostMachinesTrigger
from kaito.triggers.workload import NODE_LOST, evicted

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.planning import Plan
    from include.pools.status import PoolStatus


MACHINES_POLL = 0.5
#: After so many tries a training that fails by itself has failed. Machines that it loses are not its fault, and a spot
#: machine may be taken often: for those the task's retries count.
OWN_TRIES = 3
#: The trigger gives up by itself, with a reason; the framework's limit only backs it up.
BACKSTOP = timedelta(seconds=60)


class TuneOperator(MachineAsking, WorkloadPodOperator[TuningResult]):
    """Tunes on the run's GPU machines; a second try goes on from the last checkpoint, on new ones if need be."""

    BASE_CONTAINER_NAME = "tuning"
    result_type = TuningResult
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
        self._dataset = DatasetResult()
        self._try = 1
        #: What the machines were asked for as that are there now, "" where only the first wait has asked.
        self._offer = ""

    def execute(self, context: Context) -> Any:
        self._try = context["ti"].try_number
        self._dataset = DatasetResult.read(context["ti"].xcom_pull(task_ids=self.dataset_task_id))
        return super().execute(context)

    def made_before(self, trained: Trained) -> TuningResult:
        return trained.tuning

    def prepare(self, run: Run) -> None:
        if self._try > 1:
            self._have_machines(run)
        apply_config(self.cluster, run, self._plan(run))
        self._take_the_volume(run)

    def _take_the_volume(self, run: Run) -> None:
        """Whatever adapter lies there is no longer one to push: this training may write from now on."""
        live = {**self.live_workspace(run), "metadata": run.document["metadata"]}
        recipe = kept_adapter.recipe(self.cluster, live, self._plan(run))
        begun = KeptAdapter.begun(recipe, run.run_id, rerun_of(live), self._dataset.to_xcom())
        kept_adapter.change(self.cluster, live, lambda _: begun)

    def finished(self, run: Run, result: TuningResult) -> None:
        try:
            kept_adapter.change(
                self.cluster,
                run.document,
                lambda known: known and known.finished(run.run_id, result.to_xcom()),
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
        there = [node for name in nodes if (node := self.cluster.find(NODE, name))]
        silent = [node for node in there if lost.is_lost(node, now)]
        if not silent:
            return False
        message = "; ".join(map(lost.sentence, silent))
        self.log.warning("%s. Deleting its machine, before another takes its place.", message)
        self.report(run, conditions.Phase.NODES_PENDING, f"{message}: its machine is deleted, then replaced")
        machines = self.machines(run)
        self.record_cost_of_pool(run, machines)
        key = PoolKey(run.name, run.namespace, self.purpose)
        try:
            machines.delete_and_wait(key, run.run_id, timeout=GONE_WITHIN.total_seconds())
        except TimeoutError as error:
            raise AirflowException(f"{message}. Its machine does not go: {error}") from None
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
        fail_if_stopped(self, context)
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
        message = f"{self.task_id}: {event['message']}"
        self.log.error("%s", message)
        if self.machines(run).makes_machines:
            again = tries_left(context)
            self.report(run, self.failed, f"{message}{'; trying again' if again else ''}", again=again)
            raise AirflowException(message)
        hint = (
            "once you know that its machine is off, the training goes on elsewhere after: kubectl delete node"
        )
        self.report(run, self.working, f"{message}. It is BYO (bring your own): {hint} {event.get('node')}")
        self._run, self.lost_seconds = run, None
        self.pod = self.hook.get_pod(event["name"], event["namespace"])
        self.invoke_defer_method(event.get("last_log_time"), context)

    def _result(self, failure: Exception | None, event: dict[str, Any]) -> TuningResult:
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

    def summary(self, result: TuningResult) -> str:
        notes = [_preferred(result), result.data, result.stopped_early, (result.memory or "").rstrip(".")]
        said = "".join(f"; {note}" for note in notes if note)
        return f"Tuned in {result.steps} steps, loss {result.loss_first} to {result.loss_last}{said}"


def _preferred(result: TuningResult) -> str:
    """What a training by preferences says of the held-out rows; "" of any other."""
    if result.reward_margin is None:
        return ""
    share = "" if result.reward_accuracy is None else f", right in {result.reward_accuracy:.0%} of the pairs"
    return f"reward margin {result.reward_margin:.3g} on the held-out rows{share}"
