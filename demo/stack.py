"""Start and stop the processes of the demo: the sandbox cluster with its registry, and `airflow standalone`.

Each process gets a session of its own and its id in a file under the state folder, so that `down` (also from another
shell, also after a crash) ends exactly what was started here and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from demo.airflow_api import AirflowApi, AirflowServer
from demo.cluster import airflow_kubeconfig
from demo.processes import PROJECT_ROOT, DemoError, free_port, read_pid, stop_process_tree
from demo.target import PRODUCT, TargetCluster

#: Airflow's setting of where workers find the execution API server.
EXECUTION_API = "CORE__EXECUTION_API_SERVER_URL"


@dataclass(frozen=True)
class Sandbox(TargetCluster):
    """What the sandbox wrote about itself in `sandbox.json` and `registry.json`."""

    @classmethod
    def load(cls, state_dir: Path) -> Sandbox:
        info = json.loads((state_dir / "sandbox.json").read_text())
        login = json.loads((state_dir / "registry.json").read_text())
        return cls(
            state_dir=state_dir,
            kubeconfig=state_dir / "kubeconfig",
            registry=str(info["registry"]),
            registry_user=str(login["username"]),
            registry_password=str(login["password"]),
            namespace="default",
        )

    def airflow_settings(self, weights: Path) -> dict[str, str]:
        """Return what fits one machine that all pods share."""
        return {
            f"{PRODUCT}WEIGHTS_MIRROR": str(weights),
            f"{PRODUCT}ALLOWED_NETWORKS": "127.0.0.0/8",
            f"{PRODUCT}INSECURE_REGISTRIES": self.registry,
            f"{PRODUCT}BIND_POD_IP": "True",  # all pods of the sandbox share this machine's network
            f"{PRODUCT}ENDPOINT_DELAY_SECONDS": "1",  # the sandbox's endpoints follow at once
            "AIRFLOW_CONN_AZURE_DEFAULT": azure_connection(self.state_dir),
        }


def start_sandbox(state_dir: Path) -> Sandbox:
    """Start the sandbox (a running one is kept) and return its addresses."""
    command = [sys.executable, "-m", "sandbox", "up", "--state-dir", str(state_dir)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError((done.stderr or done.stdout).strip() or "the sandbox did not start")
    return Sandbox.load(state_dir)


def stop_sandbox(state_dir: Path) -> None:
    """Stop the sandbox, its pods and its registry; quiet when none runs."""
    command = [sys.executable, "-m", "sandbox", "down", "--state-dir", str(state_dir)]
    subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)


def database(home: Path) -> str:
    """Return the SQLAlchemy URL of Airflow's SQLite database in this folder, made if missing.

    Two of SQLite's defaults do not suit Airflow's five processes. Without a write-ahead log, a commit waits for every
    reader and holds up new ones: where the reader waits for the writer in turn, all of Airflow stands still until the
    time is over. And a write that waits for more than 5 s for its turn is an error 500.
    """
    path = home.resolve() / "airflow.db"
    with contextlib.closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode=WAL")  # written into the file: whoever opens it later uses it
    return f"sqlite:///{path}?timeout=60"


def airflow_environment(home: Path, cluster: TargetCluster, port: int, weights: Path) -> dict[str, str]:
    """Return the environment of every Airflow process: this project's folders, and its cluster.

    :param home: AIRFLOW_HOME, made if missing.
    :param port: port of the API server and UI.
    :param weights: folder with one sub-folder of safetensors weights per preset, mounted into pods.
    """
    settings = {
        "CORE__DAGS_FOLDER": PROJECT_ROOT / "dags",
        "CORE__PLUGINS_FOLDER": PROJECT_ROOT / "plugins",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        # Four workers are plenty where all waiting is done in the triggerer; 32 would cost 3 GB of address space.
        "CORE__PARALLELISM": 4,
        "DATABASE__SQL_ALCHEMY_CONN": database(home),
        EXECUTION_API: f"http://127.0.0.1:{free_port()}/execution/",
        "API__HOST": "127.0.0.1",
        "API__PORT": port,
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__WORKERS": 1,
        "API_AUTH__JWT_SECRET": _secret(home / "jwt_secret"),
        "DAG_PROCESSOR__REFRESH_INTERVAL": 30,
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 30,
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.4,
        "SCHEDULER__ENABLE_HEALTH_CHECK": False,
        # How late a worker notices that its task ended. At the default of 5 s a short pod is done before the worker
        # has reported that the task went to wait for it, and the scheduler takes the task for lost.
        "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
        "LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
        # vLLM for processors takes minutes to start and 4 GB: only who asks for it gets it.
        "KAITO__SERVING_RUNTIMES": os.environ.get("KAITO_DEMO_RUNTIME") or "transformers",
    }
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW__")},
        **{f"AIRFLOW__{key}": str(value) for key, value in settings.items()},
        "AIRFLOW_HOME": str(home),
        "KUBECONFIG": str(airflow_kubeconfig(cluster.kubeconfig, home / "kubeconfig", cluster.namespace)),
        # Known from the environment, so that the triggerer need not build its own API to ask the database for it.
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": '{"conn_type": "kubernetes"}',
        **cluster.airflow_settings(weights),
        "PYTHONPATH": str(PROJECT_ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # Never asks a proxy for a loopback address.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def with_execution_api(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command that runs an API server, or what starts one, and an execution API server of its own.

    On SQLite one process for both stands still until the wait for the database is over: Airflow writes its audit log in
    the event loop, which then waits for a worker's transaction, whose commit waits for the event loop.
    """
    url = urlsplit(environment[f"AIRFLOW__{EXECUTION_API}"])
    serve = f"{airflow()} api-server --apps execution --port {url.port}"
    # Another process may be making the database, and an API server without one ends.
    workers = f"{airflow()} db check-migrations --migration-wait-timeout 120 && exec {serve}"
    return [sys.executable, "-m", "demo.together", json.dumps([list(command), ["sh", "-c", workers]])]


