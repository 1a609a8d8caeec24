"""How every workload talks to whoever started its pod: exit code, termination message, log lines, SIGTERM.

Airflow decides from these alone whether to retry, to blame the user's request or to blame their data, so each
workload must end through `run`. Nothing here may let a secret out: all text passes `redact` first.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn

from include.contracts.exit_codes import ExitCode
from include.contracts.redaction import redact, redacted

# The kubelet keeps 4096 bytes of a termination message and cuts the rest off, which would break the JSON.
TERMINATION_LIMIT = 4000
DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")
# Clients that log whole URLs, query included, at INFO.
CHATTY_LOGGERS = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "urllib3",
    "oras",
    "huggingface_hub",
    "filelock",
)

log = logging.getLogger("workload")


class WorkloadError(Exception):
    """A fault with a sentence that the user can act on. Raise one of the subclasses."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    fault_class: ClassVar[str] = "internal"


class UserConfigError(WorkloadError):
    """The request itself cannot work: a setting, a secret, a reference. Running again will not help."""

    exit_code = ExitCode.CONFIG
    fault_class = "config"


class UserDataError(WorkloadError):
    """The data or files that the request names cannot be used as they are. Running again will not help."""

    exit_code = ExitCode.DATA
    fault_class = "data"


class TryAgain(WorkloadError):
    """The network, a registry or the machine failed for now; the same pod may well succeed later."""

    exit_code = ExitCode.TRY_AGAIN
    fault_class = "transient"


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived. Not an `Exception`, so that no library's broad `except` swallows it."""


_stop = threading.Event()


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up_logging() -> None:
    """Plain text lines on stdout, redacted; libraries only from WARNING on. `run` calls this."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_RedactingFormatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def required(name: str) -> str:
    """The environment variable `name`, stripped; UserConfigError when it is missing or empty."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise UserConfigError(
            f"The environment variable {name} is not set in this pod; the workload needs it."
        )
    return value


def comma_list(name: str) -> list[str]:
    """The environment variable `name` as a list: comma separated, blanks dropped; empty when unset."""
    return [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]


def number(name: str, default: float, largest: float) -> float:
    """The environment variable `name` as a number from 0 to `largest`; UserConfigError when it is none."""
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not 0 <= value <= largest:
        raise UserConfigError(f"{name} is {text!r}; it must be a number from 0 to {largest:g}.")
    return value


def one_of(name: str, words: Sequence[str]) -> str:
    """The environment variable `name` as one of these words, the first when it is unset; UserConfigError otherwise."""
    value = os.environ.get(name, "").strip().lower() or words[0]
    if value not in words:
        raise UserConfigError(f"{name} is {value!r}; it must be one of {', '.join(words)}.")
    return value


def stop_requested() -> bool:
    """Whether SIGTERM or SIGINT has arrived: for loops that end at a good moment of their own (see `run`)."""
    return _stop.is_set()


