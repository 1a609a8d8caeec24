"""The janitor's task: looks at everything of ours, reports what nobody needs, and deletes it where it is told to.

It deletes nothing by default. It tells of each orphan where people look: the log, the task's XCom, Events, metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseAsyncOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from airflow.sdk.observability import stats

from include.contracts.plural import plural
from include.janitor import Memory, OrphanAction, Rules, Verdict
from include.workspace.api import names
from include.workspace.status.transitions import NORMAL, Event
from include.workspace.validation.identity import namespace_allowed
from kaito import settings
from kaito.controller import event_recorder as events
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.garbage_collector import (
    Deletion,
    Sweep,
)
from kaito.controller.leader_election import Election
from kaito.hooks.api import WORKSPACE, CloudError, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.params import janitor_params
from kaito.providers.registry import owners
from kaito.run_conf import conf_faults, refuse

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Stands for what the janitor remembers from one sweep to the next; nothing is scheduled by it.
ORPHANS = Asset("kaito_orphans", uri="kaito://janitor/orphans")
SEEN = "seen"
METRIC = "kaito.janitor"
UNSEEN = "Nothing is swept, since not everything could be seen: {}"
#: Rows of the XCom and of the log; the rest is counted.
MOST_ROWS, MOST_LINES = 200, 500


class SweepOperator(BaseAsyncOperator):
    """Finds things of ours whose Workspace is gone or whose run is over.

    The run's params ``delete`` and ``grace_minutes`` go before the settings ``[kaito] janitor_delete`` and
    ``janitor_grace_minutes``.

    :param kubernetes_conn_id: Airflow connection to the cluster; default: setting ``[kaito] kubernetes_conn_id``.
    :returns: ``{"delete", "looked_at", "deleted", "orphans": [{"object", "workspace", "verdict", "reason"}], ...}``
    """

    def __init__(self, *, kubernetes_conn_id: str | None = None, **kwargs: Any) -> None:
        # The next sweep is the next attempt.
        kwargs.setdefault("retries", 0)
        kwargs.setdefault("inlets", [ORPHANS])
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id or settings.connection_id()

    async def aexecute(self, context: Context) -> dict[str, Any]:
        refuse(conf_faults(context["dag_run"].conf or {}, janitor_params()))
        params, now = context["params"], datetime.now(UTC)
        delete = settings.janitor_deletes() if params.get("delete") is None else bool(params["delete"])
        grace = settings.janitor_grace() if params.get("grace_minutes") is None else params["grace_minutes"]
        async with (
            AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id).connected() as hook,
            owners(hook) as providers,
        ):
            await self._may_act(hook)
            memory = Memory.load(await self._remembered(context), now)
            sweep = Sweep(hook, AirflowRuns(), providers, self.log)
            verdicts = await self._look(sweep, memory, now, Rules(timedelta(minutes=float(grace))))
            done = await sweep.delete(self._deletable(verdicts)) if delete else []
            await self._tell(sweep, verdicts, done, delete=delete)
            gone = {deletion.verdict.thing.key for deletion in done if deletion.gone}
            await self._remember(context, Memory.of((v for v in verdicts if v.thing.key not in gone), now))
        self._summary(verdicts, done, delete=delete)
        return report(verdicts, done, delete=delete)

    def _deletable(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Leave out what is of a namespace in which Workspaces may not run: it is reported, and stays."""
        allowed = settings.policy().allowed_namespaces
        ripe = [verdict for verdict in verdicts if verdict.action == OrphanAction.DELETE]
        kept = [verdict for verdict in ripe if not namespace_allowed(verdict.thing.workspace[0], allowed)]
        for verdict in kept:
            self.log.warning(
                "%s stays: namespace %s is none of [kaito] allowed_namespaces.",
                verdict.thing,
                verdict.thing.workspace[0],
            )
        return [verdict for verdict in ripe if verdict not in kept]

    async def _may_act(self, hook: AsyncKaitoClusterHook) -> None:
        election = Election(hook, settings.deployment_id(), settings.base_url(), settings.lease_namespace())
        leadership = await election.seen_from_outside()
        if not leadership.mine:
            raise AirflowSkipException(f"Nothing is swept. {leadership.message}")

    async def _look(self, sweep: Sweep, memory: Memory, now: datetime, rules: Rules) -> list[Verdict]:
        try:
            verdicts = await sweep.look(dict(memory.seen), now, rules)
        except ClusterError as error:
            if error.status == 404:
                raise AirflowSkipException(
                    "Nothing is swept: this cluster knows no Workspaces. Apply presets/crds first."
                ) from error
            raise AirflowException(UNSEEN.format(error)) from error
        except CloudError as error:
            raise AirflowException(UNSEEN.format(error)) from error
        if sweep.inventory.upstream:
            self.log.info(
                "%s runs here: only Workspaces with %s: airflow count as ours.",
                sweep.inventory.upstream,
                names.MANAGED_BY,
            )
        return verdicts

    # --- memory ---------------------------------------------------------------------------------------------------

    async def _remembered(self, context: Context) -> Any:
        try:
            return await context["asset_state_store"][ORPHANS].aget(SEEN)
        except Exception as error:  # forgetting costs time and nothing else
            self.log.warning(
                "What was seen before cannot be read, so all is seen for the first time: %s", error
            )
            return None

    async def _remember(self, context: Context, memory: Memory) -> None:
        try:
            await context["asset_state_store"][ORPHANS].aset(SEEN, memory.dump())
        except Exception as error:
            self.log.warning("What was seen cannot be stored, so the next sweep starts anew: %s", error)

    # --- telling --------------------------------------------------------------------------------------------------

    async def _tell(
        self, sweep: Sweep, verdicts: Sequence[Verdict], done: Sequence[Deletion], *, delete: bool
    ) -> None:
        for line in table(verdicts):
            self.log.info("%s", line)
        gone = [deletion.verdict for deletion in done if deletion.gone]
        for verdict in gone:
            stats.incr(f"{METRIC}.deleted", tags={"kind": verdict.thing.kind})
            if about := sweep.kind_of(verdict.thing):
                event = Event(NORMAL, "OrphanDeleted", f"Deleted by the janitor: {verdict.reason}.")
                await events.tell(sweep.hook, _object(verdict), [event], about)
        for kind in sorted({verdict.thing.kind for verdict in verdicts}):
            count = sum(v.orphan and v.thing.kind == kind for v in verdicts)
            stats.gauge(f"{METRIC}.orphans", count, tags={"kind": kind})
        await self._tell_workspaces(
            sweep, gone if delete else [v for v in verdicts if v.orphan], delete=delete
        )

    async def _tell_workspaces(self, sweep: Sweep, some: Sequence[Verdict], *, delete: bool) -> None:
        live = {(names.namespace(ws), ws["metadata"]["name"]): ws for ws in sweep.inventory.workspaces}
        for verdict in some:
            if (workspace := live.get(verdict.thing.workspace)) is None:
                continue
            message = f"{verdict.thing} is needed by nobody ({verdict.reason})"
            if delete:
                event = Event(NORMAL, "OrphanDeleted", f"{message}: deleted by the janitor.")
            else:
                once = f"orphan {verdict.thing.key}"
                event = Event(NORMAL, "OrphanFound", f"{message}. The janitor only reports it.", once=once)
            await events.tell(sweep.hook, workspace, [event], WORKSPACE)

    def _summary(self, verdicts: Sequence[Verdict], done: Sequence[Deletion], *, delete: bool) -> None:
        orphans = [verdict for verdict in verdicts if verdict.orphan]
        ripe = sum(verdict.action == OrphanAction.DELETE for verdict in orphans)
        message = f"{plural(len(verdicts), 'thing')} looked at, {plural(len(orphans), 'orphan')}"
        if not delete:
            self.log.info(
                "%s, %s of them would be deleted now. Dry run: start with delete, or set [kaito] janitor_delete.",
                message,
                ripe,
            )
            return
        gone = sum(deletion.gone for deletion in done)
        self.log.info("%s, %s deleted, %s wait.", message, gone, len(orphans) - ripe)
        for deletion in done:
            if not deletion.gone and not deletion.trouble:
                self.log.info("%s has changed since it was looked at, and stays.", deletion.verdict.thing)
        if troubles := [f"{d.verdict.thing}: {d.trouble}" for d in done if d.trouble]:
            raise AirflowException(f"Not everything could be deleted. {'; '.join(troubles)}")


