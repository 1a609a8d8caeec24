"""What a presets file holds, kept beside it in `__pycache__` as Python keeps what it compiles.

Parsing all presets takes a fifth of the time that `check` takes to start, and they hardly ever change. A kept content
counts only for the very bytes that it was parsed from, is plain JSON, and is written where Python would write bytecode
(not with PYTHONDONTWRITEBYTECODE, nor to a folder that cannot be written). It must never be needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def kept(path: Path, text: bytes) -> Any:
    """The content of a file with this text, or None where it was not kept."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(_beside(path).read_bytes())
        if found["sha256"] == hashlib.sha256(text).hexdigest():
            return found["content"]
    return None


def keep(path: Path, text: bytes, content: Any) -> None:
    """Keep the content for the next process, where JSON gives back the same (no dates, no keys but text)."""
    if sys.dont_write_bytecode:
        return
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        written = json.dumps({"sha256": hashlib.sha256(text).hexdigest(), "content": content})
        if json.loads(written)["content"] != content:
            return
        target = _beside(path)
        target.parent.mkdir(exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        part.write_text(written, encoding="utf-8")
        part.replace(target)


def _beside(path: Path) -> Path:
    return path.with_name("__pycache__") / f"{path.name}.json"
