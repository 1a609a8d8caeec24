"""What a rule may look at, and the lookups that several rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from include.catalog import Catalog, Machine, Model
from include.catalog.machines import unlisted
from include.contracts.network_policy import NetworkPolicy
from include.workspace.api.models import Workspace
from include.workspace.api.names import (
    AUTO_PROVIDER,
    BASELINE,
    POOL_PROVIDER,
    POOL_PROVIDERS,
    RUNTIME,
    ProviderName,
)
from include.workspace.validation import identity
from include.workspace.validation.faults import Fault


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class Policy:
    """The cluster's settings that rules depend on."""

    allowed_networks: tuple[str, ...] = ()  # CIDRs of URLs and registries that may be private
    insecure_registries: tuple[str, ...] = ()  # host:port that the administrator has vouched for
    allowed_namespaces: tuple[str, ...] = identity.ALL  # names and patterns; reserved ones by their name only
    allowed_volume_sources: tuple[str, ...] = ()  # kinds of volumes besides those that need no setting
    dataset_identities: tuple[str, ...] = ("kaito-dataset",)  # ServiceAccounts that datasets may be read as
    signed_adapters: bool = False  # adapters are served when one of the installation's keys has signed them
    template_policy: str = BASELINE  # the profile that pod templates must keep
    byo: bool = False  # nodes are BYO (bring your own); nothing is provisioned
    auto: bool = False  # Workspaces that name no machine type bring their own nodes (BYO)
    pool_providers: tuple[str, ...] = POOL_PROVIDERS  # who may be chosen to make machines
    local_weights: bool = False  # every node holds the weights, so nothing is downloaded
    node_classes: tuple[str, ...] | None = None  # the managed NodeClasses, None when there is no such notion
    # KAITO's feature gates that admission asks about, off as in KAITO.
    mig: bool = False  # enableMIG: BYO nodes may be used by the slice
    accelerator: bool = False  # enableAccelerator: single GPUs of such a node may be used
    model_streaming: bool = False  # ModelStreaming: weights are streamed from a mirror
    cloud: str = "azure"  # for streaming: which cloud's storage drivers are needed
    csi_drivers: tuple[str, ...] | None = None  # those that the cluster has, None when nobody has looked

    @cached_property
    def network(self) -> NetworkPolicy:
        """Where a Workspace may make the cluster connect to. Raises ValueError that names what is no network."""
        return NetworkPolicy.of(self.allowed_networks, self.insecure_registries)

    def may_bring_nodes(self, document: Mapping[str, object]) -> bool:
        """Whether a document of any shape may be about BYO nodes: rather once too often."""
        metadata, resource = _mapping(document.get("metadata")), _mapping(document.get("resource"))
        given = _mapping(metadata.get("annotations")).get(POOL_PROVIDER)
        if given not in self.pool_providers:
            given = AUTO_PROVIDER if self.auto else ProviderName.BYO if self.byo else ""
        return given == ProviderName.BYO or (given == AUTO_PROVIDER and not resource.get("instanceType"))

    def of(self, ws: Workspace) -> Policy:
        """The settings as they are for this Workspace, whose annotation may name another provider of machines."""
        given = ws.annotations.get(POOL_PROVIDER)
        if given not in self.pool_providers:
            given = AUTO_PROVIDER if self.auto else None
        if given is None:
            return self
        return replace(
            self, byo=given == ProviderName.BYO or (given == AUTO_PROVIDER and not ws.instance_type)
        )


class Known(NamedTuple):
    """The names of a catalogue: as their owners spell them, and in lower case for looking up."""

    models: frozenset[str]
    machines: frozenset[str]
    models_lower: frozenset[str]
    machines_lower: frozenset[str]


class _Same:
    """A catalogue as a cache's key: by identity, since it is large and never changes."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def __hash__(self) -> int:
        return id(self.catalog)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.catalog is self.catalog


@lru_cache(maxsize=8)
def _known(same: _Same) -> Known:
    models = frozenset(name for model in same.catalog.models for name in model.all_names)
    machines = frozenset(machine.name for machine in same.catalog.machines)
    return Known(
        models,
        machines,
        frozenset(name.lower() for name in models),
        frozenset(name.lower() for name in machines),
    )


@dataclass(frozen=True)
class Context:
    """One Workspace under examination."""

    ws: Workspace
    catalog: Catalog
    policy: Policy

    @cached_property
    def known(self) -> Known:
        return _known(_Same(self.catalog))

    @cached_property
    def model(self) -> Model | None:
        """The preset's record, or None when there is no preset or no such record (other rules say so)."""
        name = self.ws.preset.name if self.ws.preset else ""
        # Asked first, because the catalogue looks for the nearest name before it says that there is none.
        return self.catalog.model(name) if name.lower() in self.known.models_lower else None

    @cached_property
    def machine(self) -> Machine | None:
        name = self.ws.instance_type
        if name.lower() in self.known.machines_lower:
            return self.catalog.machine(name)
        inference = self.ws.inference
        return unlisted(name) if inference and inference.template is not None else None

    @property
    def runtime(self) -> str:
        return "transformers" if self.ws.annotations.get(RUNTIME) == "transformers" else "vllm"


Rule = Callable[[Context], Iterable[Fault]]


def secret_name_fault(path: str, name: str, rule: str) -> list[Fault]:
    """A fault when a name cannot be the name of a Secret or ConfigMap."""
    if identity.is_object_name(name):
        return []
    hint = "use at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    return [Fault(path, name, rule, "is not a possible name of a Kubernetes object", hint)]
