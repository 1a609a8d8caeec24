"""Tune a model as a KAITO Workspace says, push the adapter, and roll it out.

preflight -> fetch the dataset (CPU) -> create a GPU pool -> wait for its nodes -> tune -> release the pool, or hand its
machines over to serving -> publish the adapter -> serve it (skipped when the Workspace wants no rollout) -> record the
cost, finish
"""

from __future__ import annotations

from airflow.sdk import DAG
from kaito import assets
from kaito.alerts import on_failure
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.hand_over import HandOverGpuPoolOperator
from kaito.operators.pool import CreateGpuPoolOperator
from kaito.operators.publishing import PublishAdapterOperator
from kaito.operators.tuning import TuneOperator
from kaito.params import tuning_params
from kaito.pipelines import (
    DEFAULT_ARGS,
    OWNER_LINKS,
    RELEASE_RETRIES,
    TUNING_RETRIES,
    WHICH,
    TuningPool,
    as_setup,
    as_teardown,
    finish,
    preflight,
    record_cost,
    serve,
)
from kaito.sensors.workspace import GpuPoolReadySensor

from include.contracts.purpose import Purpose

DOC = """
### kaito_tune: from a Workspace to an answer

Start it for a Workspace that is in the cluster, with its name alone:

`{"workspace": {"metadata": {"name": "workspace-tuning-phi-3", "namespace": "default"}}}`

or with the whole Workspace (the YAML as JSON) under `workspace`, or with the form's fields.

* Every fault of the request is named by `preflight`, before a pod or a machine exists.
* The dataset is fetched and checked on a CPU node, so bad data costs no GPU time.
* The GPU pool is released before the push, and on every other path too: failure, stop, mark-failed. Where its machines
  are exactly what serving would ask for next, `release_gpu_pool` hands them over to it, so that they boot once;
  `serve.release_gpu_pool_if_failed` lets them go when the push or the rollout fails or is stopped.
* A second try of `tune` goes on from the last checkpoint. A training that loses its machine (a node that dies, a spot
  machine that is evicted) asks for another one, or for the run's next choice; one that crashes is tried three times.
* Progress and the real cause of a failure stand in the Workspace's conditions: `kubectl describe workspace NAME`.
"""

with DAG(
    dag_id="kaito_tune",
    dag_display_name="KAITO: tune a model",
    schedule=None,
    params=tuning_params(),
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    on_failure_callback=on_failure(),
    max_active_runs=64,
    # The reconciler starts its runs; those of a paused DAG would wait for ever.
    is_paused_upon_creation=False,
    tags=["kaito", "tuning"],
    doc_md=DOC,
    # No dagrun_timeout, ever: it would skip the teardown that releases the GPUs.
) as dag:
    check = preflight(Purpose.TUNING)
    fetch_dataset = FetchDatasetOperator(task_id="fetch_dataset")
    create_gpu_pool = CreateGpuPoolOperator(
        task_id="create_gpu_pool", purpose=Purpose.TUNING, dataset_task_id="fetch_dataset"
    )
    wait_for_nodes = GpuPoolReadySensor(
        task_id="wait_for_nodes", purpose=Purpose.TUNING, dataset_task_id="fetch_dataset", **WHICH
    )
    tune = TuneOperator(task_id="tune", retries=TUNING_RETRIES)
    release_gpu_pool = HandOverGpuPoolOperator(
        task_id="release_gpu_pool", tuning_task_id="tune", **RELEASE_RETRIES
    )
    as_teardown(release_gpu_pool, as_setup(create_gpu_pool), fails_the_run=True)
    publish_adapter = PublishAdapterOperator(
        task_id="publish_adapter",
        dataset_task_id="fetch_dataset",
        tuning_task_id="tune",
        outlets=[assets.ADAPTERS],
    )
    service = serve(adapter_task_id="publish_adapter", tuned_on=TuningPool(create_gpu_pool, release_gpu_pool))
    needed = ("fetch_dataset", "create_gpu_pool", "wait_for_nodes", "tune", "publish_adapter")
    cost = record_cost(check, needed=needed, optional=service.steps, publishing_task_id="publish_adapter")
    end = finish(check, needed=needed, optional=service.steps)

    check >> fetch_dataset >> create_gpu_pool >> wait_for_nodes >> tune >> release_gpu_pool >> publish_adapter
    tune >> publish_adapter >> service.first
    [service.last, service.release] >> cost
    [service.last, service.release] >> end
