"""Let a deleted Workspace go.

release everything of it -> wait until it is gone -> take our finalizer off
"""

from __future__ import annotations

from airflow.sdk import DAG
from kaito.operators.release import ReleaseOperator, RemoveFinalizerOperator
from kaito.params import release_params
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS, RELEASE_RETRIES, WHICH
from kaito.sensors.release import ReleasedSensor

DOC = """
### kaito_release: a Workspace goes, and nothing of it stays behind

`kaito_reconcile` starts it for a Workspace that somebody deleted. By hand, with the Workspace's name:

`{"workspace": {"metadata": {"name": "workspace-phi-3", "namespace": "default"}}}`

A Workspace that nobody deleted is refused, unless the run is asked to delete it: `"delete": true`.

* Pods, the service, GPU machines and the work volume `<name>-work` go. Runs that work on the Workspace notice within
  seconds and end; their machines go with them.
* The pushed adapter, the user's own volumes, ConfigMaps and Secrets stay.
* Finalizers of others are left alone; `wait_until_gone` prints what is left, and by which finalizers.
* What is stuck is given up after half an hour (setting `[kaito] release_deadline`, in seconds) or at once with the
  annotation `kaito.sh/force-release: "true"`; a Warning event lists what was left.
"""

with DAG(
    dag_id="kaito_release",
    dag_display_name="KAITO: release a deleted workspace",
    schedule=None,
    params=release_params(),
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    max_active_runs=64,
    # The reconciler starts its runs; those of a paused DAG would wait for ever.
    is_paused_upon_creation=False,
    tags=["kaito", "control"],
    doc_md=DOC,
) as dag:
    release = ReleaseOperator(task_id="release", **{**WHICH, **RELEASE_RETRIES})
    wait_until_gone = ReleasedSensor(task_id="wait_until_gone", **WHICH)
    remove_finalizer = RemoveFinalizerOperator(task_id="remove_finalizer", **{**WHICH, **RELEASE_RETRIES})

    release >> wait_until_gone >> remove_finalizer
