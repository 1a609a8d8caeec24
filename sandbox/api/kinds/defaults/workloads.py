"""Defaults of the workload kinds: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs and CronJobs."""

from __future__ import annotations

from typing import Any

from sandbox.api.kinds.defaults.pods import pod_spec
from sandbox.api.meta import metadata

Json = dict[str, Any]

JOB_UID = "batch.kubernetes.io/controller-uid"


def _template(spec: Json) -> None:
    template = spec.setdefault("template", {})
    pod_spec(template.setdefault("spec", {}))


def _fill(target: Json, **values: Any) -> None:
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = value


def _rolling(strategy: Json, **values: Any) -> None:
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy.setdefault("rollingUpdate", {}), **values)


def deployment(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1, strategy={}, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    _rolling(spec["strategy"], maxUnavailable="25%", maxSurge="25%")
    _template(spec)


def replica_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1)
    _template(spec)


def stateful_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _fill(
        spec,
        replicas=1,
        podManagementPolicy="OrderedReady",
        revisionHistoryLimit=10,
        updateStrategy={},
        persistentVolumeClaimRetentionPolicy={},
    )
    _rolling(spec["updateStrategy"], partition=0)
    _fill(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
    _template(spec)
    for claim in spec.get("volumeClaimTemplates") or ():
        _fill(claim, apiVersion="v1", kind="PersistentVolumeClaim", status={"phase": "Pending"})
        _fill(claim.setdefault("spec", {}), volumeMode="Filesystem")


def daemon_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, updateStrategy={}, revisionHistoryLimit=10)
    _rolling(spec["updateStrategy"], maxUnavailable=1, maxSurge=0)
    _template(spec)


def job_spec(spec: Json) -> None:
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    _fill(
        spec,
        parallelism=1,
        backoffLimit=6,
        completionMode="NonIndexed",
        suspend=False,
        podReplacementPolicy="TerminatingOrFailed",
        manualSelector=False,
    )
    _template(spec)


def job(obj: Json) -> None:
    job_spec(obj.setdefault("spec", {}))


def admit_job(obj: Json) -> None:
    """A new job selects its pods by its own uid."""
    spec, meta = obj["spec"], metadata(obj)
    if spec.get("manualSelector"):
        return
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = meta["uid"]
        labels[f"{prefix}job-name"] = meta["name"]
    spec.setdefault("selector", {}).setdefault("matchLabels", {})[JOB_UID] = meta["uid"]


def cron_job(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _fill(
        spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1
    )
    job_spec(spec.setdefault("jobTemplate", {}).setdefault("spec", {}))
