"""What is special about each built-in kind when it is written: defaults, preparation, validation, generation.

A strategy only changes and judges values; it never reads or writes the store, except through the `Site` it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sandbox.api.errors import FieldError

Json = dict[str, Any]


class Site(Protocol):
    """What a strategy may ask of the cluster."""

    def allocate_cluster_ip(self, wanted: str) -> str: ...

    def allocate_node_port(self) -> int: ...

    def default_storage_class(self) -> str | None: ...

    def exists(self, resource: str, namespace: str, name: str) -> bool: ...


def _nothing(_obj: Json) -> None:
    return None


def _nothing_on_create(_obj: Json, _site: Site) -> None:
    return None


def _nothing_on_update(_new: Json, _old: Json) -> None:
    return None


def _no_faults(_obj: Json) -> list[FieldError]:
    return []


def _no_update_faults(_new: Json, _old: Json) -> list[FieldError]:
    return []


@dataclass(frozen=True)
class Strategy:
    default: Callable[[Json], None] = _nothing
    prepare_create: Callable[[Json, Site], None] = _nothing_on_create
    prepare_update: Callable[[Json, Json], None] = _nothing_on_update
    validate: Callable[[Json], list[FieldError]] = _no_faults
    validate_update: Callable[[Json, Json], list[FieldError]] = _no_update_faults
    initial_status: Json | None = None
    finalizers: tuple[str, ...] = ()
    name_rule: str = "subdomain"  # subdomain, label, path
    default_propagation: str = "Background"
    unconditional_update: bool = True
    creates_on_update: bool = False
    returns_deleted: bool = False
    generation_annotations: bool = False  # annotations count as desired state (deployments)
