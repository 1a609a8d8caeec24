"""Asking a cloud for a run's machines, one alternative after the other, until one is granted or none is left.

The setup of a pool and the wait for it share this. What was refused stands in `status.machines`, and what was asked for
in the cloud's own objects, so that a worker that dies anywhere in between leaves enough to go on. A pool that was
refused is let go before the next is asked for: a run never holds two for one purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowFailException

from include.contracts.purpose import Purpose
from include.contracts.results import DatasetResult
from include.manifests import ManifestSettings
from include.planning import Plan
from include.planning.estimate import tokens_of
from include.pools.status import FINAL_CLASSES, UNAVAILABLE_CLASSES
from include.pools.volume_placement import VolumePlacement
from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status import provisioning_history as notes
from kaito.controller.cost_recorder import over_budget
from kaito.hooks.api import NODE, WORKSPACE
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.providers.base import (
    ForeignPool,
    GpuPool,
    PoolKey,
    PoolTaken,
    labels_of,
)
from kaito.providers.blocking import BlockingProvider
from kaito.providers.registry import provider
from kaito.providers.selection import choose, failure_class
from kaito.settings import manifest_settings
from kaito.tasks import work_volume
from kaito.tasks.base import Run, WorkspaceTask

if TYPE_CHECKING:
    from airflow.sdk import Context

# A cloud may take several minutes to delete a pool.
GONE_WITHIN = timedelta(minutes=20)
# The budgets of the stages ([kaito] pool_launch_seconds, ...) end the wait earlier; this bounds them all.
NODES_READY_WITHIN = timedelta(hours=2)
REGION_LABEL = "topology.kubernetes.io/region"

_Noted = TypeVar("_Noted")
Edit = Callable[[dict[str, Any]], dict[str, Any]]


class Unavailable(RuntimeError):
    """The cloud has no such machines for us now; ``str()`` is its own sentence."""


class OverBudget(Unavailable):
    """They would cost more than the Workspace's budget allows, so the cloud is not asked for them."""


@dataclass(frozen=True)
class Granted:
    """What the cloud was asked for and has not refused.

    :param made: the names that this call made.
    """

    plan: Plan
    pool: GpuPool
    made: list[str]


class PoolTask(WorkspaceTask):
    """What everything about a pool shares."""

    def machines(self, run: Run) -> BlockingProvider:
        """Return who makes this run's machines: the Workspace's annotation decides, as it was when the run began."""
        choice = choose(self.cluster, run.document)
        self.log.info("%s", choice)
        return provider(self.cluster, choice.settings, run.document)

    def record_cost_of_pool(self, run: Run, machines: BlockingProvider) -> None:
        """Bring the ledger up to date, with machines that only their cloud knows of. Never raises."""
        try:
            unregistered = machines.unregistered_capacity(labels_of(run.document))
        except Exception as error:  # the caller's own work matters more
            self.log.warning("What the cloud charges for could not be seen: %s", error)
            unregistered = None
        self.record_cost(run, unregistered)


