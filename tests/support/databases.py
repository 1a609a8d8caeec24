"""PostgreSQL and Redis from Debian's packages, in a folder and on a port of their own, as long as a test needs them."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from demo.processes import free_port

START_SECONDS = 60
USER = "postgres"  # made by Debian's package


def postgres_programs() -> Path | None:
    """The folder with the server's programs, which Debian keeps out of PATH; None where it is not installed."""
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return there[-1].parent if there else None


@contextlib.contextmanager
def postgresql(name: str) -> Iterator[str]:
    """Start a PostgreSQL with an empty database; yields its address as `user:password@host:port/name`."""
    programs = postgres_programs()
    assert programs, "apt-get install postgresql"
    port, password = free_port(), secrets.token_urlsafe(16)
    # Not below pytest's own folder, which only the user of the tests may enter: PostgreSQL refuses to run as root.
    home = Path(tempfile.mkdtemp(prefix="kaito-postgres-"))
    (home / "password").write_text(password)
    if os.getuid() == 0:
        for path in (home, home / "password"):
            os.chown(path, pwd.getpwnam(USER).pw_uid, -1)

    def run(program: str, *arguments: str) -> None:
        _run([str(programs / program), *arguments], home)

    data = str(home / "data")
    try:
        run("initdb", "-D", data, "-U", name, f"--pwfile={home / 'password'}", "--auth=scram-sha-256")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1"
        run(
            "pg_ctl",
            "-D",
            data,
            "-l",
            str(home / "log"),
            "-w",
            "-t",
            str(START_SECONDS),
            "-o",
            options,
            "start",
        )
        environment = {**os.environ, "PGPASSWORD": password}
        asked = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", name, name]
        subprocess.run(asked, env=environment, check=True, capture_output=True)
        yield f"{name}:{password}@127.0.0.1:{port}/{name}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Start a Redis that keeps nothing; yields its URL."""
    program = shutil.which("redis-server")
    assert program, "apt-get install redis-server"
    port, password = free_port(), secrets.token_urlsafe(16)
    words = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        password,
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    server = subprocess.Popen([program, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        deadline = time.monotonic() + START_SECONDS
        while "Ready to accept connections" not in server.stdout.readline():
            assert server.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server did not become ready"
        yield f"redis://:{password}@127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def _run(command: Sequence[str], folder: Path) -> None:
    user = USER if os.getuid() == 0 else None
    subprocess.run(command, cwd=folder, user=user, check=True, capture_output=True)
