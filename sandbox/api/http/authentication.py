"""Who asks: bearer tokens to users. What they may do is decided in authorisation.py."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError

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
        result: Json = {"username": self.name, "groups": list(self.groups)}
        return {**result, "uid": self.uid} if self.uid else result


ADMIN_GROUPS = ("system:masters", "system:authenticated")


class Tokens:
    """The tokens that are let in: those given at the start, and those issued for service accounts.

    An issued token carries whom it is for, signed with a key made of the given ones: it holds for as long as those are
    the same, also after a restart. It has no end of its own.
    """

    def __init__(self, given: Mapping[str, str | User]) -> None:
        self._users = {
            token: user if isinstance(user, User) else User(user, ADMIN_GROUPS)
            for token, user in given.items()
        }
        self._key = hashlib.sha256("\n".join(sorted(given)).encode()).digest()

    def issue(self, namespace: str, account: str, uid: str) -> str:
        """A token for a service account."""
        text = json.dumps([namespace, account, uid])
        claims = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        return f"sandbox-{claims}.{self._signature(claims)}"

    def user(self, token: str) -> User | None:
        return self._users.get(token) or self._account(token)

    def _account(self, token: str) -> User | None:
        claims, _, signature = token.removeprefix("sandbox-").partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(claims).encode()):
            return None
        namespace, account, uid = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(f"system:serviceaccount:{namespace}:{account}", groups, uid)

    def _signature(self, claims: str) -> str:
        return hmac.new(self._key, claims.encode(), hashlib.sha256).hexdigest()


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
