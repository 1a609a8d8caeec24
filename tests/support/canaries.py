"""Marked secrets of a whole run, and eyes for every place that none of them may reach.

A signed dataset URL, a registry's password, a hub token and a service's key may stand in their Secrets, and the URL in
the spec of the Workspace, where its author wrote it. :class:`Witness` looks at whatever the cluster shows of the rest
while it happens, because steps delete their pods; :func:`left_behind` reads what is left on disk afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from demo.cluster import connect
from tests.support.cosign import key_pair

#: Everything that a run makes or writes to, Secrets aside.
WATCHED = (
    "/api/v1/pods",
    "/api/v1/events",
    "/api/v1/configmaps",
    "/api/v1/services",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/nodes",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/controllerrevisions",
    "/apis/coordination.k8s.io/v1/leases",
    "/apis/karpenter.sh/v1/nodeclaims",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/kaito.sh/v1beta1/workspaces",
)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
LOOK = 0.2


@dataclass(frozen=True)
class Canaries:
    """One marked secret of each kind.

    :param password: the sandbox's own password of its registry: it is as random as the others.
    """

    password: str
    signature: str = field(default_factory=lambda: f"canary{secrets.token_hex(12)}")
    hub_token: str = field(default_factory=lambda: f"hf_canary{secrets.token_hex(14)}")
    api_key: str = field(default_factory=lambda: f"canary-{secrets.token_hex(12)}")
    signing_password: str = field(default_factory=lambda: f"canary{secrets.token_hex(13)}")

    @property
    def query(self) -> str:
        """What makes a dataset's URL a signed one."""
        return f"?sv=2026&sig={self.signature}"

    def objects(self) -> tuple[dict[str, Any], ...]:
        """The Secrets `hub`, `key` and `adapter-key`."""
        private, _ = key_pair(self.signing_password)
        signing = {"cosign.key": private, "cosign.password": self.signing_password}
        named = {
            "hub": {"HF_TOKEN": self.hub_token},
            "key": {"API_KEY": self.api_key},
            "adapter-key": signing,
        }
        return tuple(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
            for name, data in named.items()
        )

    @functools.cached_property
    def forms(self) -> dict[bytes, str]:
        """What to look for, as it is and as a part of something in base64, and the name of the secret."""
        found = {
            value.encode(): name
            for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        }
        for _ in range(2):  # a registry's login is coded twice
            found |= {coded: name for form, name in found.items() for coded in in_base64(form)}
        return found

    def in_(self, text: bytes) -> list[str]:
        return sorted({name for form, name in self.forms.items() if form in text})


def in_base64(text: bytes) -> Iterator[bytes]:
    """The same within a longer text in base64; its first and last characters depend on what stands around it."""
    for shift in range(3):
        yield base64.b64encode(b" " * shift + text)[4 if shift else 0 : -4]


class Witness:
    """Looks at every version of every watched object, and keeps the logs of all pods.

    :param state: the sandbox's state folder.
    """

    def __init__(self, canaries: Canaries, kubeconfig: Path, state: Path) -> None:
        self.leaks: set[str] = set()
        #: How many versions of objects were looked at, by path.
        self.looked: dict[str, int] = dict.fromkeys(WATCHED, 0)
        self.logs = state / "kept-logs"
        self._canaries, self._kubeconfig, self._state = canaries, kubeconfig, state
        self._stop = threading.Event()

    def __enter__(self) -> Witness:
        for path in WATCHED:
            threading.Thread(target=self._watch, args=(path,), daemon=True).start()
        threading.Thread(target=self._keep_logs, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self, path: str) -> None:
        with connect(self._kubeconfig, read_timeout=None) as http:
            while not self._stop.wait(LOOK):
                with suppress(httpx.HTTPError), http.stream("GET", path, params={"watch": "true"}) as reply:
                    for line in reply.iter_lines():
                        self._note(path, json.loads(line))

    def _note(self, path: str, event: Mapping[str, Any]) -> None:
        found = event["object"]
        if path.endswith("/workspaces"):
            found = without_what_its_author_wrote(found)
        self.looked[path] += event["type"] != "ERROR"
        for name in self._canaries.in_(json.dumps(found).encode()):
            self.leaks.add(f"{name} in {found.get('kind')} {found.get('metadata', {}).get('name')}")

    def _keep_logs(self) -> None:
        """Hold on to each log by a second name, since it goes with its pod."""
        while not self._stop.wait(LOOK):
            for path in (self._state / "logs").glob("*/*/*.log"):
                kept = self.logs / "/".join(path.parts[-3:])
                kept.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError, FileExistsError):
                    os.link(path, kept)


def without_what_its_author_wrote(workspace: Mapping[str, Any]) -> dict[str, Any]:
    """A Workspace as the control plane knows it: no spec, and not what kubectl keeps of it."""
    meta = dict(workspace["metadata"])
    meta["annotations"] = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    return {"kind": workspace["kind"], "metadata": meta, "status": workspace.get("status")}


def left_behind(canaries: Canaries, state: Path) -> list[str]:
    """Where on disk a secret is that should not be there.

    Looks at all of Airflow's database and files (task logs, rendered fields, XCom, conf), at the kept logs of pods, at
    what the work volumes hold and at the registry's blobs. Not at the folders of pods, where Secrets are mounted.
    """
    found = []
    for folder in ("airflow", "kept-logs", "volumes", "registry"):
        for path in sorted((state / folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                with suppress(FileNotFoundError):
                    found += [f"{name} in {path}" for name in canaries.in_(path.read_bytes())]
    for table, row in rows(state / "airflow" / "airflow.db"):
        found += [f"{name} in Airflow's table {table}" for name in canaries.in_(row)]
    return sorted(set(found))


def rows(database: Path) -> Iterator[tuple[str, bytes]]:
    """Every row of every table of an SQLite database, as text; a long one is spread over pages of its file."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        opened.text_factory = bytes
        tables = [
            row[0].decode() for row in opened.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for table in tables:
            for row in opened.execute(f'SELECT * FROM "{table}"'):
                yield table, b"\n".join(one if isinstance(one, bytes) else str(one).encode() for one in row)