def airflow() -> str:
    """Return the path of the command line."""
    return str(Path(sys.executable).with_name("airflow"))


def azure_connection(state_dir: Path) -> str:
    """Return the Airflow connection to the sandbox's Azure, as JSON; its token stays in its file."""
    described = json.loads((state_dir / "sandbox.json").read_text()).get("azure") or {}
    extra = {
        "subscriptionId": described.get("subscriptionId"),
        "resourceGroup": described.get("resourceGroup"),
        "clusterName": described.get("cluster"),
        "base_url": described.get("baseUrl"),
        "ca_file": described.get("certificateAuthority"),
        "token_file": described.get("tokenFile"),
    }
    return json.dumps({"conn_type": "azure", "extra": {k: v for k, v in extra.items() if v}})


def _secret(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(64))  # HS512 wants a key of at least 64 bytes
    return path.read_text()


def start_airflow(cluster: TargetCluster, weights: Path, port: int | None = None) -> AirflowServer:
    """Start `airflow standalone` in the background; returns at once, see :func:`wait_for_airflow`."""
    home = cluster.state_dir / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    running = read_pid(home / "airflow.pid")
    if running is not None:
        return _server(home, running)
    port = port or free_port()
    environment = airflow_environment(home, cluster, port, weights)
    with (home / "standalone.log").open("ab") as log:
        process = subprocess.Popen(
            with_execution_api([airflow(), "standalone"], environment),
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = {
        "pid": process.pid,
        "started": psutil.Process(process.pid).create_time(),
        "port": port,
        "executionApi": environment[f"AIRFLOW__{EXECUTION_API}"],
    }
    (home / "airflow.pid").write_text(json.dumps(record))
    return _server(home, record)


def _server(home: Path, record: dict[str, Any]) -> AirflowServer:
    passwords = home / "simple_auth_manager_passwords.json.generated"
    password = json.loads(passwords.read_text()).get("admin", "") if passwords.exists() else ""
    return AirflowServer(f"http://127.0.0.1:{record['port']}", "admin", password, int(record["pid"]))


def wait_for_airflow(state_dir: Path, dags: set[str], seconds: float = 240) -> AirflowServer:
    """Wait until all of Airflow's parts are healthy and the given DAGs can be triggered.

    :raises DemoError: Airflow died or the time is over; the message points at the log.
    """
    home = state_dir / "airflow"
    log = home / "standalone.log"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        record = read_pid(home / "airflow.pid")
        if record is None:
            raise DemoError(f"Airflow stopped while starting: see {log}")
        server = _server(home, record)
        if server.password and healthy(server.url, record["executionApi"]) and dags <= _known_dags(server):
            return server
        time.sleep(0.5)
    raise DemoError(f"Airflow was not ready within {seconds:.0f} s: see {log}")


def healthy(url: str, execution_api: str, seconds: float = 5) -> bool:
    """Return whether all of Airflow's parts are, by the API server's word and the execution API server's.

    :param seconds: how long the API server may take to answer.
    """
    try:
        health = httpx.get(f"{url}/api/v2/monitor/health", timeout=seconds, trust_env=False).json()
        # The execution API is built at its first request, which takes seconds: now, not in a run.
        warm = httpx.get(f"{execution_api}health", timeout=60, trust_env=False).is_success
    except (httpx.HTTPError, json.JSONDecodeError):
        return False
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return warm and all((health.get(part) or {}).get("status") == "healthy" for part in parts)


def _known_dags(server: AirflowServer) -> set[str]:
    try:
        with AirflowApi(server) as api:
            return api.dag_ids()
    except httpx.HTTPError:
        return set()


def stop_airflow(state_dir: Path) -> None:
    """Stop Airflow and every process under it; quiet when none runs."""
    pid_file = state_dir / "airflow" / "airflow.pid"
    record = read_pid(pid_file)
    if record is not None:
        stop_process_tree(int(record["pid"]))
    pid_file.unlink(missing_ok=True)
