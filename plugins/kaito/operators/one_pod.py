"""One pod for a step of a generation, whoever asks for it and how often.

The pod's name is fixed, so that the API server itself refuses a second one. A task that starts again (a retry, a worker
that died, a database that was lost with all its memory of pods) goes on with the pod of its run that works or has ended
unread. The provider's operator would delete a pod that has ended, and train again. Never touches another run's pod
while that works for the same generation.
"""

from __future__ import annotations

import re
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client.exceptions import ApiException

from include.contracts.grace import TUNING_GRACE_SECONDS
from include.workspace.api import names
from kaito.hooks.api import POD, ClusterError, selector
from kaito.hooks.retries import retried
from kaito.triggers.workload import TRY_LABEL, try_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from kubernetes.client import V1Pod

    from kaito.hooks.kubernetes import KaitoClusterHook

PATIENT_POLL = 0.3
ENDED = ("Succeeded", "Failed")
# The longest grace period of our pods, and time to notice.
GONE_SECONDS = TUNING_GRACE_SECONDS + 60.0


class PodRefused(AirflowFailException):
    """The API server would take this pod at no time (quota, limits, pod security): asking again changes nothing."""


class Disposition(Enum):
    """What a pod of a step is to the run that asks for one."""

    #: This run's, and nobody has read its end: go on with it.
    OURS = auto()
    #: Judged by an earlier try, left by an older generation, or ended for another run: it goes.
    USELESS = auto()
    #: On its way out, or at work for another run of this generation: wait.
    IN_THE_WAY = auto()


class OnePodOperator(KubernetesPodOperator):
    """Runs a pod under the name that its manifest gives, or goes on with the one that is there."""

    #: The try that this is, as its pod's label tells it; "" before there is a pod.
    _mine = ""
    if TYPE_CHECKING:

        @property
        def cluster(self) -> KaitoClusterHook:
            raise NotImplementedError

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Context) -> V1Pod:
        """Return this step's pod: the one of this run that works or has ended unread, else a new one.

        :raises AirflowException: another pod of this name, or of an older generation, does not go.
        """
        wanted = pod_request_obj.metadata
        self._mine = str(wanted.labels.get(TRY_LABEL) or "")
        deadline = time.monotonic() + GONE_SECONDS
        while True:
            pods = self._pods_of_this_step(wanted)
            for pod in pods:
                if self._disposition(pod, wanted) is Disposition.OURS:
                    self.log.info("Going on with pod %s, which is %s.", pod.metadata.name, pod.status.phase)
                    self._take_up(pod, wanted)
                    return pod
            if not pods and (made := self._create(pod_request_obj)) is not None:
                return made
            if time.monotonic() > deadline:
                held = ", ".join(f"{p.metadata.name} of run {_run_of(p)}" for p in pods)
                raise AirflowException(
                    f"No pod {wanted.name} could be made in {GONE_SECONDS:.0f} s: "
                    f"{held or 'a pod of that name that is not ours'} is still there."
                )
            time.sleep(PATIENT_POLL)

    def on_kill(self) -> None:
        """Delete the pod of a try that is ended, as the provider does, unless a later try has taken it up."""
        if self.pod is not None and self._is_a_later_trys(self.pod.metadata):
            self.log.info("A later try goes on with pod %s: it stays.", self.pod.metadata.name)
            return
        super().on_kill()

    def _is_a_later_trys(self, pod: V1Pod) -> bool:
        try:
            live = self.client.read_namespaced_pod(pod.name, pod.namespace)
        except ApiException as error:
            self.log.warning("Pod %s could not be looked at: %s", pod.name, error.reason)
            return False
        return self._mine.isdecimal() and try_of(live) > int(self._mine)

    def _take_up(self, pod: V1Pod, wanted: V1Pod) -> None:
        """Mark an earlier try's pod as this try's, so that the wait of a task that was cleared does not delete it."""
        mine = wanted.labels.get(TRY_LABEL)
        if mine is None or pod.metadata.labels.get(TRY_LABEL) == mine:
            return
        change = {"metadata": {"labels": {TRY_LABEL: mine}}}
        try:
            self.client.patch_namespaced_pod(pod.metadata.name, wanted.namespace, change)
        except ApiException as error:
            self.log.warning("Pod %s could not be marked: %s", pod.metadata.name, error.reason)

    @retried
    def _create(self, pod_request_obj: V1Pod) -> V1Pod:
        """Return a new pod, None when there is one of that name (an answer here, so not asked again and again).

        Not through the pod manager: it logs the pod that was refused, and with it a dataset's signed URL.
        """
        try:
            return self.client.create_namespaced_pod(pod_request_obj.metadata.namespace, pod_request_obj)
        except ApiException as error:
            if error.status == 409:
                return None
            refused = ClusterError.from_response(error.status, error.reason, error.body)
            if refused.transient or refused.status == 401:
                raise
            raise PodRefused(
                f"The API server refuses pod {pod_request_obj.metadata.name}: {refused}"
            ) from None

    def _pods_of_this_step(self, wanted: V1Pod) -> list[V1Pod]:
        """Return the pods that this step has already; those that nobody wants are told to go."""
        own = {key: wanted.labels[key] for key in (names.WORKSPACE, names.COMPONENT)}
        result = self._listed(wanted.namespace, selector(own))
        for pod in result:
            if self._disposition(pod, wanted) is Disposition.USELESS:
                self.log.info("Pod %s is of no use any more: deleting it.", pod.metadata.name)
                self.cluster.delete(POD, pod.metadata.name, wanted.namespace, uid=pod.metadata.uid)
        return result

    @retried
    def _listed(self, namespace: str, labels: str) -> list[V1Pod]:
        return list(self.client.list_namespaced_pod(namespace=namespace, label_selector=labels).items)

    def _disposition(self, pod: V1Pod, wanted: V1Pod) -> Disposition:
        """Judge a pod of this step; see :class:`Disposition`."""
        if pod.metadata.deletion_timestamp is not None:
            return Disposition.IN_THE_WAY
        if pod.metadata.name != wanted.name:
            # The fence was passed a moment ago. Whatever is newer than this run is not this run's to judge.
            older = _generation(pod.metadata.name) < _generation(wanted.name)
            return Disposition.USELESS if older else Disposition.IN_THE_WAY
        judged = (pod.metadata.labels or {}).get(self.POD_CHECKED_KEY) == "True"
        if _run_of(pod) == wanted.labels.get(names.RUN_ID):
            return Disposition.USELESS if judged else Disposition.OURS
        return Disposition.USELESS if pod.status.phase in ENDED else Disposition.IN_THE_WAY


def _run_of(pod: V1Pod) -> str | None:
    return (pod.metadata.labels or {}).get(names.RUN_ID)


def _generation(pod_name: str) -> int:
    match = re.search(r"-g(\d+)-[a-z]+$", pod_name)
    return int(match[1]) if match else 0
