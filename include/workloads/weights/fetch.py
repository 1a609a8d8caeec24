"""The init container's job: fill $WEIGHTS_PATH from the hub, a model image or a folder, once; or judge what it holds.

Where WEIGHTS_SHARED names this pod, $WEIGHTS_PATH is on a volume that others fill too, each once for all.
With WEIGHTS_PARTS=tokenizer only what is read without a model is fetched: the dataset step asks the chat template; with
WEIGHTS_PARTS=mistral the files are Mistral's own, for a server that reads those; with WEIGHTS_PARTS=pooling those of
sentence-transformers come too.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from include.contracts.revisions import is_commit
from include.workloads.contract import UserConfigError, file_write_error, required
from include.workloads.weights import from_image, hub, shared
from include.workloads.weights.folder import (
    PARTS,
    Parts,
    check,
    check_harmless,
    complete,
    is_complete,
    make_harmless,
)

log = logging.getLogger("weights")

SHARED = "WEIGHTS_SHARED"


def fetch_weights() -> dict[str, Any]:
    """Carry out WEIGHTS_SOURCE and give the result. Raises the contract's errors."""
    source, name = required("WEIGHTS_SOURCE"), os.environ.get("WEIGHTS_PARTS", "").strip()
    if name not in PARTS:
        raise UserConfigError(f"WEIGHTS_PARTS={name!r} must be one of {', '.join(filter(None, PARTS))}.")
    target = Path(os.environ.get("WEIGHTS_PATH") or "/workspace/weights")
    started = time.monotonic()
    try:
        if source != "mounted" and not os.environ.get(SHARED):
            target.mkdir(parents=True, exist_ok=True)
        if source == "hub":
            identity, files, fresh = _from_hub(target, name)
        elif source == "image":
            identity, files, fresh = _from_image(target, name)
        elif source == "mounted":
            check_harmless(target)
            check(target, PARTS[name])
            identity, files, fresh = {"source": source}, PARTS[name].sizes(target), False
        else:
            identity, files, fresh = _from_folder(source, target, PARTS[name])
    except OSError as error:
        raise file_write_error(error, f"the weights in {target}", target) from error
    size = sum(files.values())
    log.info("weights ready: %d files, %.0f MiB in %s", len(files), size / (1 << 20), target)
    return {
        **identity,
        "files": len(files),
        "bytes": size,
        "downloaded": fresh,
        "seconds": round(time.monotonic() - started, 1),
    }


def _from_hub(target: Path, name: str) -> tuple[dict[str, Any], dict[str, int], bool]:
    model_id = required("MODEL_ID")
    revision = os.environ.get("MODEL_REVISION", "").strip() or "main"
    parts = PARTS[name]
    if name == "tokenizer":
        hub.download(model_id, revision, target, parts)
        make_harmless(target)
        return {"source": "hub", "model_id": model_id, "revision": revision}, parts.sizes(target), True
    pinned = is_commit(revision)
    if not pinned:
        log.warning("warning: revision %s of %s may change; pin a commit", revision, model_id)
    identity = {"source": "hub", "model_id": model_id, "revision": revision} | (
        {"parts": name} if name else {}
    )

    def make(folder: Path) -> dict[str, int]:
        hub.download(model_id, revision, folder, parts)
        return complete(folder, identity, parts)

    if os.environ.get(SHARED):
        if not pinned:
            raise UserConfigError(
                f"{SHARED} is for a commit: {revision} may mean other files for the next pod."
            )
        fresh = shared.fill(target, identity, make, required(SHARED))
        return identity, parts.sizes(target), fresh
    # A name may mean another commit by now: only the hub knows, and it sends nothing that is already here.
    if pinned and is_complete(target, identity):
        return identity, parts.sizes(target), False
    return identity, make(target), True


def _from_image(target: Path, name: str) -> tuple[dict[str, Any], dict[str, int], bool]:
    image, parts = required("MODEL_IMAGE"), PARTS[name]
    client, digest, wanted = from_image.look_up(image, parts)
    identity = {"source": "image", "image": image, "digest": digest} | ({"parts": name} if name else {})
    if is_complete(target, identity):
        return identity, parts.sizes(target), False
    from_image.pull_files(client, wanted, target)
    if name == "tokenizer":
        make_harmless(target)
        return identity, parts.sizes(target), True
    return identity, complete(target, identity, parts), True


def _from_folder(source: str, target: Path, wanted: Parts) -> tuple[dict[str, Any], dict[str, int], bool]:
    parts = urlsplit(source)
    folder = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not folder.is_absolute():
        raise UserConfigError(
            f"WEIGHTS_SOURCE={source!r} is neither `hub`, `image`, `mounted` nor a folder like file:///mnt/models/x."
        )
    if not folder.is_dir():
        raise UserConfigError(f"WEIGHTS_SOURCE names {folder}, which is not a folder in this pod.")
    names = wanted.sizes(folder)
    versions = {name: [size, (folder / name).stat().st_mtime_ns] for name, size in names.items()}
    identity = {"source": source}
    if is_complete(target, identity | {"versions": versions}):
        return identity, wanted.sizes(target), False
    for name in names:
        log.info("copying %s", name)
        final = target / name
        final.parent.mkdir(exist_ok=True)
        temporary = final.with_name(f".{final.name}.part")
        shutil.copyfile(folder / name, temporary)
        temporary.replace(final)
    return identity, complete(target, identity | {"versions": versions}, wanted), True
