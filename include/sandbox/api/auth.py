"""Who asks: bearer tokens to users. Everybody who is known may do everything; the sandbox has no authorisation."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.sandbox.api.errors import ApiError

if TYPE_CHECKING:
    from aiohttp import web

Json = dict[str, Any]

PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version")


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...] = ("system:authenticated",)
    uid: str = ""

    def to_dict(self) -> Json:
        found: Json = {"username": self.name, "groups": list(self.groups)}
        return {**found, "uid": self.uid} if self.uid else found


ADMIN_GROUPS = ("system:masters", "system:authenticated")


class Tokens:
    """The tokens that are let in: those given at the start, and those issued for service accounts."""

    def __init__(self, given: Mapping[str, str | User]) -> None:
        self._users = {
            token: user if isinstance(user, User) else User(user, ADMIN_GROUPS)
            for token, user in given.items()
        }

    def issue(self, namespace: str, account: str, uid: str) -> str:
        """A token for a service account; it lives as long as this process."""
        token = f"sandbox-{secrets.token_urlsafe(32)}"
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        self._users[token] = User(f"system:serviceaccount:{namespace}:{account}", groups, uid)
        return token

    def user(self, token: str) -> User | None:
        return self._users.get(token)


def authenticated(request: web.Request, tokens: Tokens) -> User:
    """The user behind a request; raises ApiError (401)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else _websocket_token(request)
    if user := tokens.user(token):
        return user
    if request.path.rstrip("/") in PUBLIC_PATHS or request.path.startswith(("/livez/", "/readyz/")):
        return User("system:anonymous", ("system:unauthenticated",))
    raise ApiError(401, "Unauthorized", "Unauthorized")


def _websocket_token(request: web.Request) -> str:
    """Browsers cannot set headers on websockets and send the token as a subprotocol instead."""
    prefix = "base64url.bearer.authorization.k8s.io."
    for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith(prefix):
            text = name.strip().removeprefix(prefix)
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode(errors="replace")
    return ""
