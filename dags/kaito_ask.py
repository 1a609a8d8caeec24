"""Ask the service of a Workspace one question.

ask
"""

from __future__ import annotations

from airflow.sdk import DAG
from kaito.operators.asking import AskServiceOperator
from kaito.params import ask_params
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS, WHICH

DOC = """
### kaito_ask: one question to a service that is ready

`{"name": "workspace-phi-3", "namespace": "default", "question": "What can you tell me?"}`

Its base model and each adapter answer; the answers are in the log of `ask` and its result.

The right to start this DAG is also the right to ask from a Workspace's page, where neither question nor answers are
kept; a run keeps both. `[kaito] ui_ask = false` turns both off.
"""

with DAG(
    dag_id="kaito_ask",
    dag_display_name="KAITO: ask a service",
    schedule=None,
    params=ask_params(),
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["kaito", "serving"],
    doc_md=DOC,
) as dag:
    AskServiceOperator(task_id="ask", question="{{ params.question }}", **WHICH)
