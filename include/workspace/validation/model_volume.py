"""The volumes of a user's own that hold a model's files, or keep what is downloaded: which claim, and which folder.

Admission, the manifests and the preflight read them here, so that they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from include.workspace.api import names
from include.workspace.validation.identity import is_object_name

ALLOWED = "write CLAIM or CLAIM/FOLDER, such as models/phi-4-mini"
_FOLDER = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}(?:/[A-Za-z0-9_][\w.-]{0,127}){0,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelVolume:
    """A PersistentVolumeClaim of the Workspace's namespace, and a folder in it ("": the whole)."""

    claim: str
    folder: str = ""

    def __str__(self) -> str:
        return f"{self.claim}/{self.folder}" if self.folder else self.claim


def read(text: str) -> ModelVolume:
    """The volume that an annotation's text means.

    :raises ValueError: it is none; the message is the end of a sentence about it.
    """
    claim, slash, folder = text.strip().partition("/")
    if not is_object_name(claim):
        raise ValueError(f"{claim!r} is not a possible name of a PersistentVolumeClaim")
    if slash and not _FOLDER.fullmatch(folder):
        raise ValueError(f"{folder!r} is not a folder below the volume's root")
    return ModelVolume(claim, folder)


def named(annotations: Mapping[str, str], annotation: str = names.MODEL_VOLUME) -> ModelVolume | None:
    """The volume that a Workspace names for its model, None where it names none that can be read.

    :param annotation: MODEL_VOLUME, or MODEL_CACHE for the volume that keeps what is downloaded.
    """
    try:
        return read(annotations[annotation])
    except (KeyError, ValueError):
        return None
