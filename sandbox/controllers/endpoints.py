"""The endpoints controller: which pod addresses stand behind a Service, as Endpoints and as an EndpointSlice.

It must never write the endpoints of a Service without a selector: those belong to a person.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sandbox.api.cluster import ApiError
from sandbox.controllers.ownership import is_finished, is_ready, is_terminating, owner_reference
from sandbox.controllers.reconciler import CONFLICT, Controller, Feeds, Key, Object, key_of, read

SLICES = "endpointslices.discovery.k8s.io"


def target_port(pod: Object, port: Object) -> int | None:
    """The number behind a Service port: its own, or that of the container port with the name `targetPort`."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    if str(target).isdigit():
        return int(target)
    for container in pod["spec"].get("containers") or []:
        for candidate in container.get("ports") or []:
            if candidate.get("name") == target and candidate.get("protocol", "TCP") == port.get(
                "protocol", "TCP"
            ):
                return int(candidate["containerPort"])
    return None


def stands_behind(service: Object, pod: Object) -> bool:
    """Whether a pod is an endpoint (ready or not) of a Service: selected, alive and with an address."""
    selector = service["spec"].get("selector") or {}
    labels = pod["metadata"].get("labels") or {}
    selected = all(labels.get(key) == value for key, value in selector.items())
    return selected and bool((pod.get("status") or {}).get("podIP")) and not is_finished(pod)


def counts_as_ready(service: Object, pod: Object) -> bool:
    if service["spec"].get("publishNotReadyAddresses"):
        return True
    return is_ready(pod) and not is_terminating(pod)


def _address(service: Object, pod: Object) -> Object:
    address: Object = {
        "ip": pod["status"]["podIP"],
        "nodeName": pod["spec"].get("nodeName"),
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    }
    spec = pod["spec"]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        address["hostname"] = spec["hostname"]
    return address


def _ports(service: Object, pod: Object) -> list[Object]:
    ports = []
    for port in service["spec"].get("ports") or []:
        number = target_port(pod, port)
        if number is not None:
            named = {"name": port["name"]} if port.get("name") else {}
            ports.append({**named, "port": number, "protocol": port.get("protocol", "TCP")})
    return ports


def build_subsets(service: Object, pods: list[Object]) -> list[Object]:
    """The Endpoints' subsets: pods with the same port numbers share one."""
    headless = not service["spec"].get("ports")
    groups: dict[str, Object] = {}
    for pod in sorted(pods, key=lambda p: str(p["status"]["podIP"])):
        ports = _ports(service, pod)
        if not ports and not headless:
            continue
        group = groups.setdefault(repr(ports), {"addresses": [], "notReadyAddresses": [], "ports": ports})
        ready = counts_as_ready(service, pod)
        group["addresses" if ready else "notReadyAddresses"].append(_address(service, pod))
    return [{name: value for name, value in group.items() if value} for group in groups.values()]


def build_slice(service: Object, pods: list[Object]) -> Object:
    """One EndpointSlice for a Service (the sandbox's Services are small), its ports as the first pod has them."""
    namespace, name = key_of(service)
    endpoints = []
    for pod in sorted(pods, key=lambda p: str(p["status"]["podIP"])):
        address = _address(service, pod)
        endpoint = {
            "addresses": [address["ip"]],
            "conditions": {
                "ready": counts_as_ready(service, pod),
                "serving": is_ready(pod),
                "terminating": is_terminating(pod),
            },
            "targetRef": address["targetRef"],
        }
        endpoint |= {k: address[k] for k in ("nodeName", "hostname") if address.get(k)}
        endpoints.append(endpoint)
    ports = _ports(service, pods[0]) if pods else []
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-sandbox",
            "namespace": namespace,
            "labels": {
                **(service["metadata"].get("labels") or {}),
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                **(
                    {"service.kubernetes.io/headless": ""}
                    if service["spec"].get("clusterIP") == "None"
                    else {}
                ),
            },
            "ownerReferences": [owner_reference(service, "v1", "Service")],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", **port} for port in ports],
    }


class EndpointsController(Controller):
    resource: ClassVar[str] = "services"

    def __init__(self, cluster: Any, feeds: Feeds) -> None:
        super().__init__(cluster, feeds)
        feeds.subscribe("pods", self._pod_changed)

    def _pod_changed(self, _event: str, pod: Object) -> None:
        labels = pod["metadata"].get("labels") or {}
        for service in self.feeds.known("services"):
            selector = service["spec"].get("selector")
            same = service["metadata"]["namespace"] == pod["metadata"]["namespace"]
            if same and selector and all(labels.get(key) == value for key, value in selector.items()):
                self.enqueue(key_of(service))

    async def reconcile(self, key: Key) -> float | None:
        service = await read(self.cluster, "services", key)
        if service is None:
            await self._forget(key)
            return None
        if not service["spec"].get("selector"):
            return None
        pods, _ = await self.cluster.list("pods", key[0])
        behind = [pod for pod in pods if stands_behind(service, pod)]
        labels = dict(service["metadata"].get("labels") or {})
        if service["spec"].get("clusterIP") == "None":
            labels["service.kubernetes.io/headless"] = ""
        endpoints = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": key[1], "namespace": key[0], "labels": labels},
            "subsets": build_subsets(service, behind),
        }
        await self._apply("endpoints", endpoints, ("subsets",))
        await self._apply(SLICES, build_slice(service, behind), ("endpoints", "ports"))
        return None

    async def _apply(self, resource: str, wanted: Object, fields: tuple[str, ...]) -> None:
        present = await read(self.cluster, resource, key_of(wanted))
        if present is None:
            await self.cluster.create(resource, wanted, wanted["metadata"]["namespace"])
        elif any((present.get(field) or []) != wanted[field] for field in fields):
            await self.cluster.update(resource, present | {field: wanted[field] for field in fields})

    async def _forget(self, key: Key) -> None:
        """Endpoints have no owner reference, so they go by name; the slice is collected through its owner."""
        try:
            await self.cluster.delete("endpoints", key[1], key[0])
        except ApiError as error:
            if error.code not in (404, CONFLICT):
                raise
