"""A run that a user has ended stays ended, also for a step that was just on its way to a worker.

"Mark as failed" fails the steps that run or are deferred and skips those that wait. Airflow's triggerer and scheduler
write a step's state without looking at what it has become since they read it: a step that they move at that very
moment gets its old course back and works on, for nobody. It always comes by a worker next, so it looks here: a step
after it that was skipped tells that the run was ended, because nothing after an unfinished step can be done otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

SKIPPED = "skipped"


def fail_if_stopped(task: BaseOperator, context: Context) -> None:
    """Return unless somebody has ended this step's run; it is not tried again then (AirflowFailException)."""
    if why := stopped(task, context):
        raise AirflowFailException(why)


def stopped(task: BaseOperator, context: Context) -> str | None:
    """Return why this step must not go on, None when nobody has ended its run.

    :param task: the step, as its DAG has it; one outside of a DAG has nothing after it.
    """
    if not task.downstream_task_ids:
        return None
    after = sorted(step.task_id for step in task.downstream_list if not step.is_teardown)
    if not after:
        return None
    ti: Any = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=after).get(ti.run_id, {})
    skipped = [step for step in after if states.get(step) == SKIPPED]
    if not skipped:
        return None
    return (
        f"{task.task_id}: the run was ended while this step was on its way to a worker ({', '.join(skipped)} after it "
        "was skipped). To go on, clear this step and those after it."
    )
