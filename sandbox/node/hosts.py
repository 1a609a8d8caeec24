"""The pods' /etc/hosts: cluster DNS without a DNS server.

Each pod gets its own file, bound read-only into its containers and rewritten in place when Services or pods change,
so that a running container sees new names. Names below `svc.cluster.local` come only from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

Object = dict[str, Any]
DOMAIN = "svc.cluster.local"


def service_lines(services: Iterable[Object], namespace: str) -> list[str]:
    """One line per Service with a cluster IP; short names for those of the pod's own namespace."""
    lines = []
    for service in services:
        ip, metadata = service["spec"].get("clusterIP"), service["metadata"]
        if ip and ip != "None":
            lines.append(f"{ip}\t{_names(metadata['name'], metadata['namespace'], namespace)}")
    return lines


def _names(name: str, their_namespace: str, own_namespace: str) -> str:
    qualified = f"{name}.{their_namespace}"
    names = [f"{qualified}.{DOMAIN}", f"{qualified}.svc", qualified]
    if their_namespace == own_namespace:
        names.append(name)
    return " ".join(names)


def headless_lines(services: Iterable[Object], pods: Iterable[Object], namespace: str) -> list[str]:
    """Headless Services: `<hostname>.<service>` for pods with that subdomain, and the Service's own name."""
    pods = list(pods)
    lines = []
    for service in services:
        spec, metadata = service["spec"], service["metadata"]
        if spec.get("clusterIP") != "None" or not spec.get("selector"):
            continue
        for pod in pods:
            labels, ip = pod["metadata"].get("labels") or {}, (pod.get("status") or {}).get("podIP")
            same = pod["metadata"]["namespace"] == metadata["namespace"]
            if not ip or not same or any(labels.get(k) != v for k, v in spec["selector"].items()):
                continue
            lines.append(f"{ip}\t{_names(metadata['name'], metadata['namespace'], namespace)}")
            if pod["spec"].get("hostname") and pod["spec"].get("subdomain") == metadata["name"]:
                name = f"{pod['spec']['hostname']}.{metadata['name']}"
                lines.append(f"{ip}\t{_names(name, metadata['namespace'], namespace)}")
    return lines


def hosts_text(pod: Object, address: str, services: list[Object], pods: list[Object]) -> str:
    """The whole file of one pod; the machine's own entries come first."""
    try:
        machine = Path("/etc/hosts").read_text().rstrip()
    except OSError:
        machine = "127.0.0.1\tlocalhost"
    spec, metadata = pod["spec"], pod["metadata"]
    hostname = spec.get("hostname") or metadata["name"]
    own = f"{address}\t{hostname}"
    if spec.get("subdomain"):
        full = f"{hostname}.{spec['subdomain']}.{metadata['namespace']}"
        own = f"{address}\t{full}.{DOMAIN} {hostname}"
    aliases = [f"{a['ip']}\t{' '.join(a.get('hostnames') or [])}" for a in spec.get("hostAliases") or []]
    namespace = metadata["namespace"]
    lines = [
        machine,
        "# Written by the sandbox for this pod.",
        own,
        *aliases,
        *service_lines(services, namespace),
        *headless_lines(services, pods, namespace),
    ]
    return "\n".join(lines) + "\n"