class MachineAsking(PoolTask):
    """Asks for the machines of one pool.

    :ivar purpose: ``tuning`` or ``serving``.
    :ivar dataset_task_id: the task whose result says how much there is to read, which takes time and so money.
    """

    purpose: Purpose
    dataset_task_id: str | None = None
    _pending: tuple[BlockingProvider, PoolKey, str] | None = None
    #: The zones of the volume that the machines must mount.
    _volume_zones: tuple[str, ...] = ()
    #: Whether Airflow tries the task again when it fails now.
    _again = False

    @cached_property
    def _over_budget(self) -> set[str]:
        """The offers that this very task found over budget."""
        return set()

    def ask(
        self, run: Run, refusal: tuple[str, str] | None = None, *, context: Context | None = None
    ) -> Granted:
        """Ask for the first of the run's machines that nobody has refused yet and that the budget allows.

        :param context: where the result of ``dataset_task_id`` is read; without it only what machines cost at least is
            held against the budget.
        :param refusal: the offer that was asked for and refused in the meantime, and the cloud's sentence.
        :raises AirflowFailException: nothing is left to ask for, or no later try can help; the Workspace is told.
        """
        try:
            machines = self.machines(run)
        except ValueError as error:  # of the settings, the annotation or the connection
            raise self._refused(run, error) from None
        plans = run.candidates(self.purpose)
        begin = self._after(run, machines, plans, refusal) if refusal else self._begin(run, machines, plans)
        characters = self._characters(context)
        mounted = work_volume.mounted(run.document, self.purpose)
        volume = self._volume(run, machines, mounted)
        for number, plan in enumerate(plans[begin:], begin):
            try:
                self._keep_within_budget(run, plan, characters)
                if plan.zone and not volume.holds(plan.zone) and (volume.named_zones or machines.keeps_zones):
                    where = ", ".join(volume.named_zones) or "no zone"
                    raise Unavailable(
                        f"{work_volume.whose(mounted, run.document)} in {where} and cannot be mounted in {plan.zone}"
                    )
                self._volume_zones = volume.named_zones
                return self._ask_for(run, machines, plan, number, len(plans))
            except Unavailable as error:
                self._note_refusal(run, plan.offer, str(error))
        raise self._exhausted(run, plans)

    def _volume(self, run: Run, machines: BlockingProvider, mounted: Sequence[str]) -> VolumePlacement:
        """Return where the run's volumes can be mounted; a machine that never could is not asked for.

        :raises AirflowFailException: no new machine can, since one belongs to a node, or they are in several zones.
        """
        found = VolumePlacement()
        for claim in mounted if machines.makes_machines else ():
            volume = work_volume.placed(self.cluster, run.document, claim)
            if volume.nodes:
                raise self._refused(run, ValueError(work_volume.beyond_reach(run.document, claim, volume)))
            found = found.and_also(volume)
        if found.zones is not None and not found.zones:
            told = f"The volumes of {' and '.join(mounted)} are in different zones, so no machine can mount them all."
            raise self._refused(run, ValueError(told))
        return found

    def _characters(self, context: Context | None) -> int:
        if context is None or self.dataset_task_id is None:
            return 0
        return DatasetResult.read(context["ti"].xcom_pull(task_ids=self.dataset_task_id)).characters or 0

    def _keep_within_budget(self, run: Run, plan: Plan, characters: int) -> None:
        """Raise OverBudget for what is estimated to exceed the budget as it stands now."""
        live = self.cluster.find(WORKSPACE, run.name, run.namespace)
        tokens = tokens_of(characters, plan.training.epochs if plan.training else 1.0)
        what = f"{self.purpose} on {plan.node_count} x {plan.instance_type}"
        if message := over_budget(live, what, plan.estimate(tokens).usd) if live else "":
            self._over_budget.add(plan.offer)
            raise OverBudget(message)

    def _begin(self, run: Run, machines: BlockingProvider, plans: Sequence[Plan]) -> int:
        """Where to begin: with what is there of an earlier try, else with the first that was not refused to it."""
        if len(plans) == 1:
            return 0
        observed = machines.observe(PoolKey(run.name, run.namespace, self.purpose))
        offers = [plan.offer for plan in plans]
        if observed.offer in offers and not observed.missing:
            if not observed.unavailable:
                return offers.index(observed.offer)
            return self._after(
                run, machines, plans, (observed.offer, f"{observed.failure_class}: {observed.message}")
            )
        refused_before = self._noted(run, notes.refusals)
        return next((number for number, offer in enumerate(offers) if offer not in refused_before), 0)

    def _after(
        self, run: Run, machines: BlockingProvider, plans: Sequence[Plan], refusal: tuple[str, str]
    ) -> int:
        """Let go of what was refused; returns the number of the next plan, which may be past the last."""
        offer, told = refusal
        self._note_refusal(run, offer, told)
        self.record_cost_of_pool(run, machines)  # its machines may have run without ever joining
        machines.delete(PoolKey(run.name, run.namespace, self.purpose), run.run_id)
        offers = [plan.offer for plan in plans]
        return offers.index(offer) + 1 if offer in offers else len(offers)

    def _ask_for(self, run: Run, machines: BlockingProvider, plan: Plan, number: int, many: int) -> Granted:
        try:
            pool = machines.request(run.document, plan, run.run_id, self._settings(plan))
        except ValueError as error:  # what the cloud would refuse
            raise self._refused(run, error) from None
        self._pending = (machines, pool.key, run.run_id)
        made = self._make(machines, pool, run)
        if run.refusals(self.purpose):
            self.record_cost_of_pool(run, machines)  # what was let go before is gone by now
        what = f"{plan.node_count} x {plan.offer if many > 1 else plan.instance_type}"
        self.log.info("%s: %s", what, ", ".join(pool.names) or "BYO (bring your own)")
        which = f" (choice {number + 1} of {many})" if many > 1 else ""
        # Those of a service, or handed over by the tuning, have been there all along: they are not waited for.
        there = None if made else machines.observe(pool.key, plan.node_count)
        ready = there is not None and there.ready
        self.report(
            run,
            conditions.Phase.NODES_READY if ready else conditions.Phase.NODES_PENDING,
            there.message if there and ready else f"Waiting for {what}{which}",
            nodes=there.nodes if there and ready else None,
            target_nodes=plan.node_count,
            edit=self._editing(notes.asked, run, plan.offer) if many > 1 else None,
        )
        return Granted(plan, pool, made)

    def _settings(self, plan: Plan) -> ManifestSettings:
        result = replace(manifest_settings(), volume_zones=self._volume_zones)
        if not plan.zone:
            return result
        labels = (node["metadata"].get("labels") or {} for node in self.cluster.list(NODE))
        return replace(result, region=next((r for one in labels if (r := one.get(REGION_LABEL))), ""))

    def _make(self, machines: BlockingProvider, pool: GpuPool, run: Run) -> list[str]:
        """Ask for the machines; whatever goes wrong, nothing that was asked for is left behind."""
        try:
            self.live_workspace(run)
            made = self._create_pool(machines, pool)
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
            if (failure := failure_class(error)) in UNAVAILABLE_CLASSES:
                raise Unavailable(f"{failure}: {error}") from None
            if failure in FINAL_CLASSES:
                raise self._refused(run, error) from None
            message = f"The GPU machines could not be asked for: {error}"
            self.report(run, conditions.Phase.NODES_FAILED, message, again=self._again)
            raise
        return made

    def _create_pool(self, machines: BlockingProvider, pool: GpuPool) -> list[str]:
        try:
            return machines.create(pool)
        except PoolTaken as taken:
            if not taken.runs or not all(names.earlier_run(run, pool.run_id) for run in taken.runs):
                raise
            held = taken.runs
        for earlier in held:
            # That run serves a Workspace that has moved on, and may have no teardown any more.
            self.log.info("Run %s was superseded by this one: deleting its machines first.", earlier)
            machines.delete_and_wait(pool.key, earlier, timeout=GONE_WITHIN.total_seconds())
        return machines.create(pool)

    def _take_back(self, machines: BlockingProvider, pool: GpuPool) -> None:
        """Let go what a failed creation made; its own error is the news, so this never raises."""
        try:
            machines.delete(pool.key, pool.run_id)
        except Exception:
            self.log.exception("What was made could not be taken back; releasing the Workspace tries again.")

    def was_interrupted(self, run: Run) -> bool:
        """Whether machines are gone because an earlier try of this task died between two choices."""
        refused_before = self._noted(run, notes.refusals)
        return bool(refused_before) and any(
            plan.offer not in refused_before for plan in run.candidates(self.purpose)
        )

    # what the Workspace is told

    def _noted(self, run: Run, read: Callable[[Mapping[str, Any] | None, str, Purpose], _Noted]) -> _Noted:
        """Return what the Workspace's status notes of this pool's machines; `provisioning_history` reads it."""
        try:
            live = self.live_workspace(run)
        except StaleWorkspace as stale:
            raise AirflowFailException(str(stale)) from None
        return read(live.get("status"), run.run_id, self.purpose)

    def _editing(self, change: Callable[..., dict[str, Any]], run: Run, *told: str) -> Edit:
        """The change of a status that notes something about this pool's machines."""

        def edit(status: dict[str, Any]) -> dict[str, Any]:
            return change(status, run.run_id, self.purpose, *told, datetime.now(UTC))

        return edit

    def _note_refusal(self, run: Run, offer: str, told: str) -> None:
        self.log.warning("%s is passed over: %s", offer, told)
        run.refused[self.purpose, offer] = told
        if len(run.candidates(self.purpose)) > 1:
            text = f"No {offer}: {told}"
            why = notes.over_budget if offer in self._over_budget else notes.refused
            edit = self._editing(why, run, offer, told)
            self.report(run, conditions.Phase.NODES_PENDING, text, edit=edit)

    def _exhausted(self, run: Run, plans: Sequence[Plan]) -> AirflowFailException:
        """Return the end of a run for which there is nothing; the reconciler may try again later what a cloud lacks."""
        known = {**self._noted(run, notes.refusals), **run.refusals(self.purpose)}
        beyond = self._over_budget | self._noted(run, notes.beyond_budget)
        if all(plan.offer in beyond for plan in plans):
            told = (
                f"{known[plans[-1].offer]}: raise the annotation {names.BUDGET} or choose a cheaper machine"
            )
            self.report(run, conditions.Phase.BUDGET_EXCEEDED, told)
            return AirflowFailException(told)
        told = notes.exhausted([(plan.offer, known.get(plan.offer, "")) for plan in plans], beyond)
        self.report(run, conditions.Phase.NODES_FAILED, told, reason=conditions.Reason.CAPACITY_UNAVAILABLE)
        return AirflowFailException(told)

    def _refused(self, run: Run, error: Exception) -> AirflowFailException:
        """Return the end of a task that no later try can bring further; the Workspace is told."""
        classed = not isinstance(error, PoolTaken | ValueError)
        message = f"{failure_class(error)}: {error}" if classed else str(error)
        self.report(run, conditions.Phase.NODES_FAILED, message)
        return AirflowFailException(message)
