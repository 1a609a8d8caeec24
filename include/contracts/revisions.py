"""Revisions of a repository on a hub: a commit stands for the same files for good, a branch or a tag may move."""

from __future__ import annotations

import re

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[\w][\w./-]{0,99}", re.ASCII)


def is_commit(text: str) -> bool:
    """Whether a revision stands for the same files for good."""
    return _COMMIT.fullmatch(text) is not None


def is_revision(text: str) -> bool:
    """Whether a text could be a commit, a branch or a tag of a repository."""
    return _REVISION.fullmatch(text) is not None and ".." not in text
