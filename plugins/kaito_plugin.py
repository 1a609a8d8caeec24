"""What Airflow's plugin loader reads: the plugin's name, and the imports that every task of ours needs.

The scheduler loads plugins once and forks its workers from itself. Importing the operators here means that a task
starts with the Kubernetes clients already in memory, instead of spending a second or two on them in every step.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class KaitoPlugin(AirflowPlugin):
    """KAITO Workspaces with Airflow as the control plane."""

    name = "kaito"
