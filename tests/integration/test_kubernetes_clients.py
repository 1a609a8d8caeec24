"""Both official Python clients against the sandbox's API server."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.api_server import POD, Sandbox, answer_hello
from tests.support.api_server import served_sandbox as served_sandbox

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def _sync_round(kubeconfig: str) -> list[str]:
    from kubernetes import client, config, watch

    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    spec = {"containers": [{"name": "c", "image": "busybox"}]}
    api.create_namespaced_pod("default", {"metadata": {"name": "py", "labels": {"a": "b"}}, "spec": spec})
    found = api.list_namespaced_pod("default", label_selector="a in (b,c)", limit=1)
    assert [pod.metadata.name for pod in found.items] == ["py"]
    seen = []
    watcher = watch.Watch()
    api.patch_namespaced_pod("py", "default", {"metadata": {"labels": {"x": "y"}}})
    api.delete_namespaced_pod("py", "default")
    version = found.metadata.resource_version
    for event in watcher.stream(
        api.list_namespaced_pod, "default", resource_version=version, timeout_seconds=2
    ):
        seen.append(f"{event['type']} {event['object'].metadata.name}")
    try:
        api.read_namespaced_pod("py", "default")
    except client.ApiException as error:
        seen.append(f"{error.status} {json.loads(error.body)['reason']}")
    return seen


async def test_the_official_sync_client(sandbox: Sandbox) -> None:
    seen = await asyncio.to_thread(_sync_round, str(sandbox.kubeconfig))
    assert seen == ["MODIFIED py", "DELETED py", "404 NotFound"]


async def test_the_official_async_client(sandbox: Sandbox) -> None:
    from kubernetes_asyncio import client, config, watch

    await config.load_kube_config(str(sandbox.kubeconfig))
    async with client.ApiClient() as connection:
        api = client.CoreV1Api(connection)
        spec = {"containers": [{"name": "c", "image": "busybox"}]}
        await api.create_namespaced_pod("default", {"metadata": {"generateName": "py-"}, "spec": spec})
        pod = (await api.list_namespaced_pod("default")).items[0]
        await sandbox.run_pod(pod.metadata.name, logs="hello")
        assert await api.read_namespaced_pod_log(pod.metadata.name, "default") == "hello\n"
        pod = await api.read_namespaced_pod(pod.metadata.name, "default")
        assert pod.status.container_statuses[0].state.running is not None
        names = []
        async with watch.Watch() as watcher:
            async for event in watcher.stream(api.list_namespaced_pod, "default", timeout_seconds=1):
                names.append(event["object"].metadata.name)
        assert names == [pod.metadata.name]


def _sync_forward(kubeconfig: str, port: int) -> bytes:
    from kubernetes import client, config
    from kubernetes.stream import portforward

    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    forward = portforward(api.connect_get_namespaced_pod_portforward, "web", "default", ports=str(port))
    socket = forward.socket(port)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while data := socket.recv(1024):
        answer += data
    assert forward.error(port) is None
    return answer


async def test_the_official_client_forwards_ports(sandbox: Sandbox) -> None:
    echo = await asyncio.start_server(answer_hello, "127.0.0.1", 0)
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    port = echo.sockets[0].getsockname()[1]
    answer = await asyncio.wait_for(asyncio.to_thread(_sync_forward, str(sandbox.kubeconfig), port), 60)
    echo.close()
    assert answer.endswith(b"hello\n")
