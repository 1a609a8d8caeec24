"""GPU machines as setup and teardown of a run: made before the work, let go after it on every path."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.reconcile.pools import FINAL_CLASSES
from include.workspace import conditions, names
from kaito.hooks.api import STATEFUL_SET, ClusterError
from kaito.hooks.cluster import StaleWorkspace
from kaito.hooks.pool import ForeignPool, GpuPool, GpuPoolProvider, PoolKey, PoolTaken, Purpose
from kaito.hooks.pools import provider
from kaito.hooks.pools.choosing import choose, failure_class
from kaito.hooks.pools.own_nodes import OwnNodes
from kaito.operators.base import Run, WorkspaceTask
from kaito.settings import manifest_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

# AKS takes several minutes to delete an agent pool.
GONE_WITHIN = timedelta(minutes=20)
#: A task that is killed has little time to wait for a cloud that is busy; the janitor takes up what is left.
KILL_SECONDS = 15.0


class PoolTask(WorkspaceTask):
    """What both ends of a pool share."""

    def machines(self, run: Run) -> GpuPoolProvider:
        """Return who makes this run's machines: the Workspace's annotation decides, as it was when the run began."""
        choice = choose(self.cluster, run.document)
        self.log.info("%s", choice)
        return provider(self.cluster, choice.settings, run.document)


class CreateGpuPoolOperator(PoolTask, BaseOperator):
    """Asks for the run's GPU machines; skipped when the run needs none for this purpose.

    A setup that fails has no teardown, so it takes back what it made before it reports its own failure.

    :param purpose: ``tuning`` or ``serving``.
    """

    def __init__(self, *, purpose: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose
        self._asked: tuple[GpuPoolProvider, PoolKey, str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        run = self.this_run(context)
        plan = run.plan_for(self.purpose)
        if plan is None:
            raise AirflowSkipException(
                f"Workspace {run.name} asks for no rollout (kaito.sh/rollout); the adapter image is the result."
            )
        if run.adapter and self.purpose == Purpose.TUNING:
            self.log.info("This run has published its adapter already: no machines are needed for tuning.")
            return {"node_claims": [], "made": [], "instance_type": plan.instance_type}
        try:
            machines = self.machines(run)
            pool = machines.request(run.document, plan, run.run_id, manifest_settings())
        except (
            ValueError
        ) as error:  # of the settings, the annotation, the connection, or what the cloud would refuse
            raise self._refused(run, error) from None
        self._asked = (machines, pool.key, run.run_id)
        made = self._make(machines, pool, run)
        what = f"{plan.node_count} x {plan.instance_type}"
        self.log.info("%s: %s", what, ", ".join(pool.names) or "brought along")
        self.report(run, conditions.Phase.NODES_PENDING, f"Waiting for {what}", target_nodes=plan.node_count)
        return {"node_claims": pool.names, "made": made, "instance_type": plan.instance_type}

    def _make(self, machines: GpuPoolProvider, pool: GpuPool, run: Run) -> list[str]:
        """Ask for the machines; whatever goes wrong, nothing that was asked for is left behind."""
        try:
            self.live_workspace(run)
            made = self._create(machines, pool)
            # The Workspace may have gone or been edited since the look before: nobody else takes these back then.
            self.live_workspace(run)
        except PoolTaken as error:
            if isinstance(error, ForeignPool):
                self._take_back(machines, pool)  # of several machines, the first may have been made
            raise self._refused(run, error) from None
        except StaleWorkspace as stale:
            machines.delete(pool.key, run.run_id)
            raise AirflowFailException(str(stale)) from None
        except Exception as error:
            self._take_back(machines, pool)
            if failure_class(error) in FINAL_CLASSES:
                raise self._refused(run, error) from None
            self.report(
                run, conditions.Phase.NODES_FAILED, f"The GPU machines could not be asked for: {error}"
            )
            raise
        return made

    def _create(self, machines: GpuPoolProvider, pool: GpuPool) -> list[str]:
        try:
            return machines.create(pool)
        except PoolTaken as taken:
            if not taken.runs or not all(names.earlier_run(run, pool.run_id) for run in taken.runs):
                raise
            held = taken.runs
        for earlier in held:
            # That run serves a Workspace that has moved on, and may have no teardown any more.
            self.log.info("Run %s was superseded by this one: letting its machines go first.", earlier)
            machines.delete_and_wait(pool.key, earlier, timeout=GONE_WITHIN.total_seconds())
        return machines.create(pool)

    def _refused(self, run: Run, error: Exception) -> AirflowFailException:
        """Return the end of a task that no later try can bring further; the Workspace is told."""
        classed = not isinstance(error, PoolTaken | ValueError)
        told = f"{failure_class(error)}: {error}" if classed else str(error)
        self.report(run, conditions.Phase.NODES_FAILED, told)
        return AirflowFailException(told)

    def _take_back(self, machines: GpuPoolProvider, pool: GpuPool) -> None:
        """Let go what a failed creation made; its own error is the news, so this never raises."""
        try:
            machines.delete(pool.key, pool.run_id)
        except Exception:
            self.log.exception("What was made could not be taken back; releasing the Workspace tries again.")

    def on_kill(self) -> None:
        if self._asked:
            machines, key, run_id = self._asked
            if hasattr(machines, "busy_seconds"):
                machines.busy_seconds = KILL_SECONDS
            machines.delete(key, run_id)


class ReleaseGpuPoolOperator(PoolTask, BaseOperator):
    """Lets the run's GPU machines go and returns when they are gone.

    :param purpose: ``tuning`` or ``serving``.
    :param keep_if_succeeded: id of the task whose success means that the machines are in use and stay.
    :param gone_within: fail after that long; the task's retries then ask again.
    :param poll_seconds: pause between two looks at the cluster.
    """

    def __init__(
        self,
        *,
        purpose: str,
        keep_if_succeeded: str | None = None,
        gone_within: timedelta = GONE_WITHIN,
        poll_seconds: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose
        self.keep_if_succeeded = keep_if_succeeded
        self.gone_within = gone_within
        self.poll_seconds = poll_seconds

    def execute(self, context: Context) -> None:
        run = self.this_run(context)
        if self.keep_if_succeeded and self._succeeded(context):
            self.log.info("The service runs on these machines: they stay.")
            return
        key = PoolKey(run.name, run.namespace, self.purpose)
        if self.purpose == Purpose.SERVING and self._withdraw(run):
            self.log.warning("The service still answers: it keeps its machines.")
            return
        machines = self.machines(run)
        machines.delete_and_wait(
            key, run.run_id, timeout=self.gone_within.total_seconds(), poll=self.poll_seconds
        )
        if isinstance(machines, OwnNodes):
            self.log.info("The nodes were brought along: they stay.")
            return
        self.log.info("The %s machines of run %s are gone.", self.purpose, run.run_id)
        self.report(run, conditions.Phase.RELEASED, f"The {self.purpose} machines were released.")

    def _succeeded(self, context: Context) -> bool:
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[self.keep_if_succeeded])
        return bool(states.get(ti.run_id, {}).get(self.keep_if_succeeded) == "success")

    def _withdraw(self, run: Run) -> bool:
        """Take back a service that this run made and that never answered; returns whether one is left that answers."""
        found = self.cluster.find(STATEFUL_SET, run.name, run.namespace)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return False
        labels = found["metadata"].get("labels") or {}
        if (found.get("status") or {}).get("readyReplicas"):
            return True
        if labels.get("kaito.sh/run-id") == run.run_id:
            try:
                self.cluster.delete(STATEFUL_SET, run.name, run.namespace, uid=found["metadata"]["uid"])
            except ClusterError as error:
                self.log.warning("StatefulSet %s could not be taken back: %s", run.name, error)
        return False
