"""Which Workspace is meant, and whether this installation works where it is.

Asked before anything is read for a name: one that cannot be a name, or a namespace that is not ours to work in, ends
there. Nothing here may look at the rest of a document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from include.workspace.validation.faults import Fault

DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
#: Namespaces of the cluster itself and of KAITO: only a setting that names one opens it, a pattern never does.
RESERVED = ("kube-*", "kaito-system")
ALL = ("*",)
_LABEL_HINT = "use at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"


def is_object_name(name: object) -> bool:
    """Whether a Secret or a ConfigMap can have this name."""
    return isinstance(name, str) and bool(DNS_SUBDOMAIN.fullmatch(name))


def is_label_key(key: str) -> bool:
    """Whether a label can have this key: name or domain/name."""
    prefix, slash, name = key.rpartition("/")
    return bool(_LABEL_NAME.fullmatch(name)) and (not slash or bool(DNS_SUBDOMAIN.fullmatch(prefix)))


def is_label_value(value: str) -> bool:
    """Whether a label can have this value."""
    return not value or bool(_LABEL_NAME.fullmatch(value))


def is_namespace(name: object) -> bool:
    return isinstance(name, str) and bool(DNS_LABEL.fullmatch(name))


def namespace_allowed(namespace: str, allowed: Iterable[str]) -> bool:
    """Whether a namespace is one of those in which Workspaces may run; ``allowed`` holds names and patterns."""
    patterns = tuple(allowed)
    if namespace in patterns:
        return True
    if any(fnmatchcase(namespace, reserved) for reserved in RESERVED):
        return False
    return any(fnmatchcase(namespace, pattern) for pattern in patterns)


def name_faults(name: object) -> list[Fault]:
    """G1."""
    if not name:
        return [Fault("metadata.name", None, "G1", "is required", "give the Workspace a name")]
    if not is_namespace(name):  # both are DNS labels
        return [Fault("metadata.name", name, "G1", "is not a valid name", _LABEL_HINT)]
    return []


def namespace_faults(namespace: object, allowed: Iterable[str]) -> list[Fault]:
    """G2, F31."""
    path = "metadata.namespace"
    if not is_namespace(namespace):
        return [Fault(path, namespace, "G2", "is not a valid name of a namespace", _LABEL_HINT)]
    if not namespace_allowed(str(namespace), allowed):
        hint = "use another one, or have an administrator name it in the setting [kaito] allowed_namespaces"
        return [Fault(path, namespace, "F31", "is no namespace in which Workspaces may run here", hint)]
    return []
