"""Serve a model as a KAITO Workspace says.

preflight -> create a GPU pool -> wait for its nodes -> roll out -> wait until ready -> ask one question -> record the
cost, finish
"""

from __future__ import annotations

from airflow.sdk import DAG
from kaito.alerts import on_failure
from kaito.params import serving_params
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS, finish, preflight, record_cost, serve

from include.contracts.purpose import Purpose

DOC = """
### kaito_serve: a model as a service

Start it for an inference Workspace that is in the cluster, with its name alone:

`{"workspace": {"metadata": {"name": "workspace-phi-3", "namespace": "default"}}}`

or with the whole Workspace (the YAML as JSON) under `workspace`, or with the form's fields.

The service has the Workspace's name and answers `POST /chat` and the OpenAI API on port 80. If it never becomes ready,
what this run made for it (machines, StatefulSet) is taken back; a service that ran before is left alone.
"""

with DAG(
    dag_id="kaito_serve",
    dag_display_name="KAITO: serve a model",
    schedule=None,
    params=serving_params(),
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    on_failure_callback=on_failure(),
    max_active_runs=64,
    # The reconciler starts its runs; those of a paused DAG would wait for ever.
    is_paused_upon_creation=False,
    tags=["kaito", "serving"],
    doc_md=DOC,
    # No dagrun_timeout, ever: it would skip the teardown that releases the GPUs.
) as dag:
    check = preflight(Purpose.SERVING)
    service = serve()
    cost = record_cost(check, needed=service.steps)
    end = finish(check, needed=service.steps)

    check >> service.first
    [service.last, service.release] >> cost
    [service.last, service.release] >> end
