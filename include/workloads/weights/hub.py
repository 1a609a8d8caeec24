"""Weights from the Hugging Face hub, by revision, through `huggingface_hub`, which resumes what it began."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from include.contracts.redaction import hide
from include.workloads.contract import TryAgain, UserConfigError, WorkloadError, end_now, file_write_error
from include.workloads.weights.folder import PARTS, Parts

log = logging.getLogger("weights")

ENDPOINT = "https://huggingface.co"
PROGRESS_SECONDS = 10.0
# A model of 800 GB at 100 MB/s takes under three hours.
MAX_SECONDS, STALL_SECONDS = 6 * 3600.0, 300.0
MIN_BYTES = 1 << 20


def download(model_id: str, revision: str, folder: Path, parts: Parts = PARTS[""]) -> None:
    """Fill `folder` with the model's files. The contract's errors, naming HF_TOKEN where that would help."""
    # Read by the library when it is imported; a pod's log is no terminal, and nothing is reported to anyone.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    token = _token()
    log.info("downloading %s at %s", model_id, revision)
    try:
        with _progress(folder, f"{model_id} at {revision}"):
            snapshot_download(
                model_id,
                revision=revision,
                local_dir=folder,
                token=token or False,
                allow_patterns=list(parts.allowed),
                ignore_patterns=list(parts.ignored),
                max_workers=4,
            )
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise file_write_error(error, "the weights", folder) from error
        raise _fault(error, model_id, revision, token is not None) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


@dataclass(frozen=True)
class Card:
    """What the hub says of a model: the commit that a revision is, the licence's identifier, whether it is gated."""

    revision: str
    licence: str
    gated: bool


def look_up(model_id: str, revision: str) -> Card:
    """Ask the hub (or the mirror that HF_ENDPOINT names) about a model. The contract's errors, as `download`."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi

    token = _token()
    try:
        found = HfApi(token=token or False).model_info(model_id, revision=revision, timeout=60)
    except Exception as error:
        raise _fault(error, model_id, revision, token is not None) from error
    data = found.card_data
    licence = str((data.get("license") if data is not None else "") or "")
    if not licence:
        tagged = [tag.partition(":")[2] for tag in found.tags or () if tag.startswith("license:")]
        licence = tagged[0] if tagged else ""
    return Card(str(found.sha or revision), licence.lower(), bool(found.gated))


def _token() -> str | None:
    token = os.environ.get("HF_TOKEN", "").strip() or None
    hide(token)
    return token


def _fault(error: Exception, model_id: str, revision: str, with_token: bool) -> WorkloadError:
    from huggingface_hub import errors

    given = "the one that was given has no access" if with_token else "none was given"
    need = (
        f"give a Hugging Face token with access to it as HF_TOKEN by the preset's modelAccessSecret ({given})"
    )
    if isinstance(error, errors.GatedRepoError):
        return UserConfigError(f"The model {model_id} is gated: accept its terms on the hub, then {need}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserConfigError(
            f"The hub has no model {model_id}, or it is private: check the name, or {need}."
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.RevisionResolutionError):
        return UserConfigError(f"The model {model_id} has no revision {revision}.")
    if isinstance(error, errors.HFValidationError):
        return UserConfigError(f"{model_id!r} is not the name of a model on the hub ({error}).")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserConfigError(f"The hub refuses the model {model_id} ({status}): {need}.")
    reason = f"answered {status}" if status else f"could not be reached ({type(error).__name__})"
    return TryAgain(f"The hub {reason} while {model_id} at {revision} was downloaded.")


@dataclass
class Pace:
    """Whether a download still gets on: over all `max_seconds`, and by at least MIN_BYTES in each `stall_seconds`.

    A server that sends one byte now and then satisfies every timeout of the library for ever.
    """

    max_seconds: float
    stall_seconds: float
    begun: float
    mark: float = field(init=False)
    held: int = 0

    def __post_init__(self) -> None:
        self.mark = self.begun

    def judge(self, size: int, now: float) -> str | None:
        """What is wrong with `size` bytes at `now`, or None."""
        if now - self.begun > self.max_seconds:
            return f"took longer than {self.max_seconds:.0f} s"
        if size - self.held >= MIN_BYTES:
            self.held, self.mark = size, now
        if now - self.mark > self.stall_seconds:
            return f"sent less than {MIN_BYTES >> 20} MiB in {self.stall_seconds:.0f} s"
        return None


@contextmanager
def _progress(folder: Path, what: str) -> Iterator[None]:
    """A line every few seconds with what has arrived; the end of this process when nothing does any more."""
    done = threading.Event()
    size = _bytes_below(folder)
    pace = Pace(
        _seconds("WEIGHTS_MAX_SECONDS", MAX_SECONDS),
        _seconds("WEIGHTS_STALL_SECONDS", STALL_SECONDS),
        time.monotonic(),
        held=size,
    )

    def watch() -> None:
        while not done.wait(min(PROGRESS_SECONDS, pace.stall_seconds / 2)):
            size = _bytes_below(folder)
            log.info("  %.0f MiB", size / (1 << 20))
            if wrong := pace.judge(size, time.monotonic()):
                end_now(TryAgain(f"The hub {wrong} while {what} was downloaded."))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or int(text) == 0:
        raise UserConfigError(f"{name}={text!r} is not a number above 0.")
    return float(text)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # a partial file was renamed meanwhile
    return total
