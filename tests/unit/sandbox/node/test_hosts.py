"""Cluster DNS names in a pod's /etc/hosts."""

from __future__ import annotations

from sandbox.node.hosts import hosts_text


def service(name, ip, namespace="default", **spec):
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, **spec}}


def lookup(text: str) -> dict[str, list[str]]:
    """Every name with its addresses, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            found.setdefault(name, []).append(address)
    return found


def test_services_have_all_their_names(pod):
    names = lookup(hosts_text(pod, "127.64.0.7", [service("web", "127.96.0.9")], []))
    for name in ("web", "web.default", "web.default.svc", "web.default.svc.cluster.local"):
        assert names[name] == ["127.96.0.9"]


def test_short_names_are_for_the_own_namespace_only(pod):
    names = lookup(hosts_text(pod, "127.64.0.7", [service("web", "127.96.0.9", namespace="other")], []))
    assert "web" not in names
    assert names["web.other"] == names["web.other.svc.cluster.local"] == ["127.96.0.9"]


def test_pods_of_a_headless_service_have_names_of_their_own(pod):
    headless = service("ws-headless", "None", selector={"app": "ws"})
    peer = {
        "metadata": {"name": "ws-1", "namespace": "default", "labels": {"app": "ws"}},
        "spec": {"hostname": "ws-1", "subdomain": "ws-headless"},
        "status": {"podIP": "127.64.0.8"},
    }
    stranger = {**peer, "metadata": {**peer["metadata"], "labels": {}}, "status": {"podIP": "127.64.0.9"}}
    waiting = {**peer, "status": {}}
    names = lookup(hosts_text(pod, "127.64.0.7", [headless], [peer, stranger, waiting]))
    assert names["ws-1.ws-headless.default.svc.cluster.local"] == ["127.64.0.8"]
    assert names["ws-1.ws-headless"] == names["ws-headless"] == ["127.64.0.8"]


def test_the_pod_knows_itself_and_its_aliases(pod):
    pod["spec"] |= {
        "hostname": "ws-0",
        "subdomain": "ws-headless",
        "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["mirror", "mirror.local"]}],
    }
    names = lookup(hosts_text(pod, "127.64.0.7", [], []))
    assert names["ws-0"] == names["ws-0.ws-headless.default.svc.cluster.local"] == ["127.64.0.7"]
    assert names["mirror.local"] == ["10.1.1.1"]
    assert "127.0.0.1" in names["localhost"]
