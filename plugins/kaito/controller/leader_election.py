"""Who may reconcile: one Airflow deployment per cluster, agreed on by a `coordination.k8s.io` Lease.

The rules are those of client-go's leader election. Clocks are never compared: a holder is gone when its Lease has not
changed for its whole duration *as we watched it*, by our own monotonic clock. Only the waiting trigger takes a Lease
over; a task merely makes sure that its deployment still holds it. Every write carries the resourceVersion that was
read, so of two deployments that reach out at the same moment one gets a 409 and stays passive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kaito.hooks import api
from kaito.hooks.api import LEASE, NAMESPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook

NAME = "kaito-airflow-reconciler"
#: The release namespace of KAITO's chart; where it does not exist, the Lease goes to the default namespace.
NAMESPACE_OF_KAITO = "kaito-system"
SECONDS = 30
RENEW_EVERY = 8.0
ATTEMPTS = 3

AIRFLOW = "kaito.sh/airflow"
DONE = "kaito.sh/reconciled"

Lease = Mapping[str, Any]


@dataclass(frozen=True)
class Leadership:
    """Where this deployment stands.

    ``mine``: it may act. ``holder`` and ``where`` (the address of its Airflow) are of whoever holds the Lease;
    ``last_pass`` is what the last finished reconcile task left. ``message`` says it in a sentence.
    """

    mine: bool
    holder: str
    message: str
    where: str = ""
    last_pass: str = ""


@dataclass
class ObservedLease:
    """The Lease as last seen, and when (monotonic seconds) it was first seen like that."""

    version: str = ""
    since: float = 0.0
    renewed: float | None = None


@dataclass
class Election:
    """One deployment's part in the election.

    :param identity: this deployment; the same in all of its processes, different in every other deployment.
    :param where: address of this deployment's UI, for people.
    :param namespace: of the Lease; "" for the default.
    :param seen: what was seen before, where there is a memory that outlives this object.
    """

    hook: AsyncKaitoClusterHook
    identity: str
    where: str
    namespace: str = ""
    seconds: int = SECONDS
    seen: ObservedLease = field(default_factory=ObservedLease)
    clock: Callable[[], float] = time.monotonic

    async def stand(self, *, may_take: bool = True, done: str = "") -> Leadership:
        """Renew the Lease if it is ours, take it if nobody holds it, and say how it stands.

        :param may_take: False: only renew what is ours.
        :param done: the token of a pass that is finished, to be left on the Lease.
        """
        try:
            return await self._stand(may_take, done)
        except ClusterError as error:
            return self._unknown(error)

    async def seen_from_outside(self) -> Leadership:
        """Say whether this deployment may act, and write nothing: for what also works while nobody reconciles.

        A Lease that another deployment left behind counts as held: nobody has watched it long enough to tell.
        """
        try:
            live = await self.hook.find(LEASE, NAME, await self._namespace())
        except ClusterError as error:
            return self._unknown(error)
        holder = ((live or {}).get("spec") or {}).get("holderIdentity") or ""
        if live is None or not holder:
            return Leadership(True, "", "Nobody holds the reconciler's Lease.")
        if holder == self.identity:
            return Leadership(
                True, holder, f"This deployment ({holder}) holds Lease {_name(live)}.", self.where
            )
        return self._passive(live, holder)

    def lost(self) -> bool:
        """Whether our hold may have run out while we could not renew it."""
        return self.seen.renewed is None or self.clock() - self.seen.renewed > self.seconds * 2 / 3

    async def _stand(self, may_take: bool, done: str) -> Leadership:
        for _ in range(ATTEMPTS):
            leadership = await self._try(may_take, done)
            if leadership is not None:
                return leadership
        self.seen.renewed = None
        return Leadership(False, "", "Others keep writing the Lease; looking again.")

    async def _try(self, may_take: bool, done: str) -> Leadership | None:
        """Return None when somebody, perhaps another process of this deployment, wrote in between."""
        namespace = await self._namespace()
        live = await self.hook.find(LEASE, NAME, namespace)
        now = self.clock()
        if live is None:
            if not may_take:
                return Leadership(False, "", "Nobody holds the Lease any more.")
            return await self._write(api.create(LEASE, self._manifest(namespace, None, done)), now)
        holder = (live.get("spec") or {}).get("holderIdentity") or ""
        if holder == self.identity or (may_take and (not holder or self._expired(live, now))):
            return await self._write(api.replace(LEASE, self._manifest(namespace, live, done)), now)
        self._expired(live, now)
        return self._passive(live, holder)

    async def _write(self, request: api.Request, now: float) -> Leadership | None:
        try:
            written = await self.hook.send(request)
        except ClusterError as error:
            if error.status != 409:
                raise
            return None
        self.seen.renewed = now
        message = f"This deployment ({self.identity}) reconciles: it holds Lease {_name(written)}."
        return Leadership(True, self.identity, message, self.where, _annotations(written).get(DONE) or "")

    def _expired(self, lease: Lease, now: float) -> bool:
        """Judge by what we saw change, never by the times in the Lease: another machine's clock wrote those."""
        version = str(lease["metadata"].get("resourceVersion"))
        if version != self.seen.version:
            self.seen.version, self.seen.since = version, now
            return False
        seconds = (lease.get("spec") or {}).get("leaseDurationSeconds") or self.seconds
        return now - self.seen.since > seconds

    def _passive(self, lease: Lease, holder: str) -> Leadership:
        self.seen.renewed = None
        where = _annotations(lease).get(AIRFLOW) or ""
        at = f" at {where}" if where else ""
        message = (
            f"Passive: Airflow deployment {holder}{at} reconciles this cluster (Lease {_name(lease)}). This one does "
            f"nothing, and takes over when the Lease has not been renewed for {self.seconds} s."
        )
        return Leadership(False, holder, message, where)

    def _unknown(self, error: ClusterError) -> Leadership:
        """Without an answer we still hold what we renewed a moment ago, and nothing else."""
        if error.transient and not self.lost():
            return Leadership(True, self.identity, f"The Lease could not be renewed, trying again: {error}")
        self.seen.renewed = None
        hint = (
            " Allow get, create and update of leases.coordination.k8s.io, or name another namespace in the setting "
            "[kaito] lease_namespace."
            if error.status == 403
            else ""
        )
        return Leadership(
            False, "", f"Passive: whether another Airflow deployment reconciles is unknown. {error}{hint}"
        )

    def _manifest(self, namespace: str, found: Lease | None, done: str) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (found or {}).get("spec") or {}
        same = old.get("holderIdentity") == self.identity
        annotations = {**_annotations(found or {}), AIRFLOW: self.where}
        if done or not same:
            annotations[DONE] = done
        metadata = (found or {}).get("metadata") or {"name": NAME, "namespace": namespace}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {**metadata, "annotations": annotations},
            "spec": {
                **old,
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self.seconds,
                "renewTime": now,
                "acquireTime": old.get("acquireTime") if same else now,
                "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if same or not found else 1),
            },
        }

    async def _namespace(self) -> str:
        if not self.namespace:
            try:
                there = await self.hook.find(NAMESPACE, NAMESPACE_OF_KAITO)
            except ClusterError as error:
                if error.status != 403:
                    raise
                there = None
            self.namespace = NAMESPACE_OF_KAITO if there else "default"
        return self.namespace


def _annotations(lease: Lease) -> Mapping[str, str]:
    return (lease.get("metadata") or {}).get("annotations") or {}


def _name(lease: Lease) -> str:
    metadata = lease["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"
