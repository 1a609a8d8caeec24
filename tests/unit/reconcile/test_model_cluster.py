"""Random lives of a Workspace in a model of a cluster and of Airflow: whatever happens, it ends where it should.

`HYPOTHESIS_PROFILE=thorough` runs many more of them, new ones each time, and says how many (`pytest -rP`).
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.support.reconcile.life import DONE, THOROUGH, Life


class TestLife(Life.TestCase):
    @classmethod
    def tearDownClass(cls) -> None:
        if THOROUGH:
            print(", ".join(f"{number} {what}" for what, number in DONE.items()))


TestLife.settings = settings(
    max_examples=5000 if THOROUGH else 500,
    stateful_step_count=60 if THOROUGH else 30,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=list(HealthCheck),
)
