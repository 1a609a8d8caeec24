"""Reviews: who am I, may I, whose token is this. Everybody who is known may do everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.sandbox.api.meta import dig, timestamp

if TYPE_CHECKING:
    from include.sandbox.api.auth import Tokens, User
    from include.sandbox.api.resources import Resource

Json = dict[str, Any]

_EVERYTHING: Json = {
    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "incomplete": False,
}


def answered(info: Resource, body: Json, user: User, tokens: Tokens) -> Json:
    """The review with its status."""
    if info.kind == "SelfSubjectReview":
        status: Json = {"userInfo": user.to_dict()}
    elif info.kind == "TokenReview":
        status = _token(dig(body, "spec", "token") or "", tokens)
    elif info.kind == "SelfSubjectRulesReview":
        status = _EVERYTHING
    else:
        status = {"allowed": True, "reason": "the sandbox has no authorisation: everybody may do everything"}
    return {
        "kind": info.kind,
        "apiVersion": info.api_version,
        "metadata": {"creationTimestamp": timestamp()},
        "spec": body.get("spec") or {},
        "status": status,
    }


def _token(text: str, tokens: Tokens) -> Json:
    user = tokens.user(text)
    if user is None:
        return {"authenticated": False, "user": {}, "error": "the token is not known to this cluster"}
    return {"authenticated": True, "user": user.to_dict()}
