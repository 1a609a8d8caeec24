"""The adapters of a live service: what its pod is asked for, and whether it answers with it.

A sidecar of the pod does the work (include/workloads/adapter/follow.py); here its list is written, the kubelet is made
to look at once, and its word is waited for.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from include import manifests
from include.manifests.serving_access import selector
from include.manifests.serving_adapters import WANTED_FILE
from include.workspace.api import names
from kaito.hooks.api import CONFIG_MAP, POD, ClusterError

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import KaitoClusterHook
    from kaito.tasks.base import Run

log = logging.getLogger(__name__)

PATH, MODELS = "kaito/adapters", "v1/models"
SECONDS, POLL = 300.0, 0.5
SERVING, LOADING, FAILED = "Serving", "Loading", "Failed"

Adapters = Sequence[Mapping[str, Any]]


class NotServed(Exception):
    """An adapter cannot be served; the text says which and why."""


def write(cluster: KaitoClusterHook, run: Run, adapters: Adapters, followed: bool) -> None:
    """Write the list that the sidecar follows, or take it away where there is no sidecar."""
    if followed:
        cluster.apply(CONFIG_MAP, manifests.wanted_config_map(run.workspace, adapters))
        return
    name = names.adapters_config_map(run.workspace.to_dict())
    if cluster.find(CONFIG_MAP, name, run.namespace):
        cluster.delete(CONFIG_MAP, name, run.namespace)


def look_now(cluster: KaitoClusterHook, run: Run, adapters: Adapters) -> None:
    """Make the kubelet bring the list into the pods now."""
    for pod in cluster.list(POD, run.namespace, selector(run.workspace)):
        marked = manifests.look_now(pod, adapters)
        if marked is None:
            continue
        try:
            cluster.apply(POD, marked)
        except ClusterError as error:
            name = pod["metadata"]["name"]
            log.warning("Pod %s could not be marked, so it looks within a minute: %s", name, error)


def wanted(cluster: KaitoClusterHook, run: Run) -> dict[str, str]:
    """The images that the sidecar is asked for, by the adapter's name; empty where there is no sidecar."""
    live = cluster.find(CONFIG_MAP, names.adapters_config_map(run.workspace.to_dict()), run.namespace)
    text = ((live or {}).get("data") or {}).get(WANTED_FILE) or '{"adapters": []}'
    return {str(one["name"]): str(one["image"]) for one in json.loads(text)["adapters"]}


def wait(
    ask: Callable[[], Any],
    images: Mapping[str, str],
    *,
    seconds: float = SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, str]]:
    """Wait until every wanted image is served; returns `status.adapters`.

    :param ask: what the gateway says at /kaito/adapters.
    Raises NotServed when one cannot be, or is not within `seconds`.
    """
    deadline = clock() + seconds
    while True:
        result = entries(ask(), images)
        if all(one["state"] == SERVING for one in result):
            return result
        bad = next((one for one in result if one["state"] == FAILED), None)
        if bad is None and clock() >= deadline:
            bad = next(one for one in result if one["state"] != SERVING)
            bad = {**bad, "message": bad.get("message") or f"it is not served after {seconds:.0f} s"}
        if bad is not None:
            still = f"; {bad['digest']} still answers" if bad["digest"] else ""
            raise NotServed(f"Adapter {bad['name']}: {bad.get('message') or 'it cannot be served'}{still}")
        sleep(POLL)


def models(said: object) -> list[str]:
    """The names of the models that a service lists, [] where it lists none.

    :param said: what the service says at /v1/models, which is the engine's own word.
    """
    data = said.get("data") if isinstance(said, Mapping) else None
    return [str(one["id"]) for one in data or () if isinstance(one, Mapping) and one.get("id")]


def check_listed(said: object, adapters: Iterable[str]) -> list[str]:
    """The models that a service lists. Raises NotServed where it lists none, or one of these adapters is not there.

    :param said: as `models` takes it.
    """
    listed = models(said)
    if not listed:
        raise NotServed("it lists no model at /v1/models")
    if absent := [name for name in adapters if name not in listed]:
        raise NotServed(f"it lists {', '.join(listed)} at /v1/models, and not {', '.join(absent)}")
    return listed


def entries(said: object, images: Mapping[str, str]) -> list[dict[str, str]]:
    """`status.adapters` as the gateway's word gives them."""
    content = said if isinstance(said, Mapping) else {}
    served, pending = _mapping(content.get("adapters")), _mapping(content.get("pending"))
    return [
        _entry(name, image, _mapping(served.get(name)), _mapping(pending.get(name)))
        for name, image in sorted(images.items())
    ]


def _entry(name: str, image: str, now: Mapping[str, Any], late: Mapping[str, Any]) -> dict[str, str]:
    digest = str(now.get("digest") or "")
    if now.get("image") == image:
        return {"name": name, "digest": digest, "state": SERVING, "since": str(now.get("since") or "")}
    own = late.get("image") == image
    result = {"name": name, "digest": digest, "state": str(late.get("state")) if own else LOADING}
    result |= {key: str(late[key]) for key in ("since", "message") if own and late.get(key)}
    return result


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
