"""What a rule may look at, and the lookups that several rules share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from include.catalog import Catalog, Machine, Model
from include.workspace.faults import Fault
from include.workspace.models import Workspace
from include.workspace.names import RUNTIME

DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)


@dataclass(frozen=True)
class Policy:
    """The cluster's settings that rules depend on."""

    allowed_networks: tuple[str, ...] = ()
    byo: bool = False  # nodes are brought along; nothing is provisioned
    local_weights: bool = False  # every node holds the weights, so nothing is downloaded
    node_classes: tuple[str, ...] | None = None  # the managed NodeClasses, None when there is no such notion


@dataclass(frozen=True)
class Context:
    """One Workspace under examination."""

    ws: Workspace
    catalog: Catalog
    policy: Policy

    @cached_property
    def model(self) -> Model | None:
        """The preset's record, or None when there is no preset or no such record (other rules say so)."""
        try:
            return self.catalog.model(self.ws.preset.name) if self.ws.preset else None
        except KeyError:
            return None

    @cached_property
    def machine(self) -> Machine | None:
        try:
            return self.catalog.machine(self.ws.instance_type)
        except KeyError:
            return None

    @property
    def runtime(self) -> str:
        return "transformers" if self.ws.annotations.get(RUNTIME) == "transformers" else "vllm"


Rule = Callable[[Context], Iterable[Fault]]


def secret_name_fault(path: str, name: str, rule: str) -> list[Fault]:
    """A fault when a name cannot be the name of a Secret or ConfigMap."""
    if DNS_SUBDOMAIN.fullmatch(name):
        return []
    hint = "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    return [Fault(path, name, rule, "is not a possible name of a Kubernetes object", hint)]
