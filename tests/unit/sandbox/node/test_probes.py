"""Probe verdicts in the kubelet's words, and its thresholds."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from sandbox.node.probes import Counter, Verdict, check, repeat

CONTAINER = {"name": "main", "ports": [{"name": "http", "containerPort": 1}]}


async def no_exec(_command, _timeout):
    raise AssertionError("this probe runs no command")


@pytest.mark.parametrize(
    ("probe", "answers", "states"),
    [
        ({}, [True, False, False, False], [True, None, None, False]),
        ({"successThreshold": 2}, [True, True, False], [None, True, None]),
        ({"failureThreshold": 1}, [False, True], [False, True]),
    ],
)
def test_thresholds(probe, answers, states):
    counter = Counter.of(probe)
    assert [counter.count(answer) for answer in answers] == states


@pytest.fixture
async def server():
    """Answers /health with 200, /moved with 302, /slow after a while and anything else with 503."""
    seen = []

    async def answer(request):
        seen.append((request.path, request.headers.get("X-Probe"), request.headers["User-Agent"]))
        if request.path == "/slow":
            await asyncio.sleep(5)
        if request.path == "/moved":
            raise web.HTTPFound("/health")
        return web.Response(status=200 if request.path == "/health" else 503)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1], seen
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "ok", "words"),
    [
        ("/health", True, ""),
        ("/moved", True, ""),
        ("/other", False, "HTTP probe failed with statuscode: 503"),
        ("/slow", False, "context deadline exceeded"),
    ],
)
async def test_http(server, path, ok, words):
    port, _ = server
    probe = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 0.2}
    verdict = await check(probe, CONTAINER, "127.0.0.1", no_exec)
    assert verdict.ok is ok
    assert words in verdict.output


async def test_http_headers_and_port_names(server):
    port, seen = server
    container = {"ports": [{"name": "api", "containerPort": port}]}
    headers = [{"name": "X-Probe", "value": "yes"}]
    await check(
        {"httpGet": {"path": "health", "port": "api", "httpHeaders": headers}},
        container,
        "127.0.0.1",
        no_exec,
    )
    assert seen == [("/health", "yes", "kube-probe/1.36")]


@pytest.mark.parametrize("kind", [{"httpGet": {"port": 1, "path": "/"}}, {"tcpSocket": {"port": 1}}])
async def test_nobody_listens(kind):
    verdict = await check(kind, CONTAINER, "127.0.0.1", no_exec)
    assert not verdict.ok
    assert "dial tcp 127.0.0.1:1: connect: connection refused" in verdict.output


async def test_tcp(server):
    port, _ = server
    assert (await check({"tcpSocket": {"port": port}}, CONTAINER, "127.0.0.1", no_exec)).ok


@pytest.mark.parametrize(("code", "ok"), [(0, True), (1, False)])
async def test_exec(code, ok):
    async def execute(command, timeout):
        assert (command, timeout) == (["cat", "x"], 3.0)
        return code, "said"

    probe = {"exec": {"command": ["cat", "x"]}, "timeoutSeconds": 3}
    assert await check(probe, CONTAINER, "127.0.0.1", execute) == Verdict(ok, "said")


async def test_a_command_that_hangs_has_failed():
    async def execute(_command, _timeout):
        raise TimeoutError

    verdict = await check({"exec": {"command": ["sleep", "9"]}}, CONTAINER, "127.0.0.1", execute)
    assert not verdict.ok
    assert "timed out after 1s" in verdict.output


async def test_asking_goes_on_until_it_is_decided():
    answers, states, failures = iter([False, True, False, False]), [], []

    async def ask():
        return Verdict(next(answers), "no")

    def decided(state):
        states.append(state)
        return state

    async def failed(output):
        failures.append(output)

    await repeat({"periodSeconds": 0.001, "failureThreshold": 2}, ask, decided, failed)
    assert states == [True, False]
    assert failures == ["no"] * 3
