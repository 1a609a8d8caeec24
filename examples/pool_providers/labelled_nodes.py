"""GPU machines out of a standing set: plain Nodes that an administrator has set aside by a label.

A run takes as many free Nodes as it needs by putting its labels on them, and gives them back by taking the labels off.
Nothing is bought and nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaito.hooks import api
from kaito.hooks.api import NODE, CloudError, ClusterError
from kaito.providers.base import GpuPool, PoolKey, PoolProvider, taken

from include.manifests import ManifestSettings
from include.planning import Plan
from include.pools.observed import ObservedPool, node_machine
from include.pools.status import PoolStatus, Stage, classify, node_problem, node_stage
from include.workspace import parse_workspace
from include.workspace.api import names
from include.workspace.api.selector import node_labels

#: An administrator puts it on the Nodes that may be taken: kubectl label node NODE example.com/set-aside=true
SET_ASIDE = "example.com/set-aside"
#: What a run puts on a Node, and takes off again.
OURS = (names.WORKSPACE, names.WORKSPACE_NAMESPACE, names.POOL, names.RUN_ID, names.COMPONENT)


class LabelledNodes(PoolProvider):
    """Nodes with the label `example.com/set-aside`."""

    name = "labelled-nodes"
    kind = "Node"

    def request(
        self, workspace: Mapping[str, Any], plan: Plan, run_id: str, settings: ManifestSettings
    ) -> GpuPool:
        """Ask for so many Nodes that match the Workspace's labelSelector; which ones shows when they are taken."""
        key, selector = PoolKey.of(workspace, plan.purpose), node_labels(parse_workspace(workspace))
        wanted = (
            {"name": f"{key.workspace}-{key.purpose}-{n}", "labels": selector} for n in range(plan.node_count)
        )
        return GpuPool(key, run_id, plan.instance_type, tuple(wanted))

    async def create(self, pool: GpuPool) -> list[str]:
        run = names.run_id_label(pool.run_id)
        mine = await self.list_owned(pool.key.labels)
        if others := {node.run for node in mine} - {run}:
            raise taken(pool.key, others)
        missing = len(pool.claims) - len(mine)
        nodes = await self.cluster.list(NODE, labels={**pool.claims[0]["labels"], SET_ASIDE: "true"})
        free = [node for node in nodes if names.WORKSPACE not in node["metadata"]["labels"]]
        if len(free) < missing:
            told = f"{missing} Node(s) are needed and {len(free)} of those that match are free"
            raise CloudError(409, "InsufficientCapacity", told)
        labels = {**pool.key.labels, names.RUN_ID: run, names.COMPONENT: "pool"}
        return [
            str(node["metadata"]["name"])
            for node in free[: max(0, missing)]
            if await self._label(node, labels)
        ]

    async def request_deletion(
        self, key: PoolKey, run_id: str, timeout: float | None = None
    ) -> tuple[list[str], list[str]]:
        mine = await self.list_owned({**key.labels, names.RUN_ID: names.run_id_label(run_id)})
        left = [pool.name for pool in mine if not await self.delete_observed(pool)]
        return left, []  # the Nodes themselves stay

    async def list_owned(self, labels: Mapping[str, str] | None = None) -> list[ObservedPool]:
        nodes = await self.cluster.list(NODE, labels={SET_ASIDE: "true", **(labels or {})})
        return [_observed(node) for node in nodes if names.WORKSPACE in node["metadata"]["labels"]]

    async def delete_observed(self, pool: ObservedPool, *, unchanged: bool = False) -> bool:
        guards = {"uid": pool.uid, **({"resourceVersion": pool.version} if unchanged else {})}
        return await self._label({"metadata": {"name": pool.name, **guards}}, dict.fromkeys(OURS))

    async def _label(self, node: Mapping[str, Any], labels: Mapping[str, str | None]) -> bool:
        """Label a Node as it was read; False where somebody else was faster."""
        meta = node["metadata"]
        body = {key: meta[key] for key in ("uid", "resourceVersion") if meta.get(key)}
        change = {"metadata": {**body, "labels": dict(labels)}}
        try:
            await self.cluster.send(api.merge_patch(NODE, meta["name"], None, change))
        except ClusterError as error:
            if error.status in (404, 409, 422):
                return False
            raise
        return True


def _observed(node: Mapping[str, Any]) -> ObservedPool:
    """One Node that was taken, as a pool of one machine."""
    meta, machine = node["metadata"], node_machine(node)
    name, labels = str(meta["name"]), meta["labels"]
    status = PoolStatus((name,), True, "NodesReady", f"1 GPU node ready: {name}")
    if problem := node_problem(node):
        status = PoolStatus(
            (name,), False, *problem, classify(*problem), stage=node_stage(problem[0]) or Stage.BOOT
        )
    return ObservedPool(
        provider=LabelledNodes.name,
        kind=LabelledNodes.kind,
        name=name,
        workspace=(labels.get(names.WORKSPACE_NAMESPACE, ""), labels[names.WORKSPACE]),
        purpose=machine.purpose,
        run=machine.run,
        status=status,
        machines=(machine,),
        uid=str(meta.get("uid") or ""),
        version=str(meta.get("resourceVersion") or ""),
        instance_type=machine.instance_type,
        single=True,
        component=labels.get(names.COMPONENT, ""),
    )
