"""Answers a registry's 401 challenge: a Basic header, or a token from the server that the challenge names.

Passwords go only to the registry itself and, as the protocol asks, to its token server; tokens are hidden from all
output as soon as they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass

import oras.auth.utils
import requests

from include.workloads.adapter.credentials import Credentials
from include.workloads.contract import hide

CLIENT = "kaito-airflow"


@dataclass(frozen=True)
class TokenRefused(Exception):
    """The token server said no; `status` is its answer."""

    status: int


def authorize(
    challenge: str,
    credentials: Credentials | None,
    session: requests.Session,
    insecure: bool,
    timeout: tuple[float, float],
) -> str | None:
    """The Authorization value for a `WWW-Authenticate` challenge, or None when we have nothing to answer with.

    Raises TokenRefused, or what `requests` raises.
    """
    scheme = challenge.partition(" ")[0].lower()
    if scheme == "basic":
        return f"Basic {credentials.basic}" if credentials and credentials.password else None
    asked = oras.auth.utils.parse_auth_header(challenge)
    realm = asked.realm or ""
    if scheme != "bearer" or not realm.startswith(("https://", "http://") if insecure else "https://"):
        return None
    wanted = {key: value for key, value in (("service", asked.service), ("scope", asked.scope)) if value}
    if credentials and credentials.identity_token:
        form = {**wanted, "grant_type": "refresh_token", "refresh_token": credentials.identity_token}
        answer = session.post(realm, data={**form, "client_id": CLIENT}, timeout=timeout)
    else:
        basic = credentials is not None and bool(credentials.password)
        headers = {"Authorization": f"Basic {credentials.basic}"} if credentials and basic else {}
        answer = session.get(realm, params=wanted, headers=headers, timeout=timeout)
    if answer.status_code >= 500 or answer.status_code == 429:
        raise requests.ConnectionError(f"the token server answered {answer.status_code}")
    token = _token(answer)
    if token is None:
        raise TokenRefused(answer.status_code)
    hide(token)
    return f"Bearer {token}"


def _token(answer: requests.Response) -> str | None:
    try:
        document = answer.json() if answer.status_code == 200 else {}
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError):
        return None
    return token if isinstance(token, str) else None
