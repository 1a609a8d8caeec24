"""What the page of 1,000 Workspaces costs Airflow's API server while it is open, and how soon a browser shows it.

    .venv/bin/python -m tests.bench.fleet_page [Workspaces] [seconds]

A process of its own serves the plugin's application under Airflow's login. It reads the Workspaces over HTTP from this
process, where a training's progress changes at each read, so that every poll draws the table anew. Prints the CPU time
of a poll and the share of a core that an open page takes, where something changes and where nothing does; then, where
the machine has chromium, both with a real page. Nothing is asserted: times are for people.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.fleet import SERVING, TRAINING, reached

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
#: In which rhythm an open page asks, as plugins/kaito/ui/pages.py has it.
LIST_SECONDS = 10
MARK = b'"step": 424242'


class Workspaces(http.server.BaseHTTPRequestHandler):
    """A Kubernetes API that lists Workspaces and knows nothing else."""

    body = b"{}"
    changes = True
    reads = 0

    def do_GET(self) -> None:
        cls = type(self)
        cls.reads += cls.changes
        body = (
            cls.body.replace(MARK, b'"step": %6d' % (cls.reads % 1000))
            if "/workspaces" in self.path
            else b"{}"
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def fleet(count: int) -> bytes:
    """So many Workspaces as a list: four of five served, one in training."""
    every = []
    for number in range(count):
        one = reached(*(TRAINING if number % 5 == 0 else SERVING), name=f"workspace-{number:04}")
        if number == 0:
            one["status"]["progress"] = {"step": 424242, "total": 1000, "etaSeconds": 60.0}
        every.append(one)
    return json.dumps(
        {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "WorkspaceList",
            "metadata": {"resourceVersion": "1"},
            "items": every,
        }
    ).encode()


@contextmanager
def cluster(count: int) -> Iterator[str]:
    Workspaces.body = fleet(count)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Workspaces)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def api_server(kubernetes: str) -> Iterator[tuple[str, str, psutil.Process]]:
    """Start Airflow's side in a process; yields its address, a user's token, and the process."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": kubernetes}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        extra = {"kube_config": json.dumps(config)}
        environment = {
            **os.environ,
            "AIRFLOW_HOME": folder,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
            "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        }
        command = [sys.executable, "-m", "tests.bench.fleet_page", "serve"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            told = next((json.loads(line) for line in process.stdout if line.startswith("{")), None)
            if told is None:
                raise RuntimeError("The API server did not start; its words are above.")
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield told["url"], told["token"], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def serve() -> None:
    """The process of the API server: Airflow's database and login, and the plugin's application."""
    import socket

    import uvicorn
    from airflow import models, settings
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models.base import Base
    from fastapi import FastAPI
    from kaito.ui.app import create_app

    models.import_all_models()
    settings.configure_orm()
    Base.metadata.create_all(settings.engine)
    token = create_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="admin"))
    outer = FastAPI()
    outer.mount("/kaito", create_app())
    place = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"url": f"http://127.0.0.1:{place.getsockname()[1]}/kaito", "token": token}), flush=True)
    uvicorn.Server(uvicorn.Config(outer, log_level="warning")).run([place])


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and its children so far."""
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def polled(client: httpx.Client, process: psutil.Process, times: int) -> float:
    """Ask for the table so often, each time after the list has become old; returns CPU seconds of one time."""
    used, tag = 0.0, ""
    for _ in range(times):
        time.sleep(5.1)
        before = cpu(process)
        answer = client.get("/part/workspaces", headers={"If-None-Match": tag} if tag else {})
        used += cpu(process) - before
        tag = answer.raise_for_status().headers.get("ETag", "") if answer.status_code != 304 else tag
    return used / times


def opened(url: str, token: str, process: psutil.Process, seconds: float) -> tuple[float, float]:
    """Open the page in chromium for so long; returns seconds until it was drawn, and the share of a core since then."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(extra_http_headers={"Authorization": f"Bearer {token}"}).new_page()
        page.goto(f"{url}/cost")
        began = time.monotonic()
        page.goto(f"{url}/workspaces")
        page.locator("tbody tr").last.wait_for()
        drawn = time.monotonic() - began
        before, since = cpu(process), time.monotonic()
        page.wait_for_timeout(1000 * seconds)
        share = (cpu(process) - before) / (time.monotonic() - since)
        browser.close()
    return drawn, share


def main(count: int, seconds: float) -> None:
    with cluster(count) as kubernetes, api_server(kubernetes) as (url, token, process):
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            for _ in range(2):  # the first ones load what the application needs
                size = len(client.get("/workspaces").raise_for_status().content)
            print(f"{count} Workspaces: {size / 1e6:.2f} MB of HTML")
            for changes in (True, False):
                Workspaces.changes = changes
                each = polled(client, process, 6)
                what = "something has changed" if changes else "nothing has changed"
                print(
                    f"a poll where {what}: {each:.3f} s of CPU, {each / LIST_SECONDS:.1%} of a core for an open page"
                )
        Workspaces.changes = True
        if CHROMIUM is None:
            print("There is no chromium here, so no page was opened.")
            return
        drawn, share = opened(url, token, process, seconds)
        print(
            f"chromium: drawn after {drawn:.2f} s; {share:.1%} of a core in {seconds:.0f} s with the page open"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        given = [int(one) for one in sys.argv[1:]]
        main(given[0] if given else 1000, float(given[1]) if len(given) > 1 else 60.0)
