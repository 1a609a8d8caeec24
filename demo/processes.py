"""What every part of the demo needs to handle processes on this machine: find, recognise, measure and end them."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import psutil

PROJECT_ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 30


class DemoError(RuntimeError):
    """The demo cannot go on; the message says what to do."""


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def stop_process_tree(pid: int) -> None:
    """Ask a process to end (SIGINT, as Ctrl-C would), then end what is left of its tree."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        parent.send_signal(signal.SIGINT)
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the JSON object of a state file, None when it is missing or half written."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def read_pid(path: Path) -> dict[str, Any] | None:
    """Return the record of a process that still is the one recorded (ids are used again by the system)."""
    record = read_record(path)
    try:
        process = psutil.Process(int(record["pid"])) if record else None
        same = process is not None and abs(process.create_time() - float((record or {})["started"])) < 1
        return record if process is not None and same and process.status() != psutil.STATUS_ZOMBIE else None
    except (KeyError, psutil.NoSuchProcess):
        return None


def resident_bytes(pids: set[int]) -> int:
    """Return the memory that the given processes and all under them hold, shared pages counted once (PSS)."""
    family: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family.update({p.pid: p for p in (process, *process.children(recursive=True))})
        except psutil.NoSuchProcess:
            continue
    total = 0
    for process in family.values():
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
