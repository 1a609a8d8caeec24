"""Weights from the Hugging Face hub, by revision, through `huggingface_hub`, which resumes what it began."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from include.contracts.redaction import hide
from include.workloads.contract import TryAgain, UserConfigError, WorkloadError, file_write_error
from include.workloads.weights.folder import ALLOWED, IGNORED

log = logging.getLogger("weights")

PROGRESS_SECONDS = 10.0


def download(model_id: str, revision: str, folder: Path, patterns: Sequence[str] = ALLOWED) -> None:
    """Fill `folder` with the model's files. The contract's errors, naming HF_TOKEN where that would help."""
    # Read by the library when it is imported; a pod's log is no terminal, and nothing is reported to anyone.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    token = os.environ.get("HF_TOKEN", "").strip() or None
    hide(token)
    log.info("downloading %s at %s", model_id, revision)
    try:
        with _progress(folder):
            snapshot_download(
                model_id,
                revision=revision,
                local_dir=folder,
                token=token or False,
                allow_patterns=list(patterns),
                ignore_patterns=list(IGNORED),
                max_workers=4,
            )
    except Exception as error:
        raise _fault(error, model_id, revision, token is not None) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


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
    if isinstance(error, OSError) and error.errno is not None:
        return file_write_error(error, "the weights")
    reason = f"answered {status}" if status else f"could not be reached ({type(error).__name__})"
    return TryAgain(f"The hub {reason} while {model_id} at {revision} was downloaded.")


@contextmanager
def _progress(folder: Path) -> Iterator[None]:
    """A line every few seconds with what has arrived."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PROGRESS_SECONDS):
            log.info("  %.0f MiB", _bytes_below(folder) / (1 << 20))

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
