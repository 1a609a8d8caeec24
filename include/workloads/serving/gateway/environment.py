"""The gateway as the pod's environment describes it; the manifests (include/manifests) write what is read here.

API_KEY_FILE or API_KEY          the key that clients must send; a file is read again when its Secret changes
KAITO_ADMIN_TOKEN_FILE           the token of this pod's sidecar; without it nobody may load or unload adapters
KAITO_ADAPTERS_FILE              public adapter names and what they stand for now (aliases.py)
KAITO_ADAPTER_DIGESTS            {"name": "sha256:..."} of the adapters that the pod was started with
KAITO_DEFAULT_ADAPTER            the adapter that /chat asks
KAITO_BENCHMARK_FILE             what the benchmark beside the server writes when it has ended (benchmark.py)
KAITO_MAX_BODY_BYTES, KAITO_BODY_SECONDS
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from include.contracts.grace import LEAVING_FILE
from include.contracts.redaction import hide
from include.workloads.contract import UserConfigError
from include.workloads.serving.gateway.aliases import Adapter, Aliases
from include.workloads.serving.gateway.gateway import Parts
from include.workloads.serving.gateway.queue_guard import QueueGuard
from include.workloads.serving.gateway.walls import BODY_SECONDS, MAX_BODY, Intake, key_of_file


def parts_of(
    environment: Mapping[str, str],
    *,
    guard: QueueGuard | None = None,
    translates_chat: bool = False,
    task: Callable[[], str] = lambda: "",
) -> Parts:
    """The gateway's parts. Raises UserConfigError for an environment that cannot be meant."""
    get = environment.get
    intake = Intake(
        int(_number(environment, "KAITO_MAX_BODY_BYTES", MAX_BODY)),
        _number(environment, "KAITO_BODY_SECONDS", BODY_SECONDS),
    )
    file = get("KAITO_ADAPTERS_FILE")
    return Parts(
        intake=intake,
        key=_key(environment),
        admin=_token(get("KAITO_ADMIN_TOKEN_FILE")),
        guard=guard,
        aliases=Aliases(_digests(environment), Path(file) if file else None),
        translates_chat=translates_chat,
        performance=_performance(get("KAITO_BENCHMARK_FILE")),
        chat_adapter=get("KAITO_DEFAULT_ADAPTER") or None,
        told_to_go=_told_to_go(),
        task=task,
    )


def _told_to_go() -> Callable[[], bool]:
    """Whether the pod's end has begun; a container that was only started again has its predecessor's file."""
    file = Path(LEAVING_FILE)
    file.unlink(missing_ok=True)
    return file.exists


def _key(environment: Mapping[str, str]) -> Callable[[], str] | None:
    if file := environment.get("API_KEY_FILE"):
        try:
            key = key_of_file(Path(file))
        except ValueError as error:
            raise UserConfigError(f"API_KEY_FILE: {error}.") from None
        hide(key())
        return key
    if fixed := environment.get("API_KEY"):
        hide(fixed)
        return lambda: fixed
    return None


def _token(file: str | None) -> Callable[[], str] | None:
    """The sidecar may write its token after the server has started: without one, nobody is let in."""
    if not file:
        return None

    def token() -> str:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    return token


def _performance(file: str | None) -> Callable[[], Mapping[str, Any]]:
    def said() -> Mapping[str, Any]:
        if not file:
            return {"state": "off"}
        try:
            found = json.loads(Path(file).read_bytes())
        except (OSError, ValueError):
            return {"state": "running"}
        return found if isinstance(found, dict) else {"state": "off"}

    return said


def _digests(environment: Mapping[str, str]) -> dict[str, Adapter]:
    text = environment.get("KAITO_ADAPTER_DIGESTS") or "{}"
    try:
        found = json.loads(text)
        return {str(name): Adapter(str(name), str(digest)) for name, digest in found.items()}
    except (ValueError, AttributeError):
        raise UserConfigError('KAITO_ADAPTER_DIGESTS must be {"name": "sha256:..."} as JSON.') from None


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    try:
        found = float(text) if text else default
    except ValueError:
        found = 0
    if not 0 < found < float("inf"):
        raise UserConfigError(f"{name} is {text!r}; it must be a number above 0.")
    return found