def _object(verdict: Verdict) -> dict[str, Any]:
    thing = verdict.thing
    metadata = {"name": thing.name, "uid": thing.uid}
    return {"metadata": {**metadata, **({"namespace": thing.namespace} if thing.namespace else {})}}


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Every verdict as a line, orphans first, in columns."""
    order = {OrphanAction.DELETE: 0, OrphanAction.WAIT: 1, OrphanAction.KEEP: 2}
    ranked = sorted(verdicts, key=lambda verdict: order[verdict.action])
    shown = ranked[:MOST_LINES]
    width = max((len(str(verdict.thing)) for verdict in shown), default=0)
    lines = [f"{verdict.action:<6} {verdict.thing!s:<{width}}  {verdict.reason}" for verdict in shown]
    return lines + ([f"... and {len(ranked) - len(shown)} more"] if len(ranked) > len(shown) else [])


def report(verdicts: Sequence[Verdict], done: Sequence[Deletion], *, delete: bool) -> dict[str, Any]:
    """What goes into XCom: the orphans only, and not more than a page can show."""
    gone = {deletion.verdict.thing.key for deletion in done if deletion.gone}
    orphans = [
        {
            "object": str(verdict.thing),
            "workspace": "/".join(verdict.thing.workspace),
            "verdict": "deleted" if verdict.thing.key in gone else str(verdict.action),
            "reason": verdict.reason,
        }
        for verdict in verdicts
        if verdict.orphan
    ]
    return {
        "delete": delete,
        "looked_at": len(verdicts),
        "deleted": len(gone),
        "orphans": orphans[:MOST_ROWS],
        "not_shown": max(0, len(orphans) - MOST_ROWS),
    }
