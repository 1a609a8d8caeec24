"""The two programs that no Python package carries, and what to say when they are missing."""

from __future__ import annotations

import shutil

#: program -> Debian package
PACKAGES = {"bwrap": "bubblewrap", "docker-registry": "docker-registry"}


class MissingPrograms(RuntimeError):
    """Something must be installed first; the message has the exact command."""


def check_programs() -> None:
    """Raise MissingPrograms when bubblewrap or docker-registry is not installed."""
    missing = [program for program in PACKAGES if shutil.which(program) is None]
    if missing:
        packages = " ".join(PACKAGES[program] for program in missing)
        raise MissingPrograms(
            f"The sandbox needs {' and '.join(missing)}, which Debian and Ubuntu package as {packages}. Install with:\n"
            f"  sudo apt-get update && sudo apt-get install -y {packages}"
        )
