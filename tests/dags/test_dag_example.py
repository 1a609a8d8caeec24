"""What `astro dev pytest` expects of every DAG: it imports, it has tags, its tasks are tried again.

The Astro CLI's template of this file fails on Airflow 3.3 (`include_examples`); this is its corrected form.
"""

from __future__ import annotations

import pytest
from airflow.dag_processing.dagbag import DagBag

APPROVED_TAGS = {"kaito", "tuning", "serving", "control"}


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag()


def test_no_import_errors(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) >= {"kaito_tune", "kaito_serve", "kaito_reconcile"}


def test_every_dag_has_approved_tags(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert dag.tags, f"{dag.dag_id} has no tags"
        assert set(dag.tags) <= APPROVED_TAGS, f"{dag.dag_id} has tags that nobody approved"


def test_every_dag_retries(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert dag.default_args.get("retries", 0) >= 2, f"{dag.dag_id}: default_args must have retries >= 2"
