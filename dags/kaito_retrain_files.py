"""One DAG for each file of dags/retraining: a retraining with its own schedule, calendar, history and owner."""

from __future__ import annotations

from pathlib import Path

from kaito.retraining_files import load

# DAG files are found by these words: airflow, DAG.
for dag in load(Path(__file__).parent / "retraining"):
    globals()[dag.dag_id] = dag
