"""Reviews: who am I, may I, whose token is this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.http import authorisation
from sandbox.api.http.authentication import User
from sandbox.api.http.authorisation import Attributes
from sandbox.api.meta import timestamp

if TYPE_CHECKING:
    from sandbox.api.cluster import Cluster
    from sandbox.api.http.authentication import Tokens
    from sandbox.api.kinds.resources import Resource

Json = dict[str, Any]

_EVERYTHING: Json = {
    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "incomplete": False,
}


def answered(info: Resource, body: Json, user: User, tokens: Tokens, cluster: Cluster) -> Json:
    """The review with its status."""
    spec = body.get("spec") or {}
    if info.kind == "SelfSubjectReview":
        status: Json = {"userInfo": user.to_dict()}
    elif info.kind == "TokenReview":
        status = _token(spec.get("token") or "", tokens)
    elif info.kind == "SelfSubjectRulesReview":
        status = _rules(cluster, user, spec.get("namespace") or "")
    else:
        if not info.kind.startswith("Self"):
            user = User(str(spec.get("user") or ""), tuple(spec.get("groups") or ()))
        status = _access(cluster, user, spec)
    return {
        "kind": info.kind,
        "apiVersion": info.api_version,
        "metadata": {"creationTimestamp": timestamp()},
        "spec": spec,
        "status": status,
    }


def _access(cluster: Cluster, user: User, spec: Json) -> Json:
    """Addresses that name no resource are open to everybody who is known."""
    asked = spec.get("resourceAttributes")
    return {"allowed": asked is None or authorisation.allowed(cluster, user, Attributes.of_review(asked))}


def _rules(cluster: Cluster, user: User, namespace: str) -> Json:
    if authorisation.MASTERS in user.groups:
        return _EVERYTHING
    result = list(authorisation.rules(cluster, user, namespace))
    return {"resourceRules": result, "nonResourceRules": [], "incomplete": False}


def _token(text: str, tokens: Tokens) -> Json:
    user = tokens.user(text)
    if user is None:
        return {"authenticated": False, "user": {}, "error": "the token is not known to this cluster"}
    return {"authenticated": True, "user": user.to_dict()}
