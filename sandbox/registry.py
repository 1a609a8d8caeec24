"""The sandbox's image registry: the real `docker-registry` on a loopback port, behind a user and a password.

It dies with the sandbox's process. Its password is made once per state folder and must never be logged.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import aiohttp
import yaml

from sandbox.faults import Fault
from sandbox.layout import Layout
from sandbox.node.memory import children

log = logging.getLogger(__name__)

START_SECONDS, STOP_SECONDS = 10.0, 5.0
_BCRYPT_ALPHABET = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class RegistryProblem(RuntimeError):
    """The registry does not start; the message says why."""


@dataclass(frozen=True)
class Credentials:
    """Where the registry is and who may use it; `registry.json` in the state folder, readable by its owner only."""

    address: str
    username: str
    password: str

    @classmethod
    def load_or_make(cls, path: Path) -> Credentials:
        """The same address and password for as long as the state folder lives: push secrets refer to them."""
        if path.exists():
            stored = cls(**json.loads(path.read_text()))
            host, _, port = stored.address.rpartition(":")
            if is_free(host, int(port)):
                return stored
            return stored._save(path, f"127.0.0.1:{_free_port()}")
        made = cls(f"127.0.0.1:{_free_port()}", "sandbox", secrets.token_urlsafe(18))
        return made._save(path, made.address)

    def _save(self, path: Path, address: str) -> Credentials:
        saved = Credentials(address, self.username, self.password)
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(json.dumps(asdict(saved), indent=2) + "\n")
        return saved

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a TCP port could be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def bcrypt_hash(password: str, cost: int = 5) -> str:
    """A bcrypt hash by the system's libcrypt: the registry accepts no other kind, and Python 3.13 has no `crypt`."""
    library = ctypes.CDLL("libcrypt.so.1", use_errno=True)
    library.crypt.restype = ctypes.c_char_p
    library.crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    salt = bytes(_BCRYPT_ALPHABET[byte % 64] for byte in secrets.token_bytes(21)) + b"."
    hashed = library.crypt(password.encode(), b"$2b$%02d$" % cost + salt)
    if not hashed or not hashed.startswith(b"$2b$"):
        raise RegistryProblem(
            "libcrypt on this machine cannot make bcrypt hashes, which docker-registry needs."
        )
    return str(hashed.decode())


def configuration(folder: Path, address: str) -> dict[str, object]:
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": address, "secret": secrets.token_hex(16)},
        "auth": {"htpasswd": {"realm": "KAITO on Airflow sandbox", "path": str(folder / "htpasswd")}},
    }


class Registry:
    """The registry's process: `start`, then `stop`. `set_down` is the fault `registry-down`."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.registry
        self._credentials_file = layout.registry_credentials
        self._process: asyncio.subprocess.Process | None = None
        self._log: BinaryIO | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.credentials: Credentials | None = None

    @property
    def address(self) -> str:
        return self.credentials.address if self.credentials else ""

    async def start(self) -> None:
        """Start and wait until `/v2/` answers; raises RegistryProblem with the registry's own last words."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.credentials = Credentials.load_or_make(self._credentials_file)
        (self._folder / "htpasswd").write_text(
            f"{self.credentials.username}:{bcrypt_hash(self.credentials.password)}\n"
        )
        config = self._folder / "config.yml"
        config.write_text(yaml.safe_dump(configuration(self._folder, self.credentials.address)))
        self._log = (self._folder / "registry.log").open("ab")
        # bwrap only for --die-with-parent: a killed sandbox must leave no registry behind.
        self._process = await asyncio.create_subprocess_exec(
            *("bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--"),
            *("docker-registry", "serve", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "OTEL_TRACES_EXPORTER": "none"},
        )
        await self._wait_until_it_answers(self._process, self.credentials)

    async def _wait_until_it_answers(
        self, process: asyncio.subprocess.Process, credentials: Credentials
    ) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with aiohttp.ClientSession(
            headers={"Authorization": credentials.header}, trust_env=False
        ) as session:
            while asyncio.get_running_loop().time() < deadline:
                if process.returncode is not None:
                    break
                try:
                    async with session.get(f"http://{credentials.address}/v2/") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)
        words = (self._folder / "registry.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise RegistryProblem(
            "docker-registry does not answer on " + credentials.address + ": " + " | ".join(words)
        )

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            # To the registry itself: bwrap then waits for it and leaves no zombie.
            for number in (signal.SIGTERM, signal.SIGKILL):
                _signal(children(process.pid) or [process.pid], number)
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
                    break
        if self._log is not None:
            self._log.close()
            self._log = None

    def set_down(self, _fault: Fault, active: bool) -> None:
        """The fault `registry-down`: connections are refused until it is cleared."""
        task = asyncio.create_task(self._switch(active))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _switch(self, down: bool) -> None:
        async with self._lock:
            if down:
                await self.stop()
            elif self._process is None:
                await self.start()


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
