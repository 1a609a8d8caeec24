"""A provider for tasks: every method of its asynchronous self, answered at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.observed import ObservedPool, UnregisteredCapacity
from include.pools.status import PoolStatus
from kaito.hooks.cluster_calls import run
from kaito.providers.base import GpuPool, PoolKey, PoolProvider


class BlockingProvider:
    """As :class:`PoolProvider` says it of each method.

    :param provider: made over the calls of a blocking hook.
    """

    def __init__(self, provider: PoolProvider) -> None:
        self.provider = provider
        self.name, self.kind, self.remote = provider.name, provider.kind, provider.remote
        self.makes_machines = provider.makes_machines
        self.keeps_zones = provider.keeps_zones

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        return self.provider.request(workspace, plan, run_id, settings)

    def create(self, pool: GpuPool) -> list[str]:
        return run(self.provider.create(pool))

    def delete(self, key: PoolKey, run_id: str, *, timeout: float | None = None) -> list[str]:
        return run(self.provider.delete(key, run_id, timeout=timeout))

    def delete_and_wait(self, key: PoolKey, run_id: str, *, timeout: float, poll: float = 0.3) -> None:
        run(self.provider.delete_and_wait(key, run_id, timeout=timeout, poll=poll))

    def observe(self, key: PoolKey, wanted: int = 1) -> PoolStatus:
        return run(self.provider.observe(key, wanted))

    def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        return run(self.provider.list_owned(labels))

    def delete_observed(self, pool: ObservedPool, *, unchanged: bool = False) -> bool:
        return run(self.provider.delete_observed(pool, unchanged=unchanged))

    def may_own(self) -> bool:
        return run(self.provider.may_own())

    def check_availability(self, plans: Sequence[Plan]) -> dict[str, str]:
        return run(self.provider.check_availability(plans))

    def hand_over(self, pool: ObservedPool, run_label: str, purpose: str = "") -> bool:
        return run(self.provider.hand_over(pool, run_label, purpose))

    def unregistered_capacity(self, labels: Mapping[str, str]) -> list[UnregisteredCapacity] | None:
        return run(self.provider.unregistered_capacity(labels))
