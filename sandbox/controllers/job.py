"""The Job controller: runs pods until enough have succeeded, or until backoffLimit or the deadline says stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sandbox.api.cluster import ApiError
from sandbox.controllers.ownership import (
    condition_of,
    controlled_by,
    is_active,
    is_ready,
    is_terminating,
    now_text,
    owner_reference,
    pod_from_template,
    seconds_since,
    set_condition,
)
from sandbox.controllers.reconciler import (
    Controller,
    Feeds,
    Key,
    Object,
    key_of,
    read,
    remove,
    write_status,
)

JOBS = "jobs.batch"
LONGEST_BACKOFF = 600.0


@dataclass(frozen=True)
class Tally:
    """A Job's pods by what became of them."""

    active: list[Object]
    succeeded: list[Object]
    failed: list[Object]

    @classmethod
    def of(cls, pods: list[Object]) -> Tally:
        def phase(pod: Object) -> str:
            return str((pod.get("status") or {}).get("phase"))

        lost = [p for p in pods if is_terminating(p) and phase(p) not in ("Succeeded", "Failed")]
        return cls(
            active=[p for p in pods if is_active(p)],
            succeeded=[p for p in pods if phase(p) == "Succeeded"],
            failed=[p for p in pods if phase(p) == "Failed"] + lost,
        )


def verdict(job: Object, tally: Tally) -> tuple[str, str, str] | None:
    """(condition type, reason, message) when the Job is over, else None."""
    spec, status = job["spec"], job.get("status") or {}
    completions = spec.get("completions")
    enough = (
        len(tally.succeeded) >= completions
        if completions is not None
        else bool(tally.succeeded) and not tally.active
    )
    if enough:
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    if len(tally.failed) > spec.get("backoffLimit", 6):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and status.get("startTime") and seconds_since(status["startTime"]) >= deadline:
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    return None


class JobController(Controller):
    resource: ClassVar[str] = JOBS

    def __init__(self, cluster: Any, feeds: Feeds, backoff: float = 10.0) -> None:
        super().__init__(cluster, feeds)
        self._backoff = backoff
        self.follow_owned("pods", "Job")

    async def reconcile(self, key: Key) -> float | None:
        job = await read(self.cluster, JOBS, key)
        if job is None or is_terminating(job):
            return None
        finished = condition_of(job, "Complete") or condition_of(job, "Failed")
        if finished is not None:
            return await self._expire(job, finished)
        pods, _ = await self.cluster.list("pods", key[0])
        tally = Tally.of(controlled_by(job, pods))
        over = verdict(job, tally)
        if over is not None:
            await self._finish(job, tally, over)
            return 0.0 if job["spec"].get("ttlSecondsAfterFinished") is not None else None
        wait = await self._run_pods(job, tally)
        pods, _ = await self.cluster.list("pods", key[0])
        await self._write_status(job, Tally.of(controlled_by(job, pods)), None)
        deadline = job["spec"].get("activeDeadlineSeconds")
        waits = [w for w in (wait, deadline and deadline + 0.05) if w is not None]
        return min(waits, default=None)

    async def _run_pods(self, job: Object, tally: Tally) -> float | None:
        """Start or stop pods; returns seconds until the next may start when failures hold it back."""
        spec = job["spec"]
        completions = spec.get("completions")
        wanted = int(spec.get("parallelism", 1))
        if completions is not None:
            wanted = min(wanted, completions - len(tally.succeeded))
        elif tally.succeeded:
            wanted = len(tally.active)
        if spec.get("suspend"):
            wanted = 0
        for pod in tally.active[wanted:]:
            await remove(self.cluster, "pods", pod)
        missing = wanted - len(tally.active)
        if missing <= 0:
            return None
        wait = self._held_back(tally)
        if wait > 0:
            return wait
        for _ in range(missing):
            try:
                created = await self.cluster.create("pods", self._build_pod(job), key_of(job)[0])
            except ApiError as error:
                await self._record_event(job, "Warning", "FailedCreate", f"Error creating: {error.message}")
                raise
            await self._record_event(
                job, "Normal", "SuccessfulCreate", f"Created pod: {created['metadata']['name']}"
            )
        return None

    def _held_back(self, tally: Tally) -> float:
        if not tally.failed:
            return 0.0
        ends = [_finished_at(pod) for pod in tally.failed]
        pause = min(self._backoff * 2.0 ** (len(tally.failed) - 1), LONGEST_BACKOFF)
        return float(pause - seconds_since(max(ends)))

    def _build_pod(self, job: Object) -> Object:
        namespace, name = key_of(job)
        pod = pod_from_template(job["spec"]["template"], namespace, owner_reference(job, "batch/v1", "Job"))
        pod["metadata"]["generateName"] = f"{name}-"
        uid = job["metadata"]["uid"]
        pod["metadata"]["labels"] |= {
            "batch.kubernetes.io/job-name": name,
            "batch.kubernetes.io/controller-uid": uid,
            "job-name": name,
            "controller-uid": uid,
        }
        return pod

    async def _finish(self, job: Object, tally: Tally, over: tuple[str, str, str]) -> None:
        for pod in tally.active:
            await remove(self.cluster, "pods", pod)
        type_, reason, message = over
        if type_ == "Complete":
            await self._record_event(job, "Normal", "Completed", "Job completed")
        else:
            await self._record_event(job, "Warning", reason, message)
            lost = [{**pod, "status": {**pod["status"], "phase": "Failed"}} for pod in tally.active]
            tally = Tally([], tally.succeeded, [*tally.failed, *lost])
        await self._write_status(job, Tally([], tally.succeeded, tally.failed), over)

    async def _expire(self, job: Object, finished: Object) -> float | None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None:
            return None
        left = float(ttl - seconds_since(finished["lastTransitionTime"]))
        if left > 0:
            return left
        namespace, name = key_of(job)
        await self.cluster.delete(JOBS, name, namespace, {"propagationPolicy": "Background"})
        return None

    async def _write_status(self, job: Object, tally: Tally, over: tuple[str, str, str] | None) -> None:
        old = job.get("status") or {}
        status: Object = {
            "startTime": old.get("startTime") or (None if job["spec"].get("suspend") else now_text()),
            "active": len(tally.active),
            "ready": sum(map(is_ready, tally.active)),
            "succeeded": len(tally.succeeded),
            "failed": len(tally.failed),
            "terminating": 0,
            "uncountedTerminatedPods": {},
            "conditions": list(old.get("conditions") or []),
        }
        if over is not None:
            type_, reason, message = over
            first = "SuccessCriteriaMet" if type_ == "Complete" else "FailureTarget"
            for condition in (first, type_):
                status["conditions"] = set_condition(status["conditions"], condition, "True", reason, message)
            if type_ == "Complete":
                status["completionTime"] = now_text()
        hidden = {
            k
            for k, v in status.items()
            if (k in ("active", "succeeded", "failed") and v == 0) or v in (None, [])
        }
        await write_status(self.cluster, JOBS, job, {k: v for k, v in status.items() if k not in hidden})

    async def _record_event(self, job: Object, type_: str, reason: str, message: str) -> None:
        await self.cluster.event(job, type_, reason, message, "job-controller")


def _finished_at(pod: Object) -> str:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    ends = [str(((s.get("state") or {}).get("terminated") or {}).get("finishedAt") or "") for s in statuses]
    return max(filter(None, ends), default=str(pod["metadata"].get("creationTimestamp") or now_text()))
