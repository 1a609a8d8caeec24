"""Registry credentials out of a mounted dockerconfigjson secret. Every secret found is hidden from all output."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from include.contracts.image_reference import DOCKER_HUB, DOCKER_HUB_NAMES, ImageReference
from include.contracts.redaction import hide
from include.workloads.contract import UserConfigError

SECRET_KEY = ".dockerconfigjson"  # noqa: S105 - the name of a key, not a secret


@dataclass(frozen=True)
class Credentials:
    """What to log in with; `entry` is the key under `auths` that it came from."""

    entry: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of a Basic Authorization header; hidden like the password."""
        value = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        hide(value)
        return value


def load_credentials(folder: Path | None, reference: ImageReference) -> Credentials | None:
    """The credentials for a registry in a folder, or None when it has none for it.

    The folder has a `config.json`, and beside it a `config-<number>.json` for each further secret of a list. The most
    specific entry of all wins, as in Kubernetes: a path in the registry before the registry, a literal host before one
    with `*`; where several secrets have the same entry, the first of them.
    """
    entries: dict[str, dict[str, Any]] = {}
    for path in _files(folder):
        entries = _entries(_text(path)) | entries
    return _best(entries, reference)


def credentials_in(text: str, reference: ImageReference) -> Credentials | None:
    """The credentials for a registry in the text of one Docker configuration, or None when it has none for it."""
    return _best(_entries(text), reference)


def advice(credentials: Credentials | None, reference: ImageReference) -> str:
    """What to look at when a registry refuses these credentials; never the credentials."""
    if credentials is None:
        return f"no credentials for it were given: the secret's {SECRET_KEY} needs an entry for {reference.registry}"
    return f"check user, password and rights in the secret ({SECRET_KEY}, entry {credentials.entry!r})"


def _best(entries: Mapping[str, dict[str, Any]], reference: ImageReference) -> Credentials | None:
    matching = [key for key in entries if _matches(key, reference)]
    if not matching:
        return None
    best = max(matching, key=lambda key: ("*" not in key, len(_plain(key)), key))
    return _read(best, entries[best])


def _files(folder: Path | None) -> list[Path]:
    """The Docker configurations of a folder, in the order of their list."""
    if folder is None or not (folder / "config.json").is_file():
        return []
    further = [path for path in folder.glob("config-*.json") if path.stem.removeprefix("config-").isdecimal()]
    return [folder / "config.json", *sorted(further, key=lambda path: int(path.stem.removeprefix("config-")))]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""  # no Docker configuration


def _entries(text: str) -> dict[str, dict[str, Any]]:
    try:
        auths = json.loads(text)["auths"]
        return {str(key): dict(value) for key, value in auths.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserConfigError(
            f"The registry secret is not a Docker configuration: its key {SECRET_KEY} must hold JSON with "
            '"auths" (kubectl create secret docker-registry makes one).'
        ) from None


def _plain(key: str) -> str:
    """A key of `auths` without scheme and API version: `https://index.docker.io/v1/` is `index.docker.io`."""
    plain = key.partition("://")[2] or key
    plain = plain.rstrip("/")
    return plain.removesuffix("/v1").removesuffix("/v2")


def _matches(key: str, reference: ImageReference) -> bool:
    host, _, path = _plain(key).partition("/")
    host = host.lower()
    if path and not f"{reference.repository}/".startswith(f"{path}/"):
        return False
    if reference.registry == DOCKER_HUB:
        return host in DOCKER_HUB_NAMES
    # `*` stands for a part of one label of the name, never for several.
    return host.count(".") == reference.registry.count(".") and fnmatchcase(reference.registry, host)


def _read(entry: str, value: Mapping[str, Any]) -> Credentials:
    username, password = str(value.get("username") or ""), str(value.get("password") or "")
    token = str(value.get("identitytoken") or "")
    auth = value.get("auth")
    if auth and not password:
        hide(str(auth))
        try:
            username, _, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise UserConfigError(
                f'The registry secret\'s "auth" for {entry} (key {SECRET_KEY}) is not base64 of user:password.'
            ) from None
    password = password.rstrip("\x00")
    for secret in (password, token):
        hide(secret)
    return Credentials(entry, username, password, token)
