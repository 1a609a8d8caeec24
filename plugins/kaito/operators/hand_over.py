"""The machines of a tuning go over to the service that comes next, where they are what it would ask for.

So that one machine boots, and not two. What is not certain ends in a release: the setting, the tuning's success, the
Workspace as it stands now, the budget, a provider that can do it, each machine's change of hands. It must never leave a
machine of the run between two purposes: what has gone over is let go with the rest when the rest cannot follow, and
whatever ends the run afterwards, the release of the serving machines finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from include.contracts.purpose import Purpose
from include.planning import Plan
from include.pools.hand_over import HandOverPlan, given_before, plan_hand_over
from include.pools.observed import ObservedPool, live
from include.workspace.status import conditions
from include.workspace.status.transitions import NORMAL, Event
from kaito.controller.cost_recorder import over_budget
from kaito.controller.event_recorder import tell
from kaito.hooks.api import STATEFUL_SET, WORKSPACE
from kaito.hooks.cluster_calls import run as answered
from kaito.operators.pool import ReleaseGpuPoolOperator
from kaito.providers.base import labels_of
from kaito.providers.blocking import BlockingProvider
from kaito.providers.settings import hands_over
from kaito.tasks.base import Run
from kaito.tasks.stopped import stopped

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The reason of the Event.
HANDED_OVER = "MachinesHandedOver"


class HandOverGpuPoolOperator(ReleaseGpuPoolOperator):
    """Hands the run's tuning machines over to serving; where that is not certain to be right, lets them go as ever.

    :param tuning_task_id: the task without whose success nothing is handed over.
    """

    def __init__(self, *, tuning_task_id: str, **kwargs: Any) -> None:
        super().__init__(purpose=Purpose.TUNING, **kwargs)
        self.tuning_task_id = tuning_task_id

    def execute(self, context: Context) -> None:
        run = self.this_run(context)
        try:
            why_not = self._hand_over(run, context)
        except Exception as error:  # whatever it is: a machine that is let go is no harm
            self.log.exception("The machines could not be handed over.")
            why_not = f"{type(error).__name__}: {error}"
        if not why_not:
            return
        self.log.info("%s", HandOverPlan(why_not=why_not.rstrip(".")))
        super().execute(context)
        # A run that is taken up again with its adapter made may hold what it had handed over: that is still wanted.
        if not self._had_none(run) and self.cluster.find(STATEFUL_SET, run.name, run.namespace) is None:
            # Of several machines some may have gone over, now or in an earlier try.
            self.release(run, self.machines(run), Purpose.SERVING, told=False)

    def _hand_over(self, run: Run, context: Context) -> str:
        """Return why the machines are to be let go, "" when all of them have gone over."""
        serving = run.plan_for(Purpose.SERVING)
        if why_not := self._unwanted(run, serving, context):
            return why_not
        machines = self.machines(run)
        self.live_workspace(run)
        pools = machines.list_owned(labels_of(run.document))
        if given := given_before(pools, run.run_id):
            mine = [pool for pool in live(pools, Purpose.TUNING) if pool.run == run.run_id]
            if mine or serving is None or len(given) != serving.node_count:
                return "an earlier try has handed over only some of them"
            self._tell(run, machines, HandOverPlan(tuple(given)))
            return ""
        plan = plan_hand_over(_tuned_on(run, pools), serving, pools, run.run_id, machines.name)
        if plan.why_not:
            return plan.why_not
        self.record_cost_of_pool(run, machines)  # up to now they have tuned
        for pool in plan.pools:
            if not machines.hand_over(pool, run.run_id, Purpose.SERVING):
                return f"{pool.kind} {pool.name} has changed since it was read, or is gone"
        self._tell(run, machines, plan)
        return ""

    def _unwanted(self, run: Run, serving: Plan | None, context: Context) -> str:
        """Why nothing is to be handed over, whatever machines there are; "" when that depends on them."""
        if not hands_over():
            return "the setting [kaito] pool_hand_over is off"
        if serving is None:
            return "the Workspace asks for no rollout"
        if run.trained or run.adapter:
            return "the run needed none"
        if not self._succeeded(context, self.tuning_task_id):
            return f"{self.tuning_task_id} has not succeeded"
        if why := stopped(self, context):
            return why
        if self.cluster.find(STATEFUL_SET, run.name, run.namespace) is not None:
            return "the Workspace has a service already"
        found = self.cluster.find(WORKSPACE, run.name, run.namespace)
        what = f"serving on {serving.node_count} x {serving.instance_type}"
        return over_budget(found, what, serving.estimate(0).usd) if found else "the Workspace is gone"

    def _tell(self, run: Run, machines: BlockingProvider, plan: HandOverPlan) -> None:
        """Write the ledger, the conditions and an Event; the machines have gone over, whether these can be written."""
        self.log.info("%s", plan)
        self.record_cost_of_pool(run, machines)
        nodes = sorted(node for pool in plan.pools for node in pool.nodes)
        self.report(run, conditions.Phase.NODES_READY, str(plan), nodes=nodes, target_nodes=len(plan.pools))
        answered(tell(self.cluster.calls, run.document, [Event(NORMAL, HANDED_OVER, str(plan))]))


def _tuned_on(run: Run, pools: Sequence[ObservedPool]) -> Plan:
    """The plan of the machines that are there: a training that lost its machine may have got another choice."""
    offers = {pool.status.offer for pool in live(pools, Purpose.TUNING) if pool.run == run.run_id}
    return next((one for one in run.candidates(Purpose.TUNING) if one.offer in offers), run.tuning_plan)
