"""Weights from the Hugging Face hub, by revision, through `huggingface_hub`, which resumes what it began."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from include.contracts.redaction import hide
from include.workloads.contract import TryAgain, UserConfigError, WorkloadError, end_now, file_write_error
from include.workloads.weights.folder import PARTS, Parts
from include.workloads.weights.pace import asked_pace, line

log = logging.getLogger("weights")

ENDPOINT = "https://huggingface.co"
PROGRESS_SECONDS = 10.0


def download(model_id: str, revision: str, folder: Path, parts: Parts = PARTS[""]) -> None:
    """Fill `folder` with the model's files. The contract's errors, naming HF_TOKEN where that would help."""
    # Read by the library when it is imported; a pod's log is no terminal, and nothing is reported to anyone.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    token = _token()
    log.info("downloading %s at %s", model_id, revision)
    try:
        with _progress(folder, f"{model_id} at {revision}", _total(model_id, revision, parts, token)):
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


def _total(model_id: str, revision: str, parts: Parts, token: str | None) -> int:
    """Bytes of the files that are taken, as the hub lists them; 0 where it does not say. Never raises."""
    try:
        from huggingface_hub import HfApi

        found = HfApi(token=token or False).model_info(
            model_id, revision=revision, files_metadata=True, timeout=30
        )
        return sum(one.size or 0 for one in found.siblings or () if parts.belongs(one.rfilename))
    except Exception as error:  # the download itself says what is wrong
        log.info("The hub does not say how much there is to download (%s).", type(error).__name__)
        return 0


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


@contextmanager
def _progress(folder: Path, what: str, total: int) -> Iterator[None]:
    """A line every few seconds with what has arrived; the end of this process when nothing does any more.

    :param total: bytes that there will be, 0 where nobody knows.
    """
    done = threading.Event()
    size = _bytes_below(folder)
    pace = asked_pace(time.monotonic(), size)

    def watch() -> None:
        while not done.wait(min(PROGRESS_SECONDS, pace.stall_seconds / 2)):
            size, now = _bytes_below(folder), time.monotonic()
            log.info("  %s", line(size, total, now - pace.begun, pace.start))
            if wrong := pace.judge(size, now):
                end_now(TryAgain(f"The hub {wrong} while {what} was downloaded."))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # a partial file was renamed meanwhile
    return total
