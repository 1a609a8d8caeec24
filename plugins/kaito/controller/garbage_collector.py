"""The janitor's hands: sees everything of ours at once, and deletes what was judged to be an orphan.

Children are read before Workspaces, so that nothing looks ownerless only because it is newer. What cannot be seen stops
the sweep: it must never look as if it were not there. Deletions name the very object that was judged, and are dropped
when its Workspace has changed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from include.janitor import Inventory, Questions, Rules, Thing, Verdict, judge, questions
from include.janitor.orphans import Key
from include.workspace.api import names
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.snapshot import upstream
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    POD,
    SERVICE,
    STATEFUL_SET,
    VOLUME_CLAIM,
    WORKSPACE,
    CloudError,
    ClusterError,
    Kind,
)
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.logger import Logger
from kaito.providers.base import PoolProvider

Object = dict[str, Any]
T = TypeVar("T")

KINDS = {kind.name: kind for kind in (STATEFUL_SET, SERVICE, POD, CONFIG_MAP, VOLUME_CLAIM)}
#: More nodes than that to look at, and all pods are read at once.
FEW = 20


@dataclass(frozen=True)
class Deletion:
    """What came of one deletion. ``gone``: it was taken; ``trouble``: why it was refused, "" where it has changed."""

    verdict: Verdict
    gone: bool
    trouble: str = ""


class Sweep:
    """One look at everything of ours, and the deletions that follow from it.

    :param providers: who may have made machines, for whichever Workspace.
    """

    def __init__(
        self,
        hook: AsyncKaitoClusterHook,
        runs: AirflowRuns,
        providers: Sequence[PoolProvider],
        log: Logger,
    ) -> None:
        self.hook, self.runs, self.providers, self.log = hook, runs, providers, log
        self.inventory = Inventory()

    async def look(self, seen: dict[str, datetime], now: datetime, rules: Rules) -> list[Verdict]:
        """See everything and judge it.

        :param seen: when things were first seen as orphans.
        :raises ClusterError: something could not be seen, so nothing can be judged.
        """
        self.inventory = replace(await self._see(), seen=seen)
        asked: set[Any] = set()
        while True:  # answers bring up new questions, about a number of things that does not grow
            wanted = questions(self.inventory, now, rules)
            new = {*wanted.runs, *wanted.dags, *wanted.nodes, *wanted.namespaces} - asked
            if not new:
                return judge(self.inventory, now, rules)
            asked |= new
            self.inventory = await self._answer(wanted)

    async def _see(self) -> Inventory:
        kinds = (POD, STATEFUL_SET, SERVICE, CONFIG_MAP, VOLUME_CLAIM)
        found, pools = await asyncio.gather(
            _together(*(self._list(kind) for kind in kinds)),
            _together(*(provider.list_owned() for provider in self.providers)),
        )
        pods, sets, services, maps, volumes = found
        # After the children: see the module's docstring.
        workspaces, upstreams = await asyncio.gather(self._workspaces(), upstream(self.hook))
        return Inventory(
            workspaces=workspaces,
            pods=pods,
            stateful_sets=sets,
            services=services,
            config_maps=maps,
            volume_claims=volumes,
            pools=[pool for listed in pools for pool in listed],
            upstream=upstreams,
        )

    async def _list(self, kind: Kind) -> list[Object]:
        """Everything with our label."""
        return [obj async for page, _ in self.hook.pages(kind, None, {names.WORKSPACE: None}) for obj in page]

    def kind_of(self, thing: Thing) -> Kind | None:
        """Return what a thing is in the cluster, None where it is no object of the cluster."""
        makers = {one.name: one.objects for one in self.providers}
        return makers.get(thing.pool.provider) if thing.pool else KINDS.get(thing.kind)

    async def _workspaces(self) -> list[Object]:
        return [obj async for page, _ in self.hook.pages(WORKSPACE) for obj in page]

    async def _answer(self, wanted: Questions) -> Inventory:
        states = await self.runs.states(wanted.runs)
        busy = {dag: await self.runs.under_way(dag) for dag in wanted.dags}
        return replace(
            self.inventory,
            runs={**self.inventory.runs, **states},
            busy={**self.inventory.busy, **busy},
            others=await self._others(wanted),
        )

    async def _others(self, wanted: Questions) -> list[Object]:
        """Pods of anybody that may use what is about to go."""
        if len(wanted.nodes) + len(wanted.namespaces) > FEW:
            return [pod async for page, _ in self.hook.pages(POD) for pod in page]
        found = await _together(
            *(self.hook.list(POD, fields=f"spec.nodeName={node}") for node in wanted.nodes),
            *(self.hook.list(POD, namespace) for namespace in wanted.namespaces),
        )
        return [pod for pods in found for pod in pods]

    async def delete(self, verdicts: Iterable[Verdict]) -> list[Deletion]:
        """Ask for the deletion of each thing, in order; one that is refused does not stop the others."""
        done: list[Deletion] = []
        unchanged: dict[Key, bool] = {}
        for verdict in verdicts:
            try:
                key = verdict.thing.workspace
                if key not in unchanged:
                    unchanged[key] = await self._unchanged(key)
                gone = unchanged[key] and await self._delete(verdict.thing)
                done.append(Deletion(verdict, gone))
            except (ClusterError, CloudError) as error:
                done.append(Deletion(verdict, False, str(error)))
        return done

    async def _unchanged(self, key: Key) -> bool:
        """Whether a Workspace is what it was when its things were judged: the same version, or still gone."""
        live = await self.hook.find(WORKSPACE, key[1], key[0])
        now = live and _version(live)
        then = next(
            (
                _version(ws)
                for ws in self.inventory.workspaces
                if (names.namespace(ws), ws["metadata"]["name"]) == key
            ),
            None,
        )
        return now == then

    async def _delete(self, thing: Thing) -> bool:
        """Return False when there was nothing to delete: it is gone, or is not the one any more that was judged."""
        if thing.pool:
            # Machines that were handed to another run since they were read have another version, and stay.
            maker = next(one for one in self.providers if one.name == thing.pool.provider)
            return await maker.delete_observed(thing.pool, unchanged=True)
        try:
            await self.hook.send(api.delete(KINDS[thing.kind], thing.name, thing.namespace, thing.uid))
        except ClusterError as error:
            if error.status in (404, 409):
                return False
            raise
        return True


async def _together(*questions: Coroutine[Any, Any, list[T]]) -> list[list[T]]:
    """Ask all at once; the first refusal ends the others, which would go on trying for nothing."""
    tasks = [asyncio.create_task(question) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _version(workspace: Mapping[str, Any]) -> tuple[str, str]:
    metadata = workspace["metadata"]
    return str(metadata.get("uid")), str(metadata.get("resourceVersion"))
