"""Who may do what: Kubernetes' RBAC, over the roles and bindings that the cluster holds.

Members of `system:masters` may do everything, and everybody who is known may ask who they are and what they may; all
else needs a rule. Nothing is remembered between requests: a role that is changed holds from the next request on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError

if TYPE_CHECKING:
    from sandbox.api.cluster import Cluster
    from sandbox.api.http.address import Address
    from sandbox.api.http.authentication import User

Json = dict[str, Any]

MASTERS = "system:masters"
#: What Kubernetes grants to everybody who is known (its cluster role system:basic-user).
_OWN_REVIEWS = frozenset({"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"})
_WITH_NAME = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_COLLECTION = {**_WITH_NAME, "GET": "list", "HEAD": "list", "DELETE": "deletecollection"}


@dataclass(frozen=True)
class Attributes:
    """What somebody wants to do: `resource` with its subresource (`pods/log`), `name` "" for a collection."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    @classmethod
    def of(cls, method: str, address: Address, *, watch: bool) -> Attributes:
        """The wish behind a request."""
        resource = "/".join(filter(None, (address.info.plural, address.subresource)))
        verb = (_WITH_NAME if address.name else _COLLECTION).get(method, method.lower())
        if watch and verb in ("get", "list"):
            verb = "watch"
        return cls(verb, address.info.group, resource, address.namespace or "", address.name or "")

    @classmethod
    def of_review(cls, asked: Mapping[str, Any]) -> Attributes:
        """The wish that a review asks about (`spec.resourceAttributes`)."""
        resource = "/".join(filter(None, (str(asked.get("resource") or ""), asked.get("subresource"))))
        verb, group = str(asked.get("verb") or ""), str(asked.get("group") or "")
        return cls(verb, group, resource, str(asked.get("namespace") or ""), str(asked.get("name") or ""))


def need(cluster: Cluster, user: User, wish: Attributes) -> None:
    """Raises ApiError (403) in Kubernetes' words when nothing grants the wish."""
    if allowed(cluster, user, wish):
        return
    where = f'in the namespace "{wish.namespace}"' if wish.namespace else "at the cluster scope"
    plural = wish.resource.partition("/")[0]
    qualified = f"{plural}.{wish.group}" if wish.group else plural
    named = f'{qualified} "{wish.name}"' if wish.name else qualified
    message = (
        f'{named} is forbidden: User "{user.name}" cannot {wish.verb} resource "{wish.resource}" '
        f'in API group "{wish.group}" {where}'
    )
    details = {"name": wish.name, "group": wish.group, "kind": plural}
    raise ApiError(403, "Forbidden", message, {key: value for key, value in details.items() if value})


def allowed(cluster: Cluster, user: User, wish: Attributes) -> bool:
    """Whether a rule, or being who they are, lets a user do something."""
    if MASTERS in user.groups:
        return True
    if wish.verb == "create" and wish.resource in _OWN_REVIEWS and "system:authenticated" in user.groups:
        return True
    return any(_grants(rule, wish) for rule in rules(cluster, user, wish.namespace))


def rules(cluster: Cluster, user: User, namespace: str) -> Iterator[Json]:
    """The rules that hold for a user: those of the whole cluster, and those of a namespace."""
    for binding in _all(cluster, "clusterrolebindings", None):
        if _is_bound(binding, user):
            yield from _rules_of(cluster, binding, "")
    if namespace:
        for binding in _all(cluster, "rolebindings", namespace):
            if _is_bound(binding, user):
                yield from _rules_of(cluster, binding, namespace)


def _all(cluster: Cluster, plural: str, namespace: str | None) -> Iterator[Json]:
    for _, entry in cluster.storage.entries(f"{plural}.rbac.authorization.k8s.io", namespace):
        yield entry.obj


def _is_bound(binding: Json, user: User) -> bool:
    return any(_is(subject, user) for subject in binding.get("subjects") or ())


def _is(subject: Json, user: User) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace')}:{name}"
    return (kind == "User" and name == user.name) or (kind == "Group" and name in user.groups)


def _rules_of(cluster: Cluster, binding: Json, namespace: str) -> Iterator[Json]:
    reference = binding.get("roleRef") or {}
    of_cluster = reference.get("kind") == "ClusterRole"
    plural, where = ("clusterroles", "") if of_cluster else ("roles", namespace)
    entry = cluster.storage.get(f"{plural}.rbac.authorization.k8s.io", (where, str(reference.get("name"))))
    yield from (entry.obj.get("rules") or ()) if entry else ()


def _grants(rule: Json, wish: Attributes) -> bool:
    subresource = wish.resource.partition("/")[2]
    wanted = {wish.resource, "*"} | ({f"*/{subresource}"} if subresource else set())
    return (
        not {wish.verb, "*"}.isdisjoint(rule.get("verbs") or ())
        and not {wish.group, "*"}.isdisjoint(rule.get("apiGroups") or ())
        and not wanted.isdisjoint(rule.get("resources") or ())
        and (not rule.get("resourceNames") or wish.name in rule["resourceNames"])
    )
