"""One waiting loop for everything this project waits for.

A trigger observes, prints what the provider says whenever that changes, and ends its task itself: success when the
thing is ready, failure with the provider's own words when it cannot become ready or the time is over. It must never
block the triggerer's event loop, and never change anything but the Workspace's status.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from include.workspace.api import names
from include.workspace.status import conditions, startup
from kaito.controller import event_recorder as events
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, NextStatus, StaleWorkspace, fence
from kaito.logger import Logger
from kaito.triggers.results import WaitResult

#: How soon a wait notices that its Workspace is going or has a newer generation, in seconds.
FENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Observation:
    """What one look at the cluster told.

    :param ready: the wait is over, well.
    :param failed: the wait is over, badly: more waiting cannot help.
    :param reason: the condition's reason, where the provider gave one.
    :param nodes: the machines it is about.
    :param notes: further lines worth printing once, such as Kubernetes events.
    :param silent: a matter for the log alone; the Workspace's status is not this wait's to write.
    :param facts: what else the task's result tells, or whoever takes up a wait that failed.
    :param news: told again when this changes; None for the message, which may be a figure that never stands still.
    :param progress: how far a server that starts is, as ``status.progress`` tells it; taken away where there is none.
    """

    ready: bool
    message: str
    failed: bool = False
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    silent: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    news: str | None = None
    progress: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Served:
    """Which Workspace a wait is for."""

    uid: str
    generation: int


def served(live: Mapping[str, Any] | None, name: str, run_id: str) -> Served:
    """Return what a run serves: by its id when that names it, else the Workspace as it is first seen.

    :raises StaleWorkspace: it is gone, or another one has its name.
    """
    if live is None:
        raise StaleWorkspace(f"Workspace {name} was deleted.")
    metadata = live["metadata"]
    uid, generation = names.served_by(run_id) or ("", int(metadata.get("generation") or 1))
    if not str(metadata.get("uid") or "").startswith(uid):
        raise StaleWorkspace(f"Workspace {name} was deleted and made again; this run serves the earlier one.")
    return Served(str(metadata.get("uid") or ""), generation)


async def write_status(
    hook: AsyncKaitoClusterHook,
    where: tuple[str, str],
    mine: Served,
    next_status: NextStatus,
    log: Logger,
    *,
    even_deleting: bool = False,
) -> None:
    """Write the status of a wait's Workspace and tell what turned; what cannot be written is no failure of the wait.

    :param where: name and namespace of the Workspace.
    :param mine: which Workspace the wait serves; a newer generation of it is left alone.
    :param next_status: gets the live Workspace and returns its new status.
    """
    news = events.News(next_status)
    try:
        await hook.patch_status(
            *where, news, uid=mine.uid, generation=mine.generation, even_deleting=even_deleting
        )
        await events.tell(hook, news.live, news.events)
    except (ClusterError, StaleWorkspace, conditions.StaleGeneration) as error:
        log.warning("The status of Workspace %s could not be written: %s", where[0], error)


class WorkspaceTrigger(BaseTrigger):
    """Waits for something that belongs to a Workspace.

    :param workspace: name of the Workspace.
    :param namespace: its namespace.
    :param kubernetes_conn_id: Airflow connection to the cluster.
    :param timeout_seconds: fail after that long, saying what was last seen.
    :param poll_seconds: pause between two looks.
    """

    #: What is waited for, as a sentence's object.
    subject = "the Workspace"
    #: Whether this wait serves the deletion itself.
    even_deleting = False
    #: What ready, not yet and never mean for the Workspace's conditions.
    phases: tuple[conditions.Phase, conditions.Phase, conditions.Phase]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a trigger that could not be made again in the triggerer, at import instead of at 3 a.m."""
        super().__init_subclass__(**kwargs)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        loose = [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        if loose:
            raise TypeError(
                f"{cls.__name__}: constructor arguments must be keyword-only, {', '.join(loose)} are not."
            )
        if "<locals>" in cls.__qualname__:
            raise TypeError(
                f"{cls.__name__} must stand at the top of its module: it is imported by its path."
            )

    def __init__(
        self,
        *,
        workspace: str,
        namespace: str,
        kubernetes_conn_id: str,
        timeout_seconds: float,
        poll_seconds: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workspace = workspace
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.timeout_seconds = timeout_seconds
        self.poll_seconds = poll_seconds
        self._served: Served | None = None
        self._fenced_at = float("-inf")
        #: The Workspace as the fence last saw it.
        self.live: dict[str, Any] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Every constructor argument is kept under its own name, so it can be read back from the instance."""
        cls = type(self)
        makers = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        ours = makers[: makers.index(WorkspaceTrigger.__init__) + 1]
        names = [
            p.name
            for maker in ours
            for p in inspect.signature(maker).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        ]
        return f"{cls.__module__}.{cls.__qualname__}", {name: getattr(self, name) for name in names}

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        """Look once. Raises ClusterError when the API server does not let us."""
        raise NotImplementedError

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook = AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id)
        begin = time.monotonic()
        said: set[str] = set()
        last = Observation(False, f"nothing seen of {self.subject} yet")
        self.log.info("Waiting for %s of Workspace %s/%s.", self.subject, self.namespace, self.workspace)
        while True:
            seen = await self._look(hook)
            over = seen.ready or seen.failed
            if not over and time.monotonic() - begin > self.timeout_seconds:
                text = (
                    f"{self.subject} not ready after {self.timeout_seconds:.0f} s. Last seen: {seen.message}"
                )
                seen, over = Observation(False, text, failed=True, reason=seen.reason), True
            for note in seen.notes:
                if note not in said:
                    said.add(note)
                    self.log.warning("%s", note)
            if (_news(seen), seen.failed) != (_news(last), last.failed):
                await self._tell(hook, seen)
            last = seen
            if over:
                break
            await asyncio.sleep(self.poll_seconds)
        yield self.success(last) if last.ready else self.failure(last)

    def success(self, last: Observation) -> TriggerEvent:
        """Return how a wait ends that has found what it waited for."""
        result = WaitResult.read({"message": last.message, "nodes": list(last.nodes), **last.facts})
        return TaskSuccessEvent(xcoms={"return_value": result.to_xcom()})

    def failure(self, last: Observation) -> TriggerEvent:
        """Return how a wait ends that has failed."""
        return TaskFailedEvent()

    async def _look(self, hook: AsyncKaitoClusterHook) -> Observation:
        try:
            await self._fence(hook)
            return await self.observe(hook)
        except StaleWorkspace as stale:
            return Observation(False, str(stale), failed=True, silent=True)
        except ClusterError as error:
            if error.transient:
                return Observation(False, f"The Kubernetes API is not reachable, trying again: {error}")
            return Observation(False, f"The Kubernetes API refused: {error}", failed=True)

    def serve(self, live: Mapping[str, Any] | None) -> Served:
        """Return which Workspace this wait is for, decided at the first look. Raises StaleWorkspace."""
        if self._served is None:
            task = getattr(self, "task_instance", None)
            self._served = served(live, self.workspace, getattr(task, "run_id", ""))
        return self._served

    async def _fence(self, hook: AsyncKaitoClusterHook) -> None:
        """Make sure, now and then, that the Workspace still is what this wait is for. Raises StaleWorkspace."""
        if time.monotonic() - self._fenced_at < FENCE_SECONDS:
            return
        live = await hook.find(WORKSPACE, self.workspace, self.namespace)
        mine = self.serve(live)
        self.live = fence(live, self.workspace, mine.uid, mine.generation)
        self._fenced_at = time.monotonic()

    async def _tell(self, hook: AsyncKaitoClusterHook, seen: Observation) -> None:
        """Put the news into the log and the Workspace's conditions; a status that cannot be written is no failure."""
        (self.log.error if seen.failed else self.log.info)("%s", seen.message)
        if seen.silent or self._served is None:
            return
        mine = self._served
        ready, waiting, never = self.phases
        phase = ready if seen.ready else never if seen.failed else waiting

        def next_status(live: Mapping[str, Any]) -> dict[str, Any]:
            found = conditions.progress(
                live,
                phase,
                message=seen.message,
                reason=seen.reason,
                nodes=seen.nodes or None,
                generation=mine.generation,
                now=datetime.now(UTC),
            )
            return startup.written(found, seen.progress)

        where = (self.workspace, self.namespace)
        await write_status(hook, where, mine, next_status, self.log, even_deleting=self.even_deleting)


def _news(seen: Observation) -> str:
    return seen.message if seen.news is None else seen.news
