"""Waits for GPU machines: until they can take GPU work, or until they are gone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import TriggerEvent

from include.contracts.purpose import Purpose
from include.pools import lost_nodes as lost
from include.pools.status import FINAL_CLASSES, FailureClass, Stage
from include.workspace.status import conditions
from include.workspace.status.adapter import kept, published
from kaito.hooks.api import NODE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, StaleWorkspace
from kaito.providers.base import PoolKey, PoolProvider
from kaito.providers.registry import async_provider
from kaito.providers.selection import Chooser, failure_class
from kaito.providers.settings import budget_key, budgets
from kaito.triggers.base import Observation, WorkspaceTrigger

_SLOW = {
    Stage.LAUNCH: "The cloud did not launch all machines",
    Stage.BOOT: "Not all machines that were launched joined the cluster and became Ready",
    Stage.DRIVER: "Not all machines that joined offered their GPUs",
}


class GpuPoolReadyTrigger(WorkspaceTrigger):
    """Succeeds when all machines of a Workspace's pool are Ready and offer GPUs.

    A failure goes to a worker, which may have other machines to ask for; only what no other machine could change is
    told to the Workspace here.

    Each stage of a machine (launch, boot, driver) has a budget of its own, a setting; the slowest machine counts.

    :param purpose: ``tuning`` or ``serving``.
    """

    subject = "the GPU nodes"
    phases = (conditions.Phase.NODES_READY, conditions.Phase.NODES_PENDING, conditions.Phase.NODES_FAILED)

    def __init__(self, *, purpose: Purpose, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose
        self._observer: PoolProvider | None = None
        self._budgets: dict[Stage, float] = {}
        self._spent: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        self._looked = 0.0

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            async for event in super().run():
                yield event
        finally:
            if self._observer is not None:
                await self._observer.close()

    def needless(self) -> bool:
        """Whether no machines are needed any more."""
        return self.purpose == Purpose.TUNING and bool(published(self.live) or kept(self.live))

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        if self.needless():
            return Observation(True, "The adapter is made already: no machines are needed.", silent=True)
        try:
            pools = await self._pools(hook)
            pool = await pools.observe(PoolKey(self.workspace, self.namespace, self.purpose), self._wanted())
        except (ClusterError, StaleWorkspace):
            raise
        except (ValueError, RuntimeError) as error:  # of the settings, or a cloud's
            failure = failure_class(error)
            return Observation(False, f"{failure}: {error}", failed=failure in FINAL_CLASSES)
        if pool.ready:
            return Observation(True, pool.message, nodes=pool.nodes, facts={"offer": pool.offer})
        facts = {"offer": pool.offer, "missing": pool.missing, "unavailable": pool.unavailable}
        if not pool.failed and (over := self._over(pool.stage)):
            text = f"{FailureClass.TIMEOUT}: {over} Last seen: {pool.message}"
            facts["unavailable"] = pool.stage == Stage.LAUNCH
            return Observation(
                False, text, True, pool.reason, pool.nodes, silent=bool(facts["unavailable"]), facts=facts
            )
        why = f"{pool.failure_class}: " if pool.failed else ""
        others = pool.unavailable or pool.missing
        return Observation(
            False, why + pool.message, pool.failed, pool.reason, pool.nodes, silent=others, facts=facts
        )

    def failure(self, last: Observation) -> TriggerEvent:
        return TriggerEvent({"message": last.message, "reason": last.reason, **last.facts})

    async def _pools(self, hook: AsyncKaitoClusterHook) -> PoolProvider:
        """Return who looks at this pool, chosen at the first look. Raises ValueError."""
        if self._observer is None:
            choice = await Chooser(hook).choose(self.live)
            self.log.info("%s", choice)
            self._budgets = budgets()
            self._observer = async_provider(hook, choice.settings, self.live)
            self._looked = time.monotonic()
        return self._observer

    def _wanted(self) -> int:
        return int(((self.live or {}).get("status") or {}).get("targetNodeCount") or 1)

    def _over(self, stage: Stage | None) -> str:
        """Count the time since the last look to its stage; returns a sentence when that stage took too long."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        if stage is None:
            return ""
        self._spent[stage] += passed
        if self._spent[stage] <= self._budgets[stage]:
            return ""
        return f"{_SLOW[stage]} within {self._budgets[stage]:g} s ([kaito] {budget_key(stage)})."


class LostMachinesTrigger(GpuPoolReadyTrigger):
    """As GpuPoolReadyTrigger, for a task that lost its machines and goes on with others: it comes back either way."""

    def needless(self) -> bool:
        return False

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        """As for any pool; but a machine that was there and is silent for too long is not waited for."""
        observed = await super().observe(hook)
        if observed.ready or observed.facts.get("unavailable") or observed.facts.get("missing"):
            return observed
        now = datetime.now(UTC)
        nodes = [node for name in observed.nodes if (node := await hook.find(NODE, name))]
        silent = [node for node in nodes if lost.is_lost(node, now)]
        if not silent:
            return observed
        message = "; ".join(map(lost.sentence, silent))
        facts = {**observed.facts, "lost": [node["metadata"]["name"] for node in silent]}
        return Observation(False, message, True, observed.reason, observed.nodes, silent=True, facts=facts)

    def success(self, last: Observation) -> TriggerEvent:
        return TriggerEvent({"ready": True, "message": last.message, **last.facts})
