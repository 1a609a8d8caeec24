"""A real docker-registry (the Debian package) on a free loopback port, with or without a password."""

from __future__ import annotations

import base64
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "pusher", "CANARY-registry-password"
# bcrypt of PASSWORD, as `htpasswd -B` writes it.
HTPASSWD = "$2y$05$abcdefghijklmnopqrstuuDxhnJQbpgMI5ZFdGb9IZBcM.5mFV4Se"
CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}/storage}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", secret: test}}
"""
AUTH = """auth: {{htpasswd: {{realm: "Registry Realm", path: {root}/htpasswd}}}}
"""


@dataclass
class RealRegistry:
    """A running registry and the process behind it."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.root / "config.yml")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=1)
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the registry did not start: {(self.root / 'log').read_text()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def get(self, path: str, accept: str = "*/*") -> tuple[bytes, dict[str, str]]:
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host}/v2/{path}", headers={"Authorization": f"Basic {token}", "Accept": accept}
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read(), dict(response.headers)


@contextmanager
def running(root: Path, password: bool = True) -> Iterator[RealRegistry]:
    """A registry until the end of the block; everything of it lies below `root`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "htpasswd").write_text(f"{USER}:{HTPASSWD}\n")
    (root / "config.yml").write_text((CONFIG + (AUTH if password else "")).format(root=root, port=port))
    registry = RealRegistry(root, port)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
