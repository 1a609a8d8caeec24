"""The two waits of a retraining: for a person's answer, and for the version to be served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk.timezone import utcnow
from airflow.triggers.base import TriggerEvent

from include.retraining import versions
from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.status import retraining
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.triggers.base import Observation, WorkspaceTrigger

POKE_SECONDS = 5.0
#: Airflow itself resumes the task when somebody answers: only an answer that came just before the task was deferred has
#: to be asked for. The first question builds a whole API in the triggerer, which holds up all its triggers meanwhile.
ASKED_EVERY = timedelta(minutes=1)
DIGITS = 12


class ApprovalTrigger(HITLTrigger):
    """Waits for an answer in Airflow, or for an annotation that approves or rejects the candidate's digest.

    Where both annotations name it, it is rejected.

    :param workspace: name of the Workspace that is retrained.
    :param digest: of the candidate.
    """

    def __init__(
        self, *, workspace: str, namespace: str, digest: str, kubernetes_conn_id: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.namespace = namespace
        self.digest = digest
        self.kubernetes_conn_id = kubernetes_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        own = ("workspace", "namespace", "digest", "kubernetes_conn_id")
        _, arguments = super().serialize()
        cls = type(self)
        return f"{cls.__module__}.{cls.__qualname__}", {
            **arguments,
            **{name: getattr(self, name) for name in own},
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook, asked = AsyncKaitoClusterHook(conn_id=self.kubernetes_conn_id), utcnow()
        while True:
            now, event = utcnow(), None
            late = self.timeout_datetime is not None and self.timeout_datetime < now
            if late or now - asked >= ASKED_EVERY:
                event, asked = await self._in_airflow(late), now
            if event is None and (annotation := await self._annotated(hook)):
                self.log.info("Answered by the annotation %s of the Workspace.", annotation)
                option = self.options[0 if annotation == names.APPROVE else 1]
                event = TriggerEvent({"chosen_options": [option], "annotation": annotation})
            if event is not None:
                yield event
                return
            await asyncio.sleep(self.poke_interval)

    async def _in_airflow(self, late: bool) -> TriggerEvent | None:
        """Return the answer that Airflow has, or its default when it is late; None where it cannot be asked for now."""
        try:
            return await (self._handle_timeout() if late else self._answer())
        except Exception as error:  # its database may be away for a while, and an answer stays in it
            self.log.warning("Airflow cannot be asked for an answer: %s", error)
            return None

    async def _answer(self) -> TriggerEvent | None:
        result: TriggerEvent | None = await self._handle_response()  # type: ignore[no-untyped-call]
        return result

    async def _annotated(self, hook: AsyncKaitoClusterHook) -> str | None:
        """Return the annotation that answers for this candidate."""
        try:
            live = await hook.find(WORKSPACE, self.workspace, self.namespace) or {"metadata": {}}
        except ClusterError as error:
            self.log.warning("Workspace %s cannot be read: %s", self.workspace, error)
            return None
        given = live["metadata"].get("annotations") or {}
        return next(
            (one for one in (names.REJECT, names.APPROVE) if means(given.get(one), self.digest)), None
        )


def means(given: str | None, digest: str) -> bool:
    """Return whether an annotation means this digest: all of it, or at least twelve digits of its beginning."""
    bare, wanted = digest.removeprefix("sha256:"), (given or "").strip().removeprefix("sha256:")
    return len(wanted) >= DIGITS and bare.startswith(wanted)


class PromotionTrigger(WorkspaceTrigger):
    """Waits until the reconciler has rolled a version out and watched it, or has taken it back.

    :param version: of the adapter.
    :param until_it_bakes: whether to come back as soon as it answers, as a canary or for all, while it is watched.
    """

    subject = "the new version"

    def __init__(self, *, version: str, until_it_bakes: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.until_it_bakes = until_it_bakes

    async def observe(self, hook: AsyncKaitoClusterHook) -> Observation:
        known = (self.live.get("status") or {}).get("retrain") or {}
        entry = versions.entry_of(known.get("versions"), self.version)
        on_its_way = (known.get("promotion") or {}).get("version") == self.version
        state = entry.get("state")
        if state == State.PROMOTED and not on_its_way:
            return Observation(True, f"Version {self.version} is served.", silent=True)
        if not on_its_way:
            why = entry.get("reason") or "nobody knows of it any more"
            return Observation(
                False, f"Version {self.version} is not served: {why}", failed=True, silent=True
            )
        promotion = known.get("promotion") or {}
        stage = promotion.get("state")
        answers = stage == retraining.BAKING or (stage == retraining.CANARY and promotion.get("until"))
        if self.until_it_bakes and answers:
            return Observation(True, f"Version {self.version} answers.", silent=True, facts={"baking": True})
        return Observation(False, f"Version {self.version}: {stage}", silent=True)

    def success(self, last: Observation) -> TriggerEvent:
        return TriggerEvent({"ready": True, "message": last.message, **last.facts})

    def failure(self, last: Observation) -> TriggerEvent:
        return TriggerEvent({"ready": False, "message": last.message})
