"""The reconciler's task: one event loop for all Workspaces that need a look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseAsyncOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from include.contracts.plural import plural
from include.workspace.status.gauges import gauges
from kaito import metrics, settings
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.dispatch import Dispatch
from kaito.controller.fingerprints import Key
from kaito.controller.initial_status import InitialStatusReconciler, newcomers
from kaito.controller.leader_election import RENEW_EVERY, Election
from kaito.controller.reconciler import Outcome, Reconciler
from kaito.hooks.api import VOLUME_CLAIM
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.installation import installation

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Steps of runs weigh as much as there are steps after them: tens.
FIRST_IN_LINE = 10_000


class ReconcileOperator(BaseAsyncOperator):
    """Compares Workspaces with the cluster, writes their conditions, starts what is due.

    :param changes_task_id: the task that says which Workspaces, as WorkspaceChangesSensor does.
    :param kubernetes_conn_id: Airflow connection to the cluster; default: setting ``[kaito] kubernetes_conn_id``.
    """

    def __init__(self, *, changes_task_id: str, kubernetes_conn_id: str | None = None, **kwargs: Any) -> None:
        # The next run of the DAG is the next attempt; waiting for it inside of this one would delay everybody.
        kwargs.setdefault("retries", 0)
        # One short task for all Workspaces: it must not stand in line behind the steps of hundreds of runs.
        kwargs.setdefault("priority_weight", FIRST_IN_LINE)
        kwargs.setdefault("weight_rule", "absolute")
        super().__init__(**kwargs)
        self.changes_task_id = changes_task_id
        self.kubernetes_conn_id = kubernetes_conn_id or settings.connection_id()

    async def aexecute(self, context: Context) -> dict[str, Any]:
        given = Dispatch.from_xcom(context["ti"].xcom_pull(task_ids=self.changes_task_id))
        if given is None:
            raise AirflowSkipException(f"Task {self.changes_task_id} named no Workspaces.")
        self.log.info("To be looked at: %s", given.reason)
        async with AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id).connected() as hook:
            election = Election(hook, given.identity, settings.base_url(), settings.lease_namespace())
            leadership = await election.stand(may_take=False)
            if not leadership.mine:
                raise AirflowSkipException(leadership.message)
            async with _held(election):
                began = time.time()
                outcome = await self._pass(hook, given.keys, given.ended)
            _tell(outcome, began, given.at)
            self.log.info("%s.", outcome)
            if outcome.unreported:
                raise AirflowException(_unreported(outcome))
            await election.stand(may_take=False, done=given.token)
        return {"looked": outcome.looked, "changed": outcome.changed, "troubled": outcome.troubled}

    async def _pass(
        self, hook: AsyncKaitoClusterHook, keys: Sequence[Key] | None, ended: Mapping[str, str]
    ) -> Outcome:
        """Do what is to be done; who came since the keys were named gets an initial status before runs are started."""
        runs, known, reported = AirflowRuns(), installation(), set(keys or ())

        async def greet() -> None:
            await InitialStatusReconciler(hook, runs, known, self.log).to_all(
                lambda: newcomers(hook, reported), reported
            )

        reconciler = Reconciler(hook, runs, known, self.log, before_runs=greet, ended=ended)
        outcome = await reconciler.run(keys)
        if keys is None:  # else some Workspaces were not looked at
            seen = reconciler.snapshot
            claims = (claim for key in seen.workspaces for claim in seen.of(key, VOLUME_CLAIM))
            metrics.tell_gauges(gauges(seen.workspaces.values(), claims))
        return outcome


def _tell(outcome: Outcome, began: float, handed_over: float) -> None:
    """Send how long the pass took, and how long what it looked at had waited for it."""
    results = {"changed": outcome.changed, "troubled": outcome.troubled}
    results["unchanged"] = max(0, outcome.looked - sum(results.values()))
    waited = timedelta(seconds=began - handed_over) if handed_over else None
    metrics.tell_pass(results, timedelta(seconds=time.time() - began), waited)


def _unreported(outcome: Outcome) -> str:
    some = ", ".join("/".join(key) for key in outcome.unreported[:10])
    return f"{plural(len(outcome.unreported), 'Workspace')} to be looked at again soon: {some}"


@asynccontextmanager
async def _held(election: Election) -> AsyncIterator[None]:
    """Renew the Lease while the work goes on; the work ends when it is lost."""
    worker = asyncio.current_task()
    lost: list[str] = []

    async def renew() -> None:
        while not lost:
            await asyncio.sleep(RENEW_EVERY)
            leadership = await election.stand(may_take=False)
            if not leadership.mine and worker:
                lost.append(leadership.message)
                worker.cancel()

    keeper = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if lost:
            raise AirflowException(f"Stopped in the middle of the work. {lost[0]}") from None
        raise
    finally:
        keeper.cancel()
