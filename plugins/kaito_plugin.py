"""What Airflow's plugin loader reads; and the one place that makes every task of ours start quickly.

Airflow's long-running processes load plugins once and fork for each task, each DAG file and the triggers. Importing the
operators here, in the processes that fork, means that no task spends seconds on importing the Kubernetes clients anew
(a run has about ten tasks). Like every plugin, what is imported here is read again when these processes restart.
"""

from __future__ import annotations

import importlib
import sys

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from kaito import run_notes
from kaito.ui.mount import FASTAPI_APPS, external_views

FORKING_COMMANDS = frozenset({"scheduler", "dag-processor", "triggerer"})
PRELOADED = (
    "kaito.pipelines",
    "kaito.operators.tuning",
    "kaito.operators.reconcile",
    "airflow.providers.cncf.kubernetes.triggers.pod",
)


class KaitoPlugin(AirflowPlugin):
    """KAITO Workspaces with Airflow as the control plane."""

    name = "kaito"
    fastapi_apps = FASTAPI_APPS
    external_views = external_views(str(conf.get("api", "base_url", fallback="") or ""))
    listeners = [run_notes]


if FORKING_COMMANDS & set(sys.argv[1:2]):
    for _module in PRELOADED:
        importlib.import_module(_module)
