"""Label and field selectors: text to predicates, as k8s.io/apimachinery/pkg/{labels,fields} read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.api.errors import ApiError, bad_request
from sandbox.api.meta import dig

Json = dict[str, Any]
Predicate = Callable[[Json], bool]

_SET_TERM = re.compile(r"^(?P<key>[^\s!=(),]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_COMPARE_TERM = re.compile(r"^(?P<key>[^\s!=(),<>]+)\s*(?P<op>==|=|!=|<|>)\s*(?P<value>[^\s!=(),]*)$")
_EXISTS_TERM = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=(),]+)$")


@dataclass(frozen=True)
class Requirement:
    """One term of a label selector."""

    key: str
    operator: str  # in, notin, exists, !, <, >
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        present = self.key in labels
        if self.operator == "exists":
            return present
        if self.operator == "!":
            return not present
        if self.operator == "in":
            return present and labels[self.key] in self.values
        if self.operator == "notin":
            return not present or labels[self.key] not in self.values
        return present and self._compares(labels[self.key])

    def _compares(self, value: str) -> bool:
        try:
            number, bound = int(value), int(next(iter(self.values)))
        except ValueError:
            return False
        return number > bound if self.operator == ">" else number < bound


def _split(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current)
    return [part.strip() for part in parts if part.strip()]


def _label_term(term: str) -> Requirement:
    if result := _SET_TERM.match(term):
        values = frozenset(value.strip() for value in result["values"].split(","))
        return Requirement(result["key"], result["op"], values)
    if result := _COMPARE_TERM.match(term):
        operator = {"=": "in", "==": "in", "!=": "notin"}.get(result["op"], result["op"])
        return Requirement(result["key"], operator, frozenset([result["value"]]))
    if result := _EXISTS_TERM.match(term):
        return Requirement(result["key"], "!" if result["not"] else "exists")
    raise bad_request(f"unable to parse requirement: found '{term}', expected a label selector term")


def label_requirements(text: str) -> list[Requirement]:
    """`a=b,c in (d,e),!f` as requirements.

    Raises ApiError (400) when it cannot be parsed.
    """
    return [_label_term(term) for term in _split(text)]


def label_predicate(text: str) -> Predicate | None:
    """A test of an object's labels, or None when everything matches."""
    requirements = label_requirements(text)
    if not requirements:
        return None

    def matches(obj: Json) -> bool:
        labels = dig(obj, "metadata", "labels") or {}
        return all(requirement.matches(labels) for requirement in requirements)

    return matches


def matches_label_selector(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """A metav1.LabelSelector against labels; None selects nothing, {} everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    operators = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
    return all(
        Requirement(term["key"], operators[term["operator"]], frozenset(term.get("values") or ())).matches(
            labels
        )
        for term in selector.get("matchExpressions") or ()
    )


# Which fields each resource can be selected by; everything has metadata.name and metadata.namespace.
_EVENT_FIELDS = tuple(
    f"involvedObject.{part}"
    for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)
SELECTABLE_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (*_EVENT_FIELDS, "reason", "reportingComponent", "source", "type"),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
    "replicasets.apps": ("status.replicas",),
    "jobs.batch": ("status.successful",),
}


def _field_value(obj: Json, resource: str, field: str) -> str:
    if resource == "events" and field == "source":
        return str(dig(obj, "source", "component") or obj.get("reportingComponent") or "")
    if resource == "jobs.batch" and field == "status.successful":
        field = "status.succeeded"
    value = dig(obj, *field.split("."))
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return {"spec.unschedulable": "false", "spec.hostNetwork": "false", "status.successful": "0"}.get(
            field, ""
        )
    return str(value)


def field_predicate(text: str, resource: str, extra: tuple[str, ...] = ()) -> Predicate | None:
    """A test of an object's selectable fields, or None when everything matches.

    `extra` are the selectableFields of a custom resource. Raises ApiError (400) for a field that cannot be selected.
    """
    allowed = {"metadata.name", "metadata.namespace", *SELECTABLE_FIELDS.get(resource, ()), *extra}
    terms: list[tuple[str, bool, str]] = []
    for term in _split(text):
        result = re.match(r"^([^!=]+?)(==|=|!=)(.*)$", term)
        if not result:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        if result[1] not in allowed:
            raise _unsupported(result[1])
        terms.append((result[1], result[2] != "!=", result[3]))
    if not terms:
        return None

    def matches(obj: Json) -> bool:
        return all((_field_value(obj, resource, field) == value) is equal for field, equal, value in terms)

    return matches


def _unsupported(field: str) -> ApiError:
    return bad_request(f"field label not supported: {field}")


def both(first: Predicate | None, second: Predicate | None) -> Predicate | None:
    if first is None or second is None:
        return first or second
    return lambda obj: first(obj) and second(obj)
