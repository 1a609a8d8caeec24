"""Find what of ours nobody needs any more, and delete it where that was asked for.

sweep, retire_versions
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG
from kaito.operators.janitor import SweepOperator
from kaito.operators.retention import RetireVersionsOperator
from kaito.params import janitor_params
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS

DOC = """
### kaito_janitor: the net below teardowns and the reconciler

Every ten minutes it looks for NodeClaims, NodePools, AKS agent pools, pods, volumes, services and ConfigMaps that this
project made and nobody needs any more: their Workspace is gone, or the run that needed them is over.

* **It only reports** until the setting `[kaito] janitor_delete` is true; `delete` in the form decides for one run. The
  log of `sweep` has a line for each thing with the reason why it goes, waits or stays; its XCom has the orphans.
* **Nothing goes at once.** A thing must exist, and be an orphan at every look, for 15 minutes (setting
  `[kaito] janitor_grace_minutes`).
* **Nothing in use goes**: no machine on which any pod works, no volume that a pod mounts, nothing of a Workspace that a
  run is working on. Nothing without our labels and names is looked at.
* To keep something: annotation `kaito.sh/keep: "true"` on it (tag `kaito-keep: "true"` on an agent pool).
* Each deletion is an Event (`kubectl get events`, reason OrphanDeleted) and counts in the metric
  `kaito.janitor.deleted`.
* `retire_versions` looks into the registries of Workspaces that are retrained, for versions that these keep no longer
  (policy `keep`); it reports and deletes by the same rule.
* Where another Airflow deployment holds the reconciler's Lease, nothing is swept.
"""

with DAG(
    dag_id="kaito_janitor",
    dag_display_name="KAITO: find what was left behind",
    schedule="*/10 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params=janitor_params(),
    # A dry run harms nobody, and who never switches it on never learns what is left behind.
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    tags=["kaito", "control"],
    doc_md=DOC,
) as dag:
    SweepOperator(task_id="sweep", retries=0)
    RetireVersionsOperator(task_id="retire_versions")
