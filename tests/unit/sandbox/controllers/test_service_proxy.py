"""The service proxy carries bytes from a cluster IP to the pods behind it."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.controllers.service_proxy import Relay, ServiceProxy, wanted_ports

SERVICE = {
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {
        "clusterIP": "127.96.77.1",
        "ports": [{"name": "http", "port": 8080}, {"name": "torch", "port": 29500}],
    },
}


def endpoints(*ips, ports=(("http", 5000),)):
    subset = {"addresses": [{"ip": ip} for ip in ips], "ports": [{"name": n, "port": p} for n, p in ports]}
    return {"subsets": [subset]}


def test_ports_without_anyone_behind_are_not_listened_on():
    assert wanted_ports(SERVICE, endpoints("127.64.0.1")) == {("127.96.77.1", 8080): [("127.64.0.1", 5000)]}
    assert wanted_ports(SERVICE, None) == {}
    assert (
        wanted_ports(
            SERVICE, {"subsets": [{"notReadyAddresses": [{"ip": "1"}], "ports": [{"name": "http"}]}]}
        )
        == {}
    )


def test_headless_services_have_no_port_to_listen_on():
    headless = {**SERVICE, "spec": {**SERVICE["spec"], "clusterIP": "None"}}
    assert wanted_ports(headless, endpoints("127.64.0.1")) == {}


@pytest.fixture
async def echo_server():
    """A server that answers with its own name and what it was sent, after the client has finished sending."""
    servers = []

    async def start(name: str) -> tuple[str, int]:
        async def serve(reader, writer):
            writer.write(name.encode() + b":" + await reader.read())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return server.sockets[0].getsockname()[:2]

    yield start
    for server in servers:
        server.close()


async def ask(address: tuple[str, int], text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def started(*backends) -> Relay:
    relay = Relay(("127.0.0.1", 0), list(backends))
    await relay.start()
    relay.address = relay.server.sockets[0].getsockname()[:2]
    return relay


async def test_bytes_go_both_ways_and_the_end_is_passed_on(echo_server):
    relay = await started(await echo_server("a"))
    try:
        assert await ask(relay.address, b"x" * 300_000) == b"a:" + b"x" * 300_000
    finally:
        relay.stop()


async def test_connections_take_turns_and_skip_a_dead_pod(echo_server):
    dead = ("127.0.0.1", 1)
    relay = await started(await echo_server("a"), dead, await echo_server("b"))
    try:
        answers = [await ask(relay.address, b"") for _ in range(4)]
        assert set(answers) == {b"a:", b"b:"}
    finally:
        relay.stop()


async def test_with_every_pod_dead_the_connection_is_cut(echo_server):
    relay = await started(("127.0.0.1", 1))
    try:
        async with asyncio.timeout(30):
            try:
                answer = await ask(relay.address, b"x")
            except ConnectionError:
                answer = b""
        assert answer == b""
    finally:
        relay.stop()


async def test_a_port_that_cannot_be_bound_is_told_on_the_service(cluster, feeds):
    taken = await asyncio.start_server(lambda *_: None, "127.96.77.9", 18080)
    try:
        spec = {"clusterIP": "127.96.77.9", "ports": [{"name": "http", "port": 18080, "targetPort": 5000}]}
        await cluster.create("services", {"metadata": {"name": "web"}, "spec": spec}, "default")
        subsets = endpoints("127.64.0.1")["subsets"]
        await cluster.create("endpoints", {"metadata": {"name": "web"}, "subsets": subsets}, "default")
        proxy = ServiceProxy(cluster, feeds)
        for _ in range(2):
            await proxy.reconcile(("default", "web"))
        events, _ = await cluster.list("events")
        assert [(e["type"], e["reason"], e["count"]) for e in events] == [("Warning", "PortNotBound", 1)]
        assert "127.96.77.9:18080" in events[0]["message"]
    finally:
        taken.close()
