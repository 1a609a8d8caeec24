"""The main job on what production has in place of SQLite: PostgreSQL with LocalExecutor, and with Celery and Redis.

Airflow's scheduler has its stock settings here. The drivers of deploy/requirements.lock are installed beside the
environment of the tests, so that nothing else depends on them.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo import stack as processes
from demo.airflow_api import AirflowApi
from demo.processes import PROJECT_ROOT
from include.workloads.tuning.standin import make_standin
from tests.support.airflow_parts import PARTS, AirflowParts
from tests.support.airflow_run import PRESET, Stack, dataset_server
from tests.support.databases import postgres_programs, postgresql, redis

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        postgres_programs() is None or shutil.which("redis-server") is None,
        reason="needs Debian's packages: apt-get install postgresql redis-server",
    ),
]

NAME = "workspace-tuning-phi-3"
DAGS = {"kaito_tune", "kaito_serve"}
KEPT = "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK"  # its port may be taken on a machine of many tests


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the image that the tests' environment lacks."""
    there = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower() for one in importlib.metadata.distributions()
    }
    lock = (Path(PROJECT_ROOT) / "deploy" / "requirements.lock").read_text()
    wanted = [pin for pin in re.findall(r"^([\w.-]+(?:\[[^\]]*\])?==\S+)", lock, re.M)]
    missing = [
        pin for pin in wanted if re.sub(r"[-_.]+", "-", re.split(r"[\[=]", pin)[0]).lower() not in there
    ]
    folder = tmp_path_factory.mktemp("drivers")
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", folder]
    subprocess.run([*command, *missing], check=True, timeout=600)
    return folder


@pytest.fixture(params=["LocalExecutor", "CeleryExecutor"])
def stack(
    request: pytest.FixtureRequest, drivers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Sandbox, registry, and an Airflow with PostgreSQL, with the executor of the parameter."""
    celery = request.param == "CeleryExecutor"
    state, weights = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("weights")
    make_standin(weights / PRESET)
    weights.chmod(0o755)
    with ExitStack() as running:
        sandbox = processes.start_sandbox(state)
        running.callback(processes.stop_sandbox, state)
        database = running.enter_context(postgresql("airflow"))
        settings = {
            "AIRFLOW__CORE__EXECUTOR": request.param,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
            "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), str(drivers)]),
        }
        if celery:
            settings |= {
                "AIRFLOW__CELERY__BROKER_URL": running.enter_context(redis(tmp_path_factory.mktemp("redis"))),
                "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{database}",
                "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
                "C_FORCE_ROOT": "1",
            }
        airflow = AirflowParts(state / "airflow", sandbox, weights, settings)
        for name in [*airflow.environment]:
            if name.startswith(("AIRFLOW__SCHEDULER__", "AIRFLOW__TRIGGERER__")) and name != KEPT:
                del airflow.environment[name]  # Airflow's own defaults
        airflow.migrate()
        running.callback(airflow.stop)
        airflow.start(*PARTS, *(["celery worker"] if celery else []))
        server = airflow.wait(DAGS)
        url = running.enter_context(dataset_server(tmp_path_factory.mktemp("data")))
        api = running.enter_context(AirflowApi(server))
        found = Stack(sandbox, api, url)
        found.kubectl("apply", "-f", str(Path(PROJECT_ROOT) / "presets" / "crds"))
        found.kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=20s")
        found.apply_push_secret()
        yield found


def test_the_main_job_ends_with_a_service(stack: Stack) -> None:
    stack.kubectl.apply(stack.quick_start())
    run_id = stack.start(NAME)
    state = stack.follow(run_id)
    failed = [task for task, reached in stack.states(run_id).items() if reached == "failed"]
    assert state == "success", {task: stack.log(run_id, task) for task in failed}
    assert stack.kubectl("get", "workspace", NAME).splitlines()[1].split()[2:5] == ["True", "True", "True"]
    assert stack.pods_of(NAME) == [f"pod/{NAME}-0"]
