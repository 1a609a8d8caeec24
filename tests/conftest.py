"""An Airflow home of its own for the tests, set before anything imports Airflow (it reads it only once)."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from include.contracts import redaction

PROJECT_ROOT = Path(__file__).resolve().parents[1]

if "AIRFLOW_HOME" not in os.environ:  # the workers of a parallel run have their parent's
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="kaito-airflow-home-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ.setdefault("AIRFLOW__CORE__DAGS_FOLDER", str(PROJECT_ROOT / "dags"))
os.environ.setdefault("AIRFLOW__CORE__PLUGINS_FOLDER", str(PROJECT_ROOT / "plugins"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "False")
# Two workers of a parallel run share the CPUs: threads of one that meet at a barrier wait for the other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Behind a shell's `&` SIGINT is ignored, also by all that is started from here: Airflow stops by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is not a failed property, and the same code passes or fails every time: only the thorough profile
# draws new examples at each run.
settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("thorough", parent=settings.get_profile("ours"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ours"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for tests on a cluster that is there already (docs/testing.md)."""
    group = parser.getgroup("cluster", "the cluster of tests/integration")
    group.addoption("--cluster", choices=["sandbox", "external"], default="sandbox")
    group.addoption(
        "--kubeconfig", type=Path, help="of an external cluster; default: KUBECONFIG, else ~/.kube/config"
    )


@pytest.fixture(autouse=True)
def no_secret_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test calls a secret is hidden for the life of a process; the word may be an ordinary one in the next."""
    monkeypatch.setattr(redaction, "_secrets", set())
