"""What the demo asks of the cluster: `kubectl` for what it shows, plain HTTPS for what it measures."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from demo.processes import PROJECT_ROOT, DemoError

KUBECTL = Path(sys.executable).with_name("kubectl")

# Whom Airflow is in the cluster: the service account of presets/rbac, never the administrator. So all that is shown
# and tested here runs with the rights that a user is told to give, and no others.
RIGHTS = PROJECT_ROOT / "presets" / "rbac"
CRDS = PROJECT_ROOT / "presets" / "crds"
ACCOUNT, NAMESPACE = "kaito-airflow", "kaito-system"


class Kubectl:
    """The real kubectl; without a kubeconfig it takes the user's own, as kubectl does."""

    def __init__(self, kubeconfig: Path | None) -> None:
        self.kubeconfig = kubeconfig

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed.

        :raises DemoError: it failed; the message is kubectl's own.
        """
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        if self.kubeconfig is not None:
            environment["KUBECONFIG"] = str(self.kubeconfig)
        command = [str(KUBECTL), *arguments]
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def apply(self, *documents: dict[str, Any]) -> str:
        """Apply objects with `kubectl apply -f -`."""
        return self("apply", "-f", "-", stdin=yaml.safe_dump_all(documents, sort_keys=False))


def rights(namespace: str) -> list[dict[str, Any]]:
    """Return the objects of presets/rbac, with Airflow's rights bound to one namespace as docs/install.md says."""
    found = list(yaml.safe_load_all((RIGHTS / "kaito-airflow.yaml").read_text()))
    binding = yaml.safe_load((RIGHTS / "namespaces.yaml").read_text())
    binding["metadata"]["namespace"] = namespace
    return [*found, binding]


def airflow_kubeconfig(admin: Path, path: Path, namespace: str = "default") -> Path:
    """Give Airflow its account in the cluster and write a kubeconfig of it.

    :param admin: kubeconfig of somebody who may grant rights.
    :param path: where to write Airflow's own, readable by its owner only.
    :param namespace: where Airflow may run Workspaces.
    :raises DemoError: kubectl failed.
    """
    kubectl = Kubectl(admin)
    kubectl.apply(*rights(namespace))
    token = kubectl("create", "token", ACCOUNT, "--namespace", NAMESPACE, "--duration", "24h")
    config = yaml.safe_load(admin.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def connect(kubeconfig: Path, read_timeout: float | None = 30) -> httpx.Client:
    """Return an HTTPS client of the API server that a kubeconfig names (token and CA from the file)."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context()
    if "certificate-authority-data" in cluster:
        context.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    elif "certificate-authority" in cluster:
        context.load_verify_locations(cluster["certificate-authority"])
    elif cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return httpx.Client(
        base_url=cluster["server"],
        verify=context,
        headers={"Authorization": f"Bearer {user['token']}"},
        timeout=httpx.Timeout(10, read=read_timeout),
        trust_env=False,
    )


@dataclass
class WorkClock:
    """Watches pods and nodes, and remembers when each really worked: containers running, machines booting.

    Operators delete finished pods, so what they did has to be seen while it happens.
    """

    kubeconfig: Path
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to watch in the background."""
        for path, seen in (("/api/v1/pods", self.pods), ("/apis/karpenter.sh/v1/nodeclaims", self.claims)):
            thread = threading.Thread(target=self._follow, args=(path, seen), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the watches."""
        self._stop.set()

    def _follow(self, path: str, seen: dict[str, dict[str, Any]]) -> None:
        while not self._stop.is_set():
            try:
                with connect(self.kubeconfig, read_timeout=60) as http:
                    self._watch_once(http, path, seen)
            except (httpx.HTTPError, json.JSONDecodeError, OSError):
                self._stop.wait(0.5)

    def _watch_once(self, http: httpx.Client, path: str, seen: dict[str, dict[str, Any]]) -> None:
        query = {"watch": "1", "timeoutSeconds": "45"}
        with http.stream("GET", path, params=query) as reply:
            for line in reply.iter_lines():
                if self._stop.is_set():
                    return
                item = json.loads(line)["object"] if line else {}
                if "metadata" in item and "uid" in item["metadata"]:
                    seen[item["metadata"]["uid"]] = item

    def intervals(self) -> list[tuple[str, dt.datetime, dt.datetime]]:
        """Return (what, from, to) for each pod's containers up to ready or ended, and each machine's boot."""
        spans = [span for pod in list(self.pods.values()) for span in _pod_spans(pod)]
        return spans + [span for claim in list(self.claims.values()) for span in _claim_spans(claim)]


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00"))


def _pod_spans(pod: dict[str, Any]) -> list[tuple[str, dt.datetime, dt.datetime]]:
    """A pod works from its first container's start until its last one ended, or, for a service, until it is ready."""
    status = pod.get("status", {})
    states = [
        container.get("state", {})
        for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    ]
    ended = [state["terminated"] for state in states if state.get("terminated", {}).get("startedAt")]
    spans = [(_time(end["startedAt"]), _time(end["finishedAt"])) for end in ended]
    ready = [c for c in status.get("conditions", []) if c["type"] == "Ready" and c["status"] == "True"]
    running = [state["running"]["startedAt"] for state in states if "running" in state]
    if ready and running:
        spans.append((_time(min(running)), _time(ready[0]["lastTransitionTime"])))
    component = pod["metadata"].get("labels", {}).get("kaito.sh/component", pod["metadata"]["name"])
    return [(f"pod {component}", start, end) for start, end in spans]


def _claim_spans(claim: dict[str, Any]) -> list[tuple[str, dt.datetime, dt.datetime]]:
    ready = [
        c
        for c in claim.get("status", {}).get("conditions", [])
        if c["type"] == "Ready" and c["status"] == "True"
    ]
    if not ready:
        return []
    return [
        ("machine boot", _time(claim["metadata"]["creationTimestamp"]), _time(ready[0]["lastTransitionTime"]))
    ]
