"""Bring every Workspace of the cluster to what it asks for.

wait for changes (in the triggerer) -> reconcile -> and again, for ever
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG
from kaito.operators.reconcile import ReconcileOperator
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS
from kaito.sensors.changes import WorkspaceChangesSensor

#: Everything is looked at this often, whatever the watches say.
RESYNC = timedelta(minutes=5)
DOC = """
### kaito_reconcile: `kubectl apply` is all a user needs

Unpause it, and every Workspace of the cluster is looked after: checked, tuned, served, repaired, released. It starts
runs of `kaito_tune`, `kaito_serve` and `kaito_release`; those must not be paused, or their Workspaces wait (their
conditions say so).

* **wait_for_changes** holds no worker. It watches Workspaces and what they own, and looks at all of them every five
  minutes. A Workspace that is new gets its first conditions from here, before a worker is found for it. Its log says
  which Workspaces are handed over, and why.
* **reconcile** compares these Workspaces with the cluster, writes their conditions, and starts what is due. Its log
  has one line for each Workspace that it did something about.
* Nothing is kept in Airflow: a run that fails, or a database that is lost, costs only time. A failed run is followed
  by the next one, and a run that hangs is given up after a quarter of an hour.
* **One deployment acts.** The Lease `kaito-airflow-reconciler` (in `kaito-system`, or in `default` where that does
  not exist) names it; any other Airflow on the same cluster stays passive, says so in the log of `wait_for_changes`,
  and takes over half a minute after the holder is gone.
* To leave one Workspace alone for a while: annotation `kaito.sh/paused: "true"` on it. To start it over:
  `kaito.sh/rerun` with any new value.
* In a cluster where upstream KAITO's controller runs, only Workspaces with `kaito.sh/managed-by: airflow` are touched.

Each look is a run of this DAG, so its history grows fast: give `airflow db clean` a schedule.
"""

with DAG(
    dag_id="kaito_reconcile",
    dag_display_name="KAITO: look after workspaces",
    schedule="@continuous",
    # Without one the first interval is empty and begins where the next one begins: Airflow takes that for a run that
    # exists already, and the schedule ends after its first run.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    # It holds no machines, so it may have a limit, and needs one: a task that an executor has lost between its queue
    # and its worker is "queued" for ever where the executor cannot revoke it (LocalExecutor), and nobody would look
    # after anything. The longest honest run is a wait until the resync and a pass.
    dagrun_timeout=3 * RESYNC,
    # Acting on a whole cluster is an administrator's decision.
    is_paused_upon_creation=True,
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    tags=["kaito", "control"],
    doc_md=DOC,
) as dag:
    wait_for_changes = WorkspaceChangesSensor(task_id="wait_for_changes", resync=RESYNC)
    reconcile = ReconcileOperator(task_id="reconcile", changes_task_id="wait_for_changes")

    wait_for_changes >> reconcile
