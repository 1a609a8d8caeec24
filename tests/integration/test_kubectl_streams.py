"""The real kubectl and what streams: logs, attach, port-forward and the proxies."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.support.api_server import POD, SERVICE, Sandbox, answer_hello
from tests.support.api_server import served_sandbox as served_sandbox

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


async def test_logs_follow_until_the_container_ends(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    waiting = await sandbox.kubectl("logs", "web")
    assert waiting.out == ""
    await sandbox.run_pod("web", logs="one\ntwo\nthree")
    assert (await sandbox.kubectl("logs", "web", "--tail=2")).out == "two\nthree\n"
    stamped = await sandbox.kubectl("logs", "web", "--timestamps", "--tail=1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z three\n", stamped.out)
    assert (await sandbox.kubectl("logs", "web", "--since=1h")).out == "one\ntwo\nthree\n"
    assert (await sandbox.kubectl("logs", "web", "--since-time=2100-01-01T00:00:00Z")).out == ""
    process = await sandbox.start("logs", "-f", "web")
    assert process.stdout is not None
    assert [await process.stdout.readline() for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
    await sandbox.run_pod("web", logs="four", ends=True)
    rest, _ = await asyncio.wait_for(process.communicate(), 60)
    assert rest == b"four\n"
    previous = await sandbox.kubectl("logs", "web", "--previous", fails=True)
    assert 'previous terminated container "main" in pod "web" not found' in previous.err


async def _asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_port_forward(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, websockets: str) -> None:
    monkeypatch.setenv("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
    echo = await asyncio.start_server(answer_hello, "127.0.0.1", 0)
    port = echo.sockets[0].getsockname()[1]
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    process = await sandbox.start("port-forward", "pod/web", f":{port}")
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    local = int(line.split("127.0.0.1:")[1].split()[0])
    answers = await asyncio.gather(_asked(local), _asked(local))
    process.terminate()
    await process.wait()
    echo.close()
    assert all(answer.endswith(b"hello\n") for answer in answers)


async def test_proxies(sandbox: Sandbox) -> None:
    echo = await asyncio.start_server(answer_hello, "127.0.0.1", 0)
    port = echo.sockets[0].getsockname()[1]
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.kubectl("create", "-f", "-", stdin=SERVICE)
    path = "/api/v1/namespaces/default/services/workspace-tuning-phi-3:http/proxy/chat"
    refused = await sandbox.kubectl("get", "--raw", path, fails=True)
    assert 'no endpoints available for service "workspace-tuning-phi-3"' in refused.err
    await sandbox.run_pod("web")
    endpoints = {
        "metadata": {"name": "workspace-tuning-phi-3"},
        "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": port}]}],
    }
    await sandbox.cluster.create("endpoints", endpoints, "default")
    assert (await sandbox.kubectl("get", "--raw", path)).out == "hello\n"
    pod_path = f"/api/v1/namespaces/default/pods/web:{port}/proxy/"
    assert (await sandbox.kubectl("get", "--raw", pod_path)).out == "hello\n"
    echo.close()


async def test_run_attaches_prints_and_removes(sandbox: Sandbox) -> None:
    """`kubectl run -i --rm --restart=Never`, the quick start's last line."""
    process = await sandbox.start(
        "run", "curl", "-i", "--rm", "--restart=Never", "--image=curlimages/curl", "--", "curl", "http://x"
    )
    async for kind, pod in sandbox.cluster.watch("pods"):
        if kind == "ADDED" and pod["metadata"]["name"] == "curl":
            break
    await sandbox.run_pod("curl", logs="an answer")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"an answer\n"
    await sandbox.run_pod("curl", logs="its end", ends=True)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert b"its end\n" in out, err
    assert b'pod "curl" deleted' in out
    assert process.returncode == 0


async def test_exec_says_why_not(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    refused = await sandbox.kubectl("exec", "web", "--", "ls", fails=True)
    assert "the sandbox cannot run commands in a container" in refused.err
