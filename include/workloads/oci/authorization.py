"""Answers a registry's 401 challenge: a Basic header, or a token from the server that the challenge names.

Passwords go only to the registry itself and, as the protocol asks, to its token server; tokens are hidden from all
output as soon as they arrive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import requests
from requests.utils import parse_dict_header

from include.contracts.redaction import hide
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.transport import Answer, TooBig, Transport

CLIENT = "kaito-airflow"
# Longer than any registry's: what takes a challenge apart may take quadratic time.
MAX_CHALLENGE_CHARS = 4096
MAX_TOKEN_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenRefused(Exception):
    """The token server said no; `status` is its answer."""

    status: int


def authorize(
    challenge: str,
    credentials: Credentials | None,
    transport: Transport,
    insecure: bool,
) -> str | None:
    """The Authorization value for a `WWW-Authenticate` challenge, or None when we have nothing to answer with.

    Raises TokenRefused, or what `requests` raises.
    """
    if len(challenge) > MAX_CHALLENGE_CHARS:
        return None
    scheme = challenge.partition(" ")[0].lower()
    if scheme == "basic":
        return f"Basic {credentials.basic}" if credentials and credentials.password else None
    asked = parse_dict_header(challenge.partition(" ")[2])
    realm = asked.get("realm") or ""
    if scheme != "bearer" or not realm.startswith(("https://", "http://") if insecure else "https://"):
        return None
    wanted = {key: value for key in ("service", "scope") if (value := asked.get(key))}
    try:
        answer = _ask(realm, wanted, credentials, transport)
    except TooBig:
        raise requests.ConnectionError("the token server's answer is too big to be a token") from None
    if answer.status >= 500 or answer.status == 429:
        raise requests.ConnectionError(f"the token server answered {answer.status}")
    token = _token(answer)
    if token is None:
        raise TokenRefused(answer.status)
    hide(token)
    return f"Bearer {token}"


def _ask(
    realm: str, wanted: Mapping[str, str], credentials: Credentials | None, transport: Transport
) -> Answer:
    if credentials and credentials.identity_token:
        secret = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
        form = urlencode({**wanted, **secret, "client_id": CLIENT}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return transport.ask("POST", realm, headers, lambda: form, limit=MAX_TOKEN_BYTES)
    basic = credentials is not None and bool(credentials.password)
    headers = {"Authorization": f"Basic {credentials.basic}"} if credentials and basic else {}
    url = requests.Request("GET", realm, params=dict(wanted)).prepare().url or realm
    return transport.ask("GET", url, headers, limit=MAX_TOKEN_BYTES)


def _token(answer: Answer) -> str | None:
    try:
        document = json.loads(answer.content) if answer.status == 200 else {}
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        return None
    return token if isinstance(token, str) else None
