"""Defaults of pods and pod templates, as k8s.io/kubernetes/pkg/apis/core/v1/defaults.go sets them."""

from __future__ import annotations

from typing import Any

from sandbox.quantities import qos_class

Json = dict[str, Any]

_TOLERATED = (
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
)  # DefaultTolerationSeconds admission
_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_MODE = 0o644


def pod(obj: Json) -> None:
    spec = obj.get("spec")
    if isinstance(spec, dict):
        if spec.get("enableServiceLinks") is None:
            spec["enableServiceLinks"] = True
        pod_spec(spec)


def pod_spec(spec: Json) -> None:
    """In place; the same for pods and for templates."""
    for name, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("securityContext", {}),
        ("schedulerName", "default-scheduler"),
    ):
        if spec.get(name) is None:
            spec[name] = value.copy() if isinstance(value, dict) else value
    _service_account(spec)
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        _container(container, bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        _volume(volume)


def _service_account(spec: Json) -> None:
    """serviceAccount is the old name of serviceAccountName; each follows the other."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name


def _container(container: Json, host_network: bool) -> None:
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", _pull_policy(container.get("image") or ""))
    _requests_from_limits(container["resources"])
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe := container.get(name):
            _probe(probe)
    for handler in (container.get("lifecycle") or {}).values():
        if isinstance(handler, dict) and handler.get("httpGet"):
            _http(handler["httpGet"])
    for variable in container.get("env") or ():
        source = (variable.get("valueFrom") or {}).get("fieldRef")
        if source:
            source.setdefault("apiVersion", "v1")


def _pull_policy(image: str) -> str:
    """Latest or untagged images are always pulled, pinned ones when they are missing."""
    name = image.rsplit("/", 1)[-1]
    return "IfNotPresent" if "@" in name or (":" in name and not name.endswith(":latest")) else "Always"


def _requests_from_limits(resources: Json) -> None:
    for name, limit in (resources.get("limits") or {}).items():
        resources.setdefault("requests", {}).setdefault(name, limit)


def _probe(probe: Json) -> None:
    for name, value in _PROBE.items():
        if not probe.get(name):
            probe[name] = value
    if probe.get("httpGet"):
        _http(probe["httpGet"])
    if probe.get("grpc"):
        probe["grpc"].setdefault("service", "")


def _http(get: Json) -> None:
    if not get.get("path"):
        get["path"] = "/"
    if not get.get("scheme"):
        get["scheme"] = "HTTP"


def _volume(volume: Json) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for name in ("configMap", "secret", "downwardAPI", "projected"):
        if source := volume.get(name):
            source.setdefault("defaultMode", _MODE)
    if host := volume.get("hostPath"):
        host.setdefault("type", "")
    for projection in (volume.get("projected") or {}).get("sources") or ():
        if token := projection.get("serviceAccountToken"):
            token.setdefault("expirationSeconds", 3600)
    items = list((volume.get("downwardAPI") or {}).get("items") or ())
    for projection in (volume.get("projected") or {}).get("sources") or ():
        items += (projection.get("downwardAPI") or {}).get("items") or ()
    for item in items:
        if item.get("fieldRef"):
            item["fieldRef"].setdefault("apiVersion", "v1")


def admit_pod(obj: Json) -> None:
    """What the admission plug-ins add to a new pod, but not to templates."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.setdefault("tolerations", [])
    for key in _TOLERATED:
        if not any(_tolerates_no_execute(toleration, key) for toleration in tolerations):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )
    obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}


def _tolerates_no_execute(toleration: Json, key: str) -> bool:
    return toleration.get("key") in (key, None, "") and toleration.get("effect") in ("NoExecute", None, "")
