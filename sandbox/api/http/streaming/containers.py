"""Which container of a pod a request means, and what its status says; in the kubelet's words."""

from __future__ import annotations

from typing import Any

from sandbox.api.errors import bad_request
from sandbox.api.meta import dig

Json = dict[str, Any]

_WAITING = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


def chosen(pod: Json, wanted: str | None) -> str:
    """The container's name; raises ApiError (400) when it is unknown or must be named."""
    name = pod["metadata"]["name"]
    main = [c["name"] for c in dig(pod, "spec", "containers") or ()]
    every = [
        c["name"]
        for part in ("initContainers", "containers", "ephemeralContainers")
        for c in dig(pod, "spec", part) or ()
    ]
    if wanted:
        if wanted not in every:
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(main) == 1:
        return str(main[0])
    message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(main)}]"
    init = [c["name"] for c in dig(pod, "spec", "initContainers") or ()]
    if init:
        message += f" or one of the init containers: [{' '.join(init)}]"
    raise bad_request(message)


def status_of(pod: Json, container: str) -> Json:
    """The container's status; {} when there is none yet."""
    for part in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for status in dig(pod, "status", part) or ():
            if status["name"] == container:
                return status  # type: ignore[no-any-return]
    return {}


def log_run(pod: Json, container: str, previous: bool) -> int:
    """Which run's log is meant (the restart count); raises ApiError (400) when there is none."""
    name, status = pod["metadata"]["name"], status_of(pod, container)
    count = int(status.get("restartCount") or 0)
    if previous:
        if not dig(status, "lastState", "terminated"):
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        return count - 1
    state = status.get("state") or {}
    if "running" in state or "terminated" in state:
        return count
    if dig(status, "lastState", "terminated"):
        return count if count == 0 else count - 1 if "waiting" not in state else count
    reason = dig(state, "waiting", "reason") or "ContainerCreating"
    raise bad_request(
        f'container "{container}" in pod "{name}" is waiting to start: {_WAITING.get(reason, reason)}'
    )


def has_ended(pod: Json | None, container: str, run: int) -> bool:
    """Whether that run of the container is over, or its pod gone."""
    if pod is None:
        return True
    status = status_of(pod, container)
    if int(status.get("restartCount") or 0) > run:
        return True
    return "terminated" in (status.get("state") or {}) or dig(pod, "status", "phase") in (
        "Succeeded",
        "Failed",
    )
