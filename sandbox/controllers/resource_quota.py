"""The quota controller: writes into each ResourceQuota's status what its namespace uses.

For people and `kubectl describe quota` only: admission counts for itself and never waits for this.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sandbox.api.writes.admission.resource_quota import quota_status
from sandbox.controllers.reconciler import Controller, Feeds, Key, Object, key_of, read, write_status

QUOTAS = "resourcequotas"


class ResourceQuotaController(Controller):
    resource: ClassVar[str] = QUOTAS
    workers: ClassVar[int] = 1

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        for resource in ("pods", "persistentvolumeclaims"):
            feeds.subscribe(resource, self._used)

    def _used(self, _event: str, obj: Object) -> None:
        namespace = key_of(obj)[0]
        for quota in self.feeds.known(QUOTAS):
            if key_of(quota)[0] == namespace:
                self.enqueue(key_of(quota))

    async def reconcile(self, key: Key) -> float | None:
        quota = await read(self.cluster, QUOTAS, key)
        if quota is not None:
            await write_status(self.cluster, QUOTAS, quota, quota_status(self.cluster.storage, quota))
        return None
