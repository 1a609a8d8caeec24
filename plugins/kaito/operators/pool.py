"""GPU machines as setup and teardown of a run: made before the work, let go after it on every path."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TaskInstanceState
from airflow.sdk.exceptions import AirflowSkipException

from include.contracts.purpose import Purpose
from include.workspace.status import conditions
from include.workspace.status.transitions import WARNING, Event
from kaito.controller.event_recorder import tell
from kaito.hooks.api import STATEFUL_SET, ClusterError
from kaito.hooks.cluster_calls import run as answered
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import kept_adapter
from kaito.providers.base import PoolKey
from kaito.providers.blocking import BlockingProvider
from kaito.tasks import earlier_service
from kaito.tasks.base import Run, tries_left
from kaito.tasks.machines import GONE_WITHIN, MachineAsking, PoolTask
from kaito.tasks.stopped import fail_if_stopped

if TYPE_CHECKING:
    from airflow.sdk import Context

#: A task that is killed has little time to wait for a cloud that is busy; the janitor takes up what is left.
KILL_SECONDS = 15.0


class CreateGpuPoolOperator(MachineAsking, BaseOperator):
    """Asks for the run's GPU machines; skipped when the run needs none for this purpose.

    A setup that fails has no teardown, so it takes back what it made before it reports its own failure.

    :param purpose: ``tuning`` or ``serving``.
    :param dataset_task_id: the task whose result says how much there is to read.
    """

    def __init__(self, *, purpose: Purpose, dataset_task_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose
        self.dataset_task_id = dataset_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        fail_if_stopped(self, context)
        run = self.this_run(context)
        plan = run.plan_for(self.purpose)
        if plan is None:
            raise AirflowSkipException(
                f"Workspace {run.name} asks for no rollout (kaito.sh/rollout); the adapter image is the result."
            )
        if run.adapter and self.purpose == Purpose.TUNING:
            self.log.info("This run has published its adapter already: no machines are needed for tuning.")
            return {"pools": [], "made": [], "instance_type": plan.instance_type}
        if run.trained and self.purpose == Purpose.TUNING:
            self.log.info("%s: no machines are asked for.", kept_adapter.sentence(run.trained))
            return {"pools": [], "made": [], "instance_type": plan.instance_type}
        self._again = tries_left(context)
        asked = self.ask(run, context=context)
        return {
            "pools": asked.pool.names,
            "made": asked.made,
            "instance_type": asked.plan.instance_type,
        }

    def on_kill(self) -> None:
        if self._pending:
            machines, key, run_id = self._pending
            machines.delete(key, run_id, timeout=KILL_SECONDS)


class ReleaseGpuPoolOperator(PoolTask, BaseOperator):
    """Lets the run's GPU machines go and returns when they are gone.

    :param purpose: ``tuning`` or ``serving``.
    :param keep_if_succeeded: id of the task whose success means that the machines are in use and stay.
    :param asked_by: id of the task that asks for these machines. Where it has not succeeded there may be some all the
        same, which were handed over; where there are none, nothing is told of a release. None: a release is told.
    :param also_tuning: let the run's tuning machines go too, which an earlier release may have left.
    :param gone_within: fail after that long; the task's retries then ask again.
    :param poll_seconds: pause between two looks at the cluster.
    """

    def __init__(
        self,
        *,
        purpose: Purpose,
        keep_if_succeeded: str | None = None,
        asked_by: str | None = None,
        also_tuning: bool = False,
        gone_within: timedelta = GONE_WITHIN,
        poll_seconds: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose
        self.keep_if_succeeded = keep_if_succeeded
        self.asked_by = asked_by
        self.also_tuning = also_tuning
        self.gone_within = gone_within
        self.poll_seconds = poll_seconds

    def execute(self, context: Context) -> None:
        run = self.this_run(context)
        if self.keep_if_succeeded and self._succeeded(context, self.keep_if_succeeded):
            self.log.info("The service runs on these machines: they stay.")
            return
        try:
            self._release_own(run, context)
        finally:
            if self.also_tuning:
                machines = self.machines(run)
                self.release(run, machines, Purpose.TUNING, told=self._holds(run, machines, Purpose.TUNING))

    def _release_own(self, run: Run, context: Context) -> None:
        if self.purpose == Purpose.SERVING and self._withdraw(run):
            return
        machines = self.machines(run)
        asked = self.asked_by is None or self._succeeded(context, self.asked_by)
        told = not self._had_none(run) and (asked or self._holds(run, machines, self.purpose))
        self.release(run, machines, self.purpose, told=told)

    def release(self, run: Run, machines: BlockingProvider, purpose: Purpose, *, told: bool) -> None:
        """Let the run's machines of one purpose go; returns when they are gone.

        :param told: whether the Workspace's conditions tell of it.
        :raises TimeoutError: something is still there after ``gone_within``.
        """
        told = told and machines.makes_machines
        if told:
            # Said before it is so: machines that go unsaid were taken away from outside.
            self.report(run, conditions.Phase.RELEASED, f"The {purpose} machines are being released.")
        self.record_cost_of_pool(run, machines)  # nobody may have seen these machines yet
        machines.delete_and_wait(
            PoolKey(run.name, run.namespace, purpose),
            run.run_id,
            timeout=self.gone_within.total_seconds(),
            poll=self.poll_seconds,
        )
        self.record_cost_of_pool(run, machines)
        if not machines.makes_machines:
            self.log.info("The nodes are BYO (bring your own): they stay.")
            return
        self.log.info("The %s machines of run %s are gone.", purpose, run.run_id)
        if told:
            self.report(run, conditions.Phase.RELEASED, f"The {purpose} machines were released.")

    def _had_none(self, run: Run) -> bool:
        """Whether the run was to have no machines, and its conditions say why."""
        return self.purpose == Purpose.TUNING and bool(run.trained or run.adapter)

    def _holds(self, run: Run, machines: BlockingProvider, purpose: Purpose) -> bool:
        """Whether there may be machines of this run; it decides what is told, and never what is released."""
        key = PoolKey(run.name, run.namespace, purpose)
        try:
            return any(pool.run == run.run_id for pool in machines.list_owned(key.labels))
        except Exception as error:
            self.log.warning("The %s machines could not be looked at: %s", purpose, error)
            return True

    @staticmethod
    def _succeeded(context: Context, task_id: str) -> bool:
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[task_id])
        return bool(states.get(ti.run_id, {}).get(task_id) == TaskInstanceState.SUCCESS)

    def _withdraw(self, run: Run) -> bool:
        """Take back a service that this run made and that never answered; returns whether one stays on its machines.

        What answered before this run replaced it is put back.
        """
        live = self.cluster.find(STATEFUL_SET, run.name, run.namespace)
        if live is None or live["metadata"].get("deletionTimestamp"):
            return False
        labels = live["metadata"].get("labels") or {}
        mine = labels.get("kaito.sh/run-id") == run.run_id
        if mine and self._put_back(run, live):
            return True
        if (live.get("status") or {}).get("readyReplicas"):
            self.log.warning("The service still answers: it keeps its machines.")
            return True
        if mine:
            try:
                self.cluster.delete(STATEFUL_SET, run.name, run.namespace, uid=live["metadata"]["uid"])
            except ClusterError as error:
                self.log.warning("StatefulSet %s could not be taken back: %s", run.name, error)
        return False

    def _put_back(self, run: Run, live: dict[str, Any]) -> bool:
        try:
            workspace = self.live_workspace(run)
            if not earlier_service.put_back(self.cluster, run, live):
                return False
        except StaleWorkspace:  # a later run rolls out what is wanted now
            return False
        except ClusterError as error:
            self.log.warning("What served before could not be put back: %s", error)
            return False
        message = "The rollout failed, so what answered before is put back; it keeps its machines."
        self.log.warning("%s", message)
        answered(tell(self.cluster.calls, workspace, [Event(WARNING, "ServicePutBack", message)]))
        return True
