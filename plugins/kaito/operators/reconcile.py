"""The reconciler's task: one event loop for all Workspaces that need a look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseAsyncOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from include.catalog import load_catalog
from include.reconcile import Surroundings
from include.workspace import Fault, names
from include.workspace.parse import examine_update
from kaito import settings
from kaito.hooks import references
from kaito.hooks.cluster import AsyncKaitoClusterHook
from kaito.hooks.lease import RENEW_EVERY, Election
from kaito.hooks.ledger import price_of
from kaito.hooks.pools import ProviderName, pool_settings
from kaito.hooks.reconciling import Installation, Outcome, Pass
from kaito.hooks.runs import AirflowRuns
from kaito.lookup import Lookup, look_up
from kaito.operators.base import as_written
from kaito.sensors.changes import handed

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReconcileOperator(BaseAsyncOperator):
    """Compares Workspaces with the cluster, writes their conditions, starts what is due.

    :param changes_task_id: the task that says which Workspaces, as WorkspaceChangesSensor does.
    :param kubernetes_conn_id: Airflow connection to the cluster; default: setting ``[kaito] kubernetes_conn_id``.
    """

    def __init__(self, *, changes_task_id: str, kubernetes_conn_id: str | None = None, **kwargs: Any) -> None:
        # The next run of the DAG is the next attempt; waiting for it inside of this one would delay everybody.
        kwargs.setdefault("retries", 0)
        super().__init__(**kwargs)
        self.changes_task_id = changes_task_id
        self.kubernetes_conn_id = kubernetes_conn_id or settings.connection_id()

    async def aexecute(self, context: Context) -> dict[str, Any]:
        given = handed(context["ti"].xcom_pull(task_ids=self.changes_task_id))
        if given is None:
            raise AirflowSkipException(f"Task {self.changes_task_id} named no Workspaces.")
        self.log.info("To be looked at: %s", given["reason"])
        keys = None if given["keys"] is None else [(namespace, name) for namespace, name in given["keys"]]
        async with AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id).connected() as hook:
            election = Election(hook, given["identity"], settings.base_url(), settings.lease_namespace())
            standing = await election.stand(may_take=False)
            if not standing.mine:
                raise AirflowSkipException(standing.message)
            async with _held(election):
                outcome = await Pass(hook, AirflowRuns(), installation(), self.log).over(keys)
            self.log.info("%s.", outcome)
            if outcome.unsettled:
                raise AirflowException(_unsettled(outcome))
            await election.stand(may_take=False, done=given["token"])
        return {"looked": outcome.looked, "changed": outcome.changed, "troubled": outcome.troubled}


def _unsettled(outcome: Outcome) -> str:
    some = ", ".join("/".join(key) for key in outcome.unsettled[:10])
    return f"{len(outcome.unsettled)} Workspace(s) are looked at again soon: {some}"


@asynccontextmanager
async def _held(election: Election) -> AsyncIterator[None]:
    """Renew the Lease while the work goes on; the work ends when it is lost."""
    worker = asyncio.current_task()
    lost: list[str] = []

    async def renew() -> None:
        while not lost:
            await asyncio.sleep(RENEW_EVERY)
            standing = await election.stand(may_take=False)
            if not standing.mine and worker:
                lost.append(standing.message)
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


@dataclass(frozen=True)
class _Grounds:
    """What a judgement about a Workspace stands on, besides the Workspace."""

    document: dict[str, Any]
    found: references.Found
    lookup: Lookup


async def _look_up(hook: AsyncKaitoClusterHook, workspace: Mapping[str, Any]) -> _Grounds:
    """Look up what a Workspace names: in the cluster, and on the hub where it names a model of the hub."""
    document = as_written(workspace)
    namespace = names.namespace(workspace)
    found = await references.look_up_async(hook, document, namespace)
    token = await references.hub_token_async(hook, document, namespace)
    lookup = await asyncio.to_thread(look_up, document, lambda: token)
    if lookup.transient:
        raise RuntimeError(str(lookup.fault))
    return _Grounds(document, found, lookup)


def _faults(workspace: Mapping[str, Any], before: Mapping[str, Any] | None, grounds: _Grounds) -> list[Fault]:
    catalog = grounds.lookup.catalog
    read, told = examine_update(grounds.document, before, catalog, settings.policy())
    missing = references.faults(grounds.document, grounds.found, read, catalog)
    return [*grounds.lookup.with_doubt(told), *missing]


def _machine_of(workspace: Mapping[str, Any]) -> str:
    wanted = str((workspace.get("resource") or {}).get("instanceType") or "")
    try:
        return load_catalog().machine(wanted).name if wanted else ""
    except KeyError:
        return ""


def installation() -> Installation:
    """Return what decisions need to know of this installation."""
    base = settings.base_url()
    surroundings = Surroundings(
        faults=_faults,
        machine_of=_machine_of,
        price_of=price_of,
        run_url=lambda dag_id, run_id: f"{base}/dags/{dag_id}/runs/{run_id}",
        release_deadline=settings.release_deadline(),
        node_claims=pool_settings().provider == ProviderName.NODE_CLAIM,
    )
    return Installation(surroundings, _look_up)
