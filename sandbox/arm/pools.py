"""Agent pools as REST resources: what each request changes in the state, and what it answers.

Machines are made and removed by sandbox.arm.agentpool_controller, which is told by `changed`. It must never change a
pool while an operation runs on the cluster: Azure refuses that with 409.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox.arm import account, errors
from sandbox.arm.schema import check_name, check_properties, read_properties
from sandbox.arm.state import (
    CREATING,
    DELETING,
    SCALING,
    STARTING,
    STOPPING,
    SUCCEEDED,
    UPDATING,
    ArmState,
    Operation,
    Pool,
)
from sandbox.cloud.machines import UnknownMachine, find_machine_type
from sandbox.cloud.nodes import capacity_fault
from sandbox.faults import FaultKind, Faults

Json = dict[str, Any]

#: These cannot change once a pool exists; the others can, or the sandbox does not look at them.
FIXED = (
    "vmSize",
    "osDiskSizeGB",
    "osDiskType",
    "osType",
    "type",
    "availabilityZones",
    "scaleSetPriority",
    "scaleSetEvictionPolicy",
    "spotMaxPrice",
    "vnetSubnetID",
    "maxPods",
    "gpuInstanceProfile",
)


@dataclass(frozen=True)
class Answer:
    """A response before it has headers of its own: `operation` adds the status monitor's, `location` the result's."""

    status: int
    body: Json | None = None
    operation: Operation | None = None
    location: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """The If-Match and If-None-Match headers of a request, without quotes."""

    match: str | None = None
    none_match: str | None = None

    def check(self, pool: Pool | None) -> None:
        """Raises ArmError (412)."""
        have = pool.etag if pool is not None else None
        if self.match is not None and (have is None or self.match not in ("*", have)):
            raise errors.precondition_failed(f'If-Match: "{self.match}"', have)
        if self.none_match not in (None, "", "*"):
            raise errors.invalid_parameter("If-None-Match", "only * is supported")
        if self.none_match == "*" and have is not None:
            raise errors.precondition_failed(f'If-None-Match: "{self.none_match}"', have)


class AgentPools:
    def __init__(self, state: ArmState, faults: Faults, changed: Callable[[str], None]) -> None:
        self.state = state
        self._faults = faults
        self._changed = changed
        self._system = account.system_pool()

    def all(self) -> list[Pool]:
        return [self._system, *self.state.pools.values()]

    def find(self, name: str) -> Pool | None:
        wanted = name.lower()
        return self._system if wanted == self._system.name else self.state.pools.get(wanted)

    def list(self) -> Answer:
        return Answer(200, {"value": [account.pool_resource(pool) for pool in self.all()]})

    def get(self, name: str) -> Answer:
        pool = self.find(name)
        if pool is None:
            raise errors.pool_not_found(name)
        return Answer(200, account.pool_resource(pool))

    def put(self, name: str, body: object, conditions: Conditions) -> Answer:
        """201 with Creating or Updating and the status monitor; 200 when the pool is that way already."""
        wanted = read_properties(body)
        check_name(name, wanted)
        check_properties(wanted)
        pool = self.find(name)
        conditions.check(pool)
        if pool is None or "vmSize" in wanted:
            self._check_size(name, wanted)
        if pool is None:
            return self._create(name, wanted)
        if pool is self._system:
            raise errors.change_not_allowed("properties.mode")
        return self._update(pool, wanted)

    def delete(self, name: str, conditions: Conditions) -> Answer:
        pool = self.find(name)
        if pool is None:
            return Answer(204)
        conditions.check(pool)
        if pool is self._system:
            message = "There has to be at least one system agent pool."
            raise errors.ArmError(400, "OperationNotAllowed", message, target="agentPoolProfiles")
        if pool.state == DELETING:
            return Answer(202, operation=self.state.operations.get(pool.operation or ""), location=True)
        self._check_idle()
        operation = self.state.begin(pool, DELETING)
        self._changed(pool.name)
        return Answer(202, operation=operation, location=True)

    def abort(self, name: str) -> Answer:
        """The running operation ends as canceled, the pool stays with what it has."""
        pool = self.find(name)
        if pool is None:
            raise errors.pool_not_found(name)
        if pool.state not in SCALING:
            raise errors.nothing_to_abort(pool.name)
        operation = self.state.cancel(pool)
        self._changed(pool.name)
        return Answer(202, operation=operation, location=True)

    def delete_machines(self, name: str, body: object) -> Answer:
        """Take these machines; the pool is smaller afterwards."""
        pool = self.find(name)
        if pool is None:
            raise errors.pool_not_found(name)
        names = body.get("machineNames") if isinstance(body, dict) else None
        if not isinstance(names, list) or not names:
            raise errors.invalid_parameter("machineNames", "names of machines are required")
        have = {account.machine_name(pool.name, vm.index): vm for vm in pool.machines}
        for wanted in names:
            if wanted not in have:
                raise errors.invalid_parameter(
                    "machineNames", f"agent pool {pool.name} has no machine '{wanted}'"
                )
        self._check_idle()
        for wanted in names:
            have[wanted].leaving = True
        pool.properties["count"] = sum(not vm.leaving for vm in pool.machines)
        operation = self.state.begin(pool, UPDATING)
        self._changed(pool.name)
        return Answer(202, operation=operation, location=True)

    def _create(self, name: str, wanted: Json) -> Answer:
        self._check_idle()
        pool = Pool(name, {"count": 1, **wanted})
        self._check_available(pool, pool.count)
        self.state.pools[name] = pool
        operation = self.state.begin(pool, CREATING)
        self._changed(name)
        return self._accepted(pool, operation)

    def _update(self, pool: Pool, wanted: Json) -> Answer:
        shown = account.pool_properties(pool)
        for key in FIXED:
            if key in wanted and wanted[key] != shown.get(key):
                raise errors.change_not_allowed(f"properties.{key}")
        self._check_idle()
        kept = {key: pool.properties[key] for key in (*FIXED, "count") if key in pool.properties}
        fresh = {**kept, **wanted}
        if set(wanted) == {"powerState"}:
            fresh = {**pool.properties, **wanted}
        if fresh == pool.properties and len(pool.machines) == pool.count and pool.state == SUCCEEDED:
            return Answer(200, account.pool_resource(pool))
        after = replace(pool, properties=fresh)
        if after.count > len(pool.machines):
            self._check_available(after, after.count - len(pool.machines))
        power = (STOPPING if after.stopped else STARTING) if after.stopped != pool.stopped else UPDATING
        pool.properties = fresh
        operation = self.state.begin(pool, power)
        self._changed(pool.name)
        return self._accepted(pool, operation)

    def _accepted(self, pool: Pool, operation: Operation) -> Answer:
        return Answer(201, account.pool_resource(pool), operation)

    def _check_idle(self) -> None:
        busy = self.state.busy()
        if busy is not None:
            raise errors.operation_in_progress(busy.name, busy.state)

    def _check_size(self, name: str, wanted: Json) -> None:
        """The size has to exist; from here on it is spelt as the cloud spells it."""
        if not wanted.get("vmSize"):
            raise errors.invalid_parameter("agentPoolProfile.vmSize", "vmSize is required")
        try:
            wanted["vmSize"] = find_machine_type(wanted["vmSize"]).name
        except UnknownMachine:
            raise errors.size_not_allowed(name, account.LOCATION) from None

    def _check_available(self, pool: Pool, machines: int) -> None:
        """What Azure checks before it accepts: the offer in these zones, and the quota."""
        size = pool.instance_type
        for zone in pool.zones or [""]:
            if fault := capacity_fault(self._faults, FaultKind.SKU, size, zone):
                raise errors.sku_not_available(size, account.LOCATION, zone, fault.message)
        if fault := capacity_fault(self._faults, FaultKind.QUOTA, size, spot=pool.spot):
            wanted = account.vcpus(size) * machines
            raise errors.insufficient_quota(account.LOCATION, account.family(size), wanted, 0, fault.message)
