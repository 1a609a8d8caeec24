"""Retrain what a Workspace serves: train a version beside it, judge it, ask for approval, promote it.

plan a candidate -> preflight -> fetch the dataset -> judge the change -> create a GPU pool -> wait for its nodes
-> tune -> evaluate -> release the pool -> publish the adapter -> gate -> approve -> promote -> record
"""

from __future__ import annotations

from airflow.sdk import DAG
from kaito.alerts import deadline, on_failure
from kaito.params import WORKSPACE_NAME, WORKSPACE_NAMESPACE, retrain_params
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS, retrain

DOC = """
### kaito_retrain: a new version beside the one that answers

`kaito_reconcile` starts it for a Workspace with the annotation `kaito.sh/retrain-schedule` when a time has come, or
when the dataset is to be looked at. By hand, with the Workspace's name:

`{"workspace": {"metadata": {"name": "workspace-tuning-phi-3", "namespace": "default"}}}`

* **The service is not touched** before `promote`. The version is trained by a Workspace of its own,
  `<name>-r<version>`, which goes when it has done its work.
* **Nothing is trained without news.** `plan_candidate` asks the dataset's server, `judge_change` compares the rows; a
  run that finds nothing new ends green, and its log says why.
* **A refused version stays in the registry**, and the condition `RetrainReady` says why, with the numbers.
* **A promoted version that fails is taken back** by `kaito_reconcile`, which also rolls it out, so it must run.
"""

with DAG(
    dag_id="kaito_retrain",
    dag_display_name="KAITO: retrain a model",
    schedule=None,
    params=retrain_params(),
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    on_failure_callback=on_failure(),
    deadline=deadline(),
    max_active_runs=64,
    # The reconciler starts its runs; those of a paused DAG would wait for ever.
    is_paused_upon_creation=False,
    tags=["kaito", "tuning", "serving"],
    doc_md=DOC,
    # No dagrun_timeout, ever: it would skip the teardown that releases the GPUs.
) as dag:
    retrain(WORKSPACE_NAME, WORKSPACE_NAMESPACE, form=retrain_params().keys())
