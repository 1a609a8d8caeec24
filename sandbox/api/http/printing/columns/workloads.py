"""`kubectl get` of deployments, replica sets, stateful sets, daemon sets, jobs and cron jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sandbox.api.http.printing.columns.parts import (
    Cells,
    Columns,
    age,
    containers_of,
    human_duration,
    labels_text,
    name,
    selector_text,
    since,
)
from sandbox.api.meta import dig, parsed_time

Json = dict[str, Any]


def _template(obj: Json) -> Cells:
    return containers_of(dig(obj, "spec", "template", "spec"))


def _status(obj: Json, field: str) -> int:
    return int(dig(obj, "status", field) or 0)


def _wanted(obj: Json) -> int:
    return int(dig(obj, "spec", "replicas") or 0)


def _deployment(obj: Json) -> Cells:
    return [
        name(obj),
        f"{_status(obj, 'readyReplicas')}/{_wanted(obj)}",
        _status(obj, "updatedReplicas"),
        _status(obj, "availableReplicas"),
        age(obj),
        *_template(obj),
        selector_text(dig(obj, "spec", "selector")),
    ]


def _replica_set(obj: Json) -> Cells:
    return [
        name(obj),
        _wanted(obj),
        _status(obj, "replicas"),
        _status(obj, "readyReplicas"),
        age(obj),
        *_template(obj),
        selector_text(dig(obj, "spec", "selector")),
    ]


def _stateful_set(obj: Json) -> Cells:
    return [name(obj), f"{_status(obj, 'readyReplicas')}/{_wanted(obj)}", age(obj), *_template(obj)]


def _daemon_set(obj: Json) -> Cells:
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
    return [
        name(obj),
        *(_status(obj, count) for count in counts),
        _status(obj, "numberAvailable"),
        labels_text(dig(obj, "spec", "template", "spec", "nodeSelector")),
        age(obj),
        *_template(obj),
        selector_text(dig(obj, "spec", "selector")),
    ]


def _job_status(obj: Json) -> str:
    true = {c["type"] for c in dig(obj, "status", "conditions") or () if c.get("status") == "True"}
    for type_, text in (("Complete", "Complete"), ("Failed", "Failed")):
        if type_ in true:
            return text
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for type_, text in (("Suspended", "Suspended"), ("FailureTarget", "FailureTarget")):
        if type_ in true:
            return text
    return "SuccessCriteriaMet" if "SuccessCriteriaMet" in true else "Running"


def _job(obj: Json) -> Cells:
    completions, done = dig(obj, "spec", "completions"), _status(obj, "succeeded")
    parallelism = dig(obj, "spec", "parallelism") or 0
    if completions is not None:
        progress = f"{done}/{completions}"
    else:
        progress = f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"
    return [
        name(obj),
        _job_status(obj),
        progress,
        _duration(obj),
        age(obj),
        *_template(obj),
        selector_text(dig(obj, "spec", "selector")),
    ]


def _duration(obj: Json) -> str:
    start, end = dig(obj, "status", "startTime"), dig(obj, "status", "completionTime")
    if not start:
        return ""
    return human_duration((parsed_time(end) if end else datetime.now(UTC)) - parsed_time(start))


def _cron_job(obj: Json) -> Cells:
    last = dig(obj, "status", "lastScheduleTime")
    return [
        name(obj),
        dig(obj, "spec", "schedule"),
        dig(obj, "spec", "timeZone") or "<none>",
        "True" if dig(obj, "spec", "suspend") else "False",
        len(dig(obj, "status", "active") or ()),
        since(last) if last else "<none>",
        age(obj),
        *containers_of(dig(obj, "spec", "jobTemplate", "spec", "template", "spec")),
        selector_text(dig(obj, "spec", "jobTemplate", "spec", "selector")),
    ]


_MORE = ("*Containers", "*Images", "*Selector")

TABLES: dict[str, Columns] = {
    "deployments.apps": Columns(
        ("Name", "Ready", "Up-to-date", "Available", "Age", *_MORE),
        _deployment,
        frozenset({"Up-to-date", "Available"}),
    ),
    "replicasets.apps": Columns(
        ("Name", "Desired", "Current", "Ready", "Age", *_MORE),
        _replica_set,
        frozenset({"Desired", "Current", "Ready"}),
    ),
    "statefulsets.apps": Columns(("Name", "Ready", "Age", "*Containers", "*Images"), _stateful_set),
    "daemonsets.apps": Columns(
        (
            "Name",
            "Desired",
            "Current",
            "Ready",
            "Up-to-date",
            "Available",
            "Node Selector",
            "Age",
            *_MORE,
        ),
        _daemon_set,
        frozenset({"Desired", "Current", "Ready", "Up-to-date", "Available"}),
    ),
    "jobs.batch": Columns(("Name", "Status", "Completions", "Duration", "Age", *_MORE), _job),
    "cronjobs.batch": Columns(
        ("Name", "Schedule", "Timezone", "Suspend", "Active", "Last Schedule", "Age", *_MORE),
        _cron_job,
        frozenset({"Active"}),
    ),
}
