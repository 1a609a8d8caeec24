"""`kubectl get pods`: the STATUS and RESTARTS columns follow kubernetes/pkg/printers/internalversion.printPod."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sandbox.api.http.printing.columns.parts import (
    Cells,
    Columns,
    age,
    human_duration,
    name,
)
from sandbox.api.meta import dig, parsed_time

Json = dict[str, Any]


def _condition(pod: Json, type_: str) -> bool:
    conditions = dig(pod, "status", "conditions") or ()
    return any(c.get("type") == type_ and c.get("status") == "True" for c in conditions)


def _ended(terminated: Json) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _init_reason(pod: Json) -> str:
    """Why a pod is still initialising; \"\" when it is not."""
    specs = {c["name"]: c for c in dig(pod, "spec", "initContainers") or ()}
    for index, status in enumerate(dig(pod, "status", "initContainerStatuses") or ()):
        state = status.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and not terminated.get("exitCode"):
            continue
        sidecar = specs.get(status["name"], {}).get("restartPolicy") == "Always"
        if sidecar and status.get("started"):
            continue
        if terminated is not None:
            return f"Init:{_ended(terminated)}"
        if waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(specs)}"
    return ""


def _main_reason(pod: Json, reason: str) -> str:
    running = False
    for status in reversed(dig(pod, "status", "containerStatuses") or []):
        state = status.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason"):
            reason = waiting["reason"]
        elif terminated is not None:
            reason = _ended(terminated)
        elif status.get("ready") and state.get("running") is not None:
            running = True
    if reason == "Completed" and running:
        return "Running" if _condition(pod, "Ready") else "NotReady"
    return reason


def status_text(pod: Json) -> str:
    status = pod.get("status") or {}
    phase = status.get("phase") or "Unknown"
    reason = status.get("reason") or phase
    initialising = _init_reason(pod)
    starting = initialising and not _condition(pod, "Initialized")
    reason = initialising if starting else _main_reason(pod, reason)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if phase not in ("Succeeded", "Failed"):
            return "Terminating"
    return str(reason)


def _restarts(pod: Json) -> str:
    statuses = list(dig(pod, "status", "containerStatuses") or ())
    if _init_reason(pod) and not _condition(pod, "Initialized"):
        statuses = list(dig(pod, "status", "initContainerStatuses") or ())
    count = sum(status.get("restartCount") or 0 for status in statuses)
    ends = [dig(status, "lastState", "terminated", "finishedAt") for status in statuses]
    moments = [parsed_time(end) for end in ends if end]
    if not count or not moments:
        return str(count)
    return f"{count} ({human_duration(datetime.now(UTC) - max(moments))} ago)"


def _ready(pod: Json) -> str:
    statuses = dig(pod, "status", "containerStatuses") or ()
    ready = sum(bool(s.get("ready") and dig(s, "state", "running") is not None) for s in statuses)
    return f"{ready}/{len(dig(pod, 'spec', 'containers') or ())}"


def _cells(pod: Json) -> Cells:
    gates = dig(pod, "spec", "readinessGates") or ()
    true_gates = sum(_condition(pod, gate.get("conditionType", "")) for gate in gates)
    return [
        name(pod),
        _ready(pod),
        status_text(pod),
        _restarts(pod),
        age(pod),
        dig(pod, "status", "podIP") or "<none>",
        dig(pod, "spec", "nodeName") or "<none>",
        dig(pod, "status", "nominatedNodeName") or "<none>",
        f"{true_gates}/{len(gates)}" if gates else "<none>",
    ]


def _completed(pod: Json) -> str:
    phase = dig(pod, "status", "phase")
    return {"Succeeded": "Succeeded", "Failed": "Failed"}.get(phase, "")


PODS = Columns(
    ("Name", "Ready", "Status", "Restarts", "Age", "*IP", "*Node", "*Nominated Node", "*Readiness Gates"),
    _cells,
    completed=_completed,
)