def atomic_write(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


#: A volume with less free than this is full for what the workloads write.
NO_ROOM = 1 << 20


def file_write_error(error: OSError, what: str, folder: Path | None = None) -> WorkloadError:
    """The fault of a failed file operation: a full or closed volume is the request's, the rest may pass.

    :param folder: where it was written; a full volume's size is told then.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserConfigError(
            f"The volume{_size_of(folder)} is full while writing {what}; ask for a bigger one (settings "
            "work_volume_gib for the work volume, tmp_size_limit for /tmp)."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        path = error.filename or what
        return UserConfigError(
            f"This pod may not use {path}: {error.strerror}; check fsGroup and read-only mounts."
        )
    return TryAgain(f"Reading or writing {what} failed: {error.strerror or error}.")


def _size_of(folder: Path | None) -> str:
    """` at /mnt/results (50.0 GiB, 0.0 GiB free)`, or nothing where that cannot be had."""
    if folder is None:
        return ""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return f" at {folder}"
    size, free = (
        f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
        for count in (usage.total, usage.free)
    )
    return f" at {folder} ({size}, {free} free)"


def fit_result(result: Mapping[str, Any], limit: int = TERMINATION_LIMIT) -> bytes:
    """JSON of at most `limit` bytes: the longest values are cut until it fits, and `truncated` names them.

    A finished training run must not fail because its report is long, and half a JSON text helps nobody.
    """
    fitted = dict(result)
    cut: list[str] = []
    while True:
        content = json.dumps(fitted, ensure_ascii=False, default=str, separators=(",", ":")).encode()
        if len(content) <= limit:
            return content
        longest = max(
            (key for key in fitted if key != "truncated"),
            key=lambda key: len(json.dumps(fitted[key], default=str)),
        )
        value = fitted[longest]
        if isinstance(value, str) and len(value) > 64:
            fitted[longest] = value[: len(value) * 2 // 3] + "..."
        elif isinstance(value, list) and len(value) > 1:
            fitted[longest] = value[: len(value) // 2]
        else:
            del fitted[longest]
        if longest not in cut:
            cut.append(longest)
        fitted["truncated"] = cut


def write_result(result: Mapping[str, Any]) -> None:
    """Write the termination message: `$TERMINATION_LOG`, else the kubelet's file when there is one.

    Outside a pod (no such file) the JSON goes to stdout as the last line instead.
    """
    content = fit_result(redacted(dict(result)))
    named = os.environ.get("TERMINATION_LOG")
    path = Path(named) if named else DEFAULT_TERMINATION_LOG
    if named or path.exists():
        # Not by rename: the kubelet bind-mounts this very file.
        path.write_bytes(content)
    else:
        sys.stdout.write(content.decode() + "\n")
        sys.stdout.flush()


def _on_signal(on_stop: Callable[[], None] | None) -> Callable[[int, FrameType | None], None]:
    def handle(signum: int, frame: FrameType | None) -> None:
        first = not _stop.is_set()
        _stop.set()
        if on_stop is not None and first:
            on_stop()
        else:
            raise Stopped(signal.Signals(signum).name)

    return handle


def execute(main: Callable[[], Mapping[str, Any] | None]) -> ExitCode:
    """Run `main`, report its result or fault in the termination message, and give the exit code."""
    try:
        result = main()
        if result is not None:
            write_result(result)
        return ExitCode.OK
    except WorkloadError as error:
        return _report(str(error), error.fault_class, error.exit_code)
    except Stopped as stop:
        return _report(
            f"Stopped by {stop} before it was done; it can be started again.", "transient", ExitCode.TRY_AGAIN
        )
    except SystemExit:
        raise
    except Exception as error:
        sys.stderr.write(redact(traceback.format_exc()))
        return _report(f"Internal fault: {type(error).__name__}: {error}", "internal", ExitCode.INTERNAL)


def _report(sentence: str, fault_class: str, code: ExitCode) -> ExitCode:
    log.error("%s", sentence)
    write_result({"error": sentence, "class": fault_class})
    return code


def end_now(error: WorkloadError) -> NoReturn:
    """Report a fault and end the process, from a thread that finds the main one held in a library for good."""
    code = _report(str(error), error.fault_class, error.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def end_on_signals() -> None:
    """End at once on SIGTERM or SIGINT, with a sentence, until `run` takes over: for imports that take seconds.

    The first process of a container has no default for SIGTERM: without this it would wait until it is killed.
    """
    set_up_logging()

    def end(signum: int, frame: FrameType | None) -> None:
        end_now(
            TryAgain(f"Stopped by {signal.Signals(signum).name} while it started; it can be started again.")
        )

    _hear(end)


def _hear(handler: Callable[[int, FrameType | None], None]) -> None:
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        signal.signal(number, handler)
    # A process that was started by another of ours may have been given them blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def run(
    main: Callable[[], Mapping[str, Any] | None],
    on_stop: Callable[[], None] | None = None,
) -> NoReturn:
    """Run a workload and exit the process the way the contract says.

    `main` returns its result (written as the termination message; None writes nothing) or raises one of
    this module's errors. On SIGTERM or SIGINT `Stopped` is raised inside `main`, which must leave nothing
    half done. With `on_stop`, the first signal calls that instead (from the signal handler: set a flag and
    return), so that a training loop can save a checkpoint and return or raise by itself; a second signal
    raises `Stopped`.
    """
    set_up_logging()
    _hear(_on_signal(on_stop))
    code = execute(main)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(int(code))
