"""Carries out what was decided about one Workspace, one action after the other; each may be repeated.

Guards go with every request: an object is deleted or handed over only if it still is the one that was seen. What is
gone already is no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatchmethod
from typing import Any

from include import manifests
from include.manifests.serving_access import selector
from include.reconcile import (
    Action,
    AddFinalizer,
    Annotate,
    ApplyObject,
    DeleteObject,
    DeletePool,
    HandOver,
    RemoveFinalizer,
    ScaleToZero,
    ServeAdapter,
    StartRun,
)
from include.workspace import parse_workspace
from include.workspace.api.dialect import as_written
from kaito.controller.dag_runs import AirflowRuns
from kaito.hooks import api
from kaito.hooks.api import CONFIG_MAP, OWNED, POD, STATEFUL_SET, WORKSPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.providers.registry import maker_of

Object = Mapping[str, Any]


class Actions:
    """What can be done about one Workspace; :attr:`live` is the Workspace after the last write."""

    def __init__(self, hook: AsyncKaitoClusterHook, runs: AirflowRuns, live: dict[str, Any]) -> None:
        self.hook, self.runs, self.live = hook, runs, live

    async def do(self, action: Action) -> str:
        """Carry one action out; returns what was done in words, "" when there was nothing to do.

        :raises ClusterError: the cluster refused it. 409: the object is another one by now.
        :raises RunRefused: Airflow would not start the run.
        """
        return str(await self._do(action))

    @singledispatchmethod
    async def _do(self, action: object) -> str:
        raise TypeError(f"There is no way to carry out {type(action).__name__}.")

    @_do.register
    async def _(self, action: AddFinalizer) -> str:
        have = list(self._metadata().get("finalizers") or ())
        if action.finalizer in have:
            return ""
        await self._patch({"finalizers": [*have, action.finalizer]})
        return "finalizer added"

    @_do.register
    async def _(self, action: RemoveFinalizer) -> str:
        have = list(self._metadata().get("finalizers") or ())
        if action.finalizer not in have:
            return ""
        await self._patch({"finalizers": [f for f in have if f != action.finalizer]})
        return "finalizer dropped: the Workspace may go"

    @_do.register
    async def _(self, action: Annotate) -> str:
        have = self._metadata().get("annotations") or {}
        if all(have.get(key) == value for key, value in action.annotations.items()):
            return ""
        await self._patch({"annotations": dict(action.annotations)}, guarded=False)
        return ""

    @_do.register
    async def _(self, action: StartRun) -> str:
        started = await self.runs.start(action.dag_id, action.run_id, action.conf)
        return f"{action.dag_id} run {action.run_id} {'started' if started else 'exists'}"

    @_do.register
    async def _(self, action: DeleteObject) -> str:
        done = f"{action.kind} {action.name} deleted ({action.why})"
        kind = OWNED[action.kind]
        try:
            await self.hook.send(api.delete(kind, action.name, action.namespace, action.uid or None))
        except ClusterError as error:
            if error.status in (404, 409):  # gone, or another object of that name
                return ""
            raise
        return done

    @_do.register
    async def _(self, action: DeletePool) -> str:
        async with maker_of(self.hook, action.pool) as provider:
            done = await provider.delete_observed(action.pool)
        return f"{action.pool.kind} {action.pool.name} deleted ({action.why})" if done else ""

    @_do.register
    async def _(self, action: HandOver) -> str:
        async with maker_of(self.hook, action.pool) as provider:
            done = await provider.hand_over(action.pool, action.run_label)
        return f"{action.pool.kind} {action.pool.name} handed to run {action.run_label}" if done else ""

    @_do.register
    async def _(self, action: ScaleToZero) -> str:
        change = {"metadata": {"uid": action.uid}, "spec": {"replicas": 0}}
        try:
            await self.hook.send(api.merge_patch(STATEFUL_SET, action.name, action.namespace, change))
        except ClusterError as error:
            if error.status in (404, 409, 422):
                return ""
            raise
        return f"StatefulSet {action.name} scaled to zero"

    @_do.register
    async def _(self, action: ServeAdapter) -> str:
        workspace = parse_workspace(as_written(self.live))
        served = manifests.tuned_adapter(workspace.name, action.image, action.canary, action.percent)
        await self.hook.apply(CONFIG_MAP, manifests.wanted_config_map(workspace, [served]))
        done = f"its service is to answer with {action.image}"
        done += f", and {action.percent:g}% with {action.canary}" if action.canary else ""
        for pod in await self.hook.list(POD, workspace.namespace, selector(workspace)):
            try:
                if marked := manifests.look_now(pod, [served]):
                    await self.hook.apply(POD, marked)
            except ClusterError as error:
                done += f"; pod {pod['metadata']['name']} looks within a minute ({error})"
        return done

    @_do.register
    async def _(self, action: ApplyObject) -> str:
        kind = OWNED[action.manifest["kind"]]
        await self.hook.apply(kind, action.manifest)
        return ""

    def _metadata(self) -> Mapping[str, Any]:
        result: Mapping[str, Any] = self.live["metadata"]
        return result

    async def _patch(self, change: Object, *, guarded: bool = True) -> None:
        """Change the Workspace's metadata: this very Workspace, and for lists as it was read."""
        guards = ("uid", "resourceVersion") if guarded else ("uid",)
        body = {**{key: self._metadata()[key] for key in guards if self._metadata().get(key)}, **change}
        metadata = self._metadata()
        request = api.merge_patch(WORKSPACE, metadata["name"], metadata.get("namespace"), {"metadata": body})
        self.live = await self.hook.send(request)
