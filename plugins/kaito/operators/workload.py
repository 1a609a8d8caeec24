"""A pod of a run: what fetching the dataset, tuning and publishing the adapter share.

Each is a KubernetesPodOperator that waits in the triggerer, with the pod's log lines in the task's log while it does.
A pod's result is its termination message, read when the task comes back; no sidecar, no exec. The exit code decides
what a failure means: 64 and 65 are the author's to fix and are never tried again, anything else may pass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from kubernetes.client.exceptions import ApiException

from include.contracts.exit_codes import USER_EXIT_CODES
from include.contracts.results import Result
from include.reconcile.pod_problems import taken_away
from include.workspace.api import names
from include.workspace.status import conditions
from kaito.hooks.api import POD, ClusterError
from kaito.hooks.kubernetes import StaleWorkspace
from kaito.operators import kept_adapter
from kaito.operators.one_pod import PATIENT_POLL, OnePodOperator, PodRefused
from kaito.settings import connection_id
from kaito.tasks import base
from kaito.tasks.base import Run, WorkspaceTask, tries_left
from kaito.tasks.preflight_result import Trained
from kaito.tasks.stopped import fail_if_stopped, stopped
from kaito.triggers.workload import STUCK, SUPERSEDED, WorkloadPodTrigger, evicted

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

# A GPU node from zero, then an image of 25 GB.
SCHEDULE_SECONDS = 1800
START_SECONDS = 1800
#: What a step may wait for a place and an image before its pod's own time runs.
WAITING = timedelta(seconds=SCHEDULE_SECONDS + START_SECONDS)
LOG_SECONDS = 2
R = TypeVar("R", bound=Result)


class PodGone(AirflowFailException):
    """Somebody deleted the pod while it worked: taken as an order to stop, so it is not tried again."""


class WorkloadPodOperator(WorkspaceTask, OnePodOperator, Generic[R]):
    """Runs one workload pod of a Workspace and returns its result.

    Subclasses give the manifest, what must exist before it (``prepare``), the name of its container and the phases to
    report. The name is a class attribute, because the task comes back from the triggerer as a new object.
    """

    #: How the pod's result is read.
    result_type: type[R]
    #: What of a result is for people alone: each an XCom of its own, neither logged nor handed to other steps.
    apart: ClassVar[tuple[str, ...]] = ()
    #: Each time that the API server is away for long, the wait comes back here with an error and goes on.
    MAX_REDEFER_ATTEMPTS = 50
    #: Nothing to render: the pod is built when the task runs, from the plan that preflight left.
    template_fields = ("kubernetes_conn_id",)
    #: How long to stay in the worker, in seconds, before the wait moves to the triggerer: what ends sooner than the
    #: way there and back (two to three seconds) should not go.
    patience: ClassVar[float] = 8
    #: How long the pod's Node may be silent before the pod counts as lost, in seconds; None for ever.
    lost_seconds: float | None = None
    #: Whether machines are paid for while the pod cannot start.
    holds_machines: ClassVar[bool] = False
    #: What to report while the pod does not run yet, and when it does.
    pending: ClassVar[conditions.Phase | None] = None
    #: What to say of a container that was killed at its memory limit.
    out_of_memory: ClassVar[str] = (
        "killed for lack of memory (OOMKilled) at the limit of its pod, the setting [kaito] memory_limit; the same "
        "attempt again does not help."
    )
    working: ClassVar[conditions.Phase | None] = None
    done: ClassVar[conditions.Phase]
    failed: ClassVar[conditions.Phase]

    def __init__(self, **kwargs: Any) -> None:
        settings: dict[str, Any] = {
            "kubernetes_conn_id": connection_id(),
            "deferrable": True,
            "poll_interval": 1,
            "logging_interval": LOG_SECONDS,
            "startup_check_interval_seconds": 1,
            "schedule_timeout_seconds": SCHEDULE_SECONDS,
            "startup_timeout_seconds": START_SECONDS,
            "container_name_log_prefix_enabled": False,
            # The pod's spec holds the dataset's URL, which may be signed.
            "log_pod_spec_on_failure": False,
            "log_events_on_failure": True,
            "random_name_suffix": False,
        }
        super().__init__(**{**settings, **kwargs})
        self._run: Run | None = None

    def pod_manifest(self, run: Run, context: Context) -> dict[str, Any]:
        """Return the pod to run."""
        raise NotImplementedError

    def prepare(self, run: Run) -> None:
        """Make what the pod mounts."""

    def made_before(self, trained: Trained) -> R | None:
        """Return this step's result in the run that made the adapter on the volume; None: the step is needed."""
        return None

    def summary(self, result: R) -> str:
        """Return the result as one sentence for the Workspace's condition."""
        raise NotImplementedError

    def finished(self, run: Run, result: R) -> None:
        """Tell the Workspace's author that this step is done."""
        self.report(run, self.done, self.summary(result))

    def execute(self, context: Context) -> Any:
        run = self.this_run(context)
        fail_if_stopped(self, context)
        if run.adapter:
            self.log.info("This run has published its adapter already: nothing to do.")
            return {}
        if run.trained and (known := self.made_before(run.trained)) is not None:
            self.log.info("%s: nothing to do.", kept_adapter.sentence(run.trained))
            return known.to_xcom()
        try:
            self.live_workspace(run)
            self.prepare(run)
            self._use(self.pod_manifest(run, context))
        except StaleWorkspace as stale:
            raise AirflowFailException(str(stale)) from None
        except ClusterError as error:
            if error.transient:
                raise
            raise self._verdict(run, f"{self.task_id}: the API server refused: {error}") from None
        self.report(run, self.pending, f"{self.task_id}: the pod is being created")
        try:
            return super().execute(context)
        except PodRefused as refused:
            raise self._verdict(run, str(refused)) from None

    def _stuck(self, run: Run, context: Context, sentence: str) -> Exception:
        """Return what a pod that cannot start means for this step."""
        return self._verdict(run, sentence)

    def _verdict(self, run: Run, sentence: str) -> AirflowFailException:
        """Tell why this step has failed for good, and return what ends it."""
        self.log.error("%s", sentence)
        self.report(run, self.failed, sentence)
        return AirflowFailException(sentence)

    def _use(self, manifest: dict[str, Any]) -> None:
        """Hand a complete manifest to the provider's operator, which adds its labels."""
        self.pod_template_dict = manifest
        self.namespace = manifest["metadata"].get("namespace")

    def defer(self, *, trigger: BaseTrigger, method_name: str, **kwargs: Any) -> NoReturn:
        """Wait with the fenced trigger in place of the provider's."""
        if self._run is not None and isinstance(trigger, KubernetesPodTrigger):
            arguments = trigger.serialize()[1]
            trigger = WorkloadPodTrigger(
                workspace=self._run.name,
                workspace_uid=self._run.uid,
                generation=self._run.generation,
                lost_seconds=self.lost_seconds,
                pending=self.pending or "",
                working=self.working or "",
                holds_machines=self.holds_machines,
                **arguments,
            )
        super().defer(trigger=trigger, method_name=method_name, **kwargs)

    def invoke_defer_method(self, last_log_time: Any = None, context: Context | None = None) -> None:
        """Move the wait to the triggerer, unless the pod ends at once: then the provider goes on without it."""
        if context is not None:
            self._run = self.this_run(context)
        deadline = time.monotonic() + self.patience
        while self.pod is not None and time.monotonic() < deadline:
            try:
                seen = self.hook.get_pod(self.pod.metadata.name, self.pod.metadata.namespace)
            except ApiException as error:
                self.log.warning("The pod could not be read (%s); the triggerer goes on.", error.reason)
                break
            if seen.status is not None and seen.status.phase in ("Succeeded", "Failed"):
                self.pod = seen
                break
            time.sleep(PATIENT_POLL)
        super().invoke_defer_method(last_log_time=last_log_time, context=context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Come back from the triggerer: read the result, let the provider clean up, and judge."""
        run = self._run = self.this_run(context)
        if event.get("status") == SUPERSEDED:
            self._stop(run, event)
            self.log.error("%s", event["message"])
            raise AirflowFailException(event["message"])
        if why := stopped(self, context):
            self._stop(run, event)
            self.log.error("%s", why)
            raise AirflowFailException(why)
        if event.get("status") == STUCK:
            self._stop(run, event)
            raise self._stuck(run, context, f"{self.task_id}: {event['message']}")
        self._await_api(event)
        failure: Exception | None = None
        try:
            super().trigger_reentry(context, event)
        except TaskDeferred:
            raise
        except Exception as error:  # judged below, with the pod's own words
            failure = error
        if self.pod is None and failure is None:
            failure = AirflowException("the pod was gone before its result could be read")
        try:
            result = self._result(failure, event)
        except Exception as error:
            if isinstance(error, PodGone):
                self._stop_if_stale(run)
            self.log.error("%s", error)
            again = tries_left(context) and not isinstance(error, AirflowFailException)
            self.report(run, self.failed, f"{error}{'; trying again' if again else ''}", again=again)
            raise
        value = result.to_xcom()
        apart = {key: value.pop(key) for key in self.apart if key in value}
        self.log.info("Result: %s", json.dumps(value, sort_keys=True))
        self.finished(run, result)
        for key, told in {**apart, "return_value": value}.items():
            context["ti"].xcom_push(key=key, value=told)
        return value

    def _await_api(self, event: Mapping[str, Any]) -> None:
        """Return when the API server answers. What it is asked for is nothing that a cluster's trouble may end."""
        deadline = time.monotonic() + base.API_AWAY_SECONDS
        while True:
            try:
                self.cluster.find(POD, event["name"], event["namespace"])
                return
            except ClusterError as error:
                if not error.transient or time.monotonic() > deadline:
                    raise
                self.log.warning("The API server is away, waiting for it: %s", error)
            time.sleep(base.API_AWAY_POLL)

    def _stop(self, run: Run, event: Mapping[str, Any]) -> None:
        """Delete the pod, if it still is this run's."""
        live = self.cluster.find(POD, event["name"], event["namespace"])
        metadata = (live or {}).get("metadata") or {}
        if (metadata.get("labels") or {}).get(names.RUN_ID) == run.run_id:
            self.cluster.delete(POD, event["name"], event["namespace"], uid=metadata["uid"])

    def _stop_if_stale(self, run: Run) -> None:
        """Raise the true cause where the pod was deleted because the Workspace has moved on."""
        try:
            self.live_workspace(run)
        except StaleWorkspace as stale:
            self.log.error("%s", stale)
            raise AirflowFailException(str(stale)) from None
        except ClusterError as error:
            self.log.warning("Workspace %s could not be read: %s", run.name, error)

    def _result(self, failure: Exception | None, event: dict[str, Any]) -> R:
        """Return what the pod left, or raise what its end means."""
        ended = self._terminated()
        exit_code = getattr(ended, "exit_code", None)
        left = _parse(getattr(ended, "message", None))
        if exit_code == 0 and failure is not None:
            # What the pod was for is done: to do it again because its pod could not be cleared away would cost GPUs.
            self.log.warning("The pod has done its work; what failed after it: %s", failure)
        if exit_code == 0 or (failure is None and exit_code is None):
            return self.result_type.read(left)
        sentence = left.get("error") or self._cause(ended, failure, event)
        if exit_code in USER_EXIT_CODES:
            raise AirflowFailException(sentence) from None
        if taken := self._taken_away(event):
            raise AirflowException(f"{self.task_id}: the pod was taken away by the cluster: {taken}")
        if self._deleted(event):
            raise PodGone(f"{self.task_id}: the pod was deleted while it worked; not tried again.") from None
        if getattr(ended, "reason", None) == "OOMKilled":
            raise AirflowFailException(f"{self.task_id}: {self.out_of_memory}") from None
        if self._out_of_time():
            raise AirflowFailException(
                f"{self.task_id}: not done within its time (activeDeadlineSeconds of the pod, setting [kaito] "
                "step_timeout_minutes): a server that it waits for may be slow, or the data too much."
            ) from None
        raise AirflowException(f"{sentence} (exit code {exit_code})") from failure

    def _out_of_time(self) -> bool:
        status = self.pod.status if self.pod else None
        return (
            getattr(status, "phase", None) == "Failed"
            and getattr(status, "reason", None) == "DeadlineExceeded"
        )

    def _terminated(self) -> Any:
        statuses = (self.pod.status.container_statuses if self.pod and self.pod.status else None) or []
        named = [one for one in statuses if one.name == self.base_container_name]
        for one in named or statuses[:1]:
            return one.state.terminated if one.state else None
        return None

    def _taken_away(self, event: Mapping[str, Any]) -> str:
        """Return why the cluster took the pod away, "" where it did not: by the pod's own mark, or by its Events.

        Kubelet and pod garbage collection may delete an evicted pod before anybody has seen its end.
        """
        if self.pod is not None:
            if not evicted(self.pod):
                return ""
            said = (self.pod.status.reason, self.pod.status.message)
            return ": ".join(str(part) for part in said if part) or "evicted"
        try:
            if self.cluster.find(POD, event["name"], event["namespace"]) is not None:
                return ""
            events = self.cluster.events(event["namespace"], event["name"])
        except ClusterError as error:
            self.log.warning("The Events of pod %s could not be read: %s", event["name"], error)
            events = []
        sentence = taken_away(events, str(event.get("uid") or ""))
        return sentence or (f"evicted from Node {event.get('node')}" if event.get("evicted") else "")

    def _deleted(self, event: Mapping[str, Any]) -> bool:
        """Whether somebody deleted the pod; an eviction (drain, spot, node loss) is not that and may be tried again."""
        if self.pod is None or self.pod.metadata is None:
            # Not seen is not gone: a pod that is there is taken up by the next try.
            return self.cluster.find(POD, event["name"], event["namespace"]) is None
        return self.pod.metadata.deletion_timestamp is not None and not evicted(self.pod)

    def _cause(self, ended: object, failure: Exception | None, event: dict[str, Any]) -> str:
        if ended is not None:
            message = getattr(ended, "message", None) or getattr(ended, "reason", None) or "no message"
            return f"{self.task_id}: the container ended: {message}"
        sentence = ClusterError.plain(str(event.get("message") or failure or "the pod did not run"))
        return f"{self.task_id}: {sentence}"


def _parse(message: str | None) -> dict[str, Any]:
    try:
        parsed = json.loads(message or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
