"""The wire forms: protobuf, SPDY, CRI logs, certificates, and what tokens and faults do to requests."""

from __future__ import annotations

import asyncio
import ssl
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from sandbox.api.cluster import Cluster
from sandbox.api.errors import ApiError
from sandbox.api.http import certificates, server
from sandbox.api.http.protobuf import decode
from sandbox.api.http.streaming.logs import LogOptions, LogReader, shown
from sandbox.api.http.streaming.spdy import DICTIONARY, Connection, Stream
from sandbox.faults import Fault, FaultKind, Faults

Json = dict[str, Any]


def field(number: int, value: bytes | int) -> bytes:
    """One field of a small protobuf message."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def envelope(api_version: str, kind: str, message: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\x00" + field(1, meta) + field(2, message)


def test_protobuf_objects() -> None:
    labels = field(11, field(1, b"a") + field(2, b"b"))
    meta = field(1, field(1, b"c") + field(8, b"") + labels)
    data = (
        field(2, field(1, b"k") + field(2, b"v"))
        + field(3, field(1, b"bin") + field(2, b"\xff"))
        + field(4, 1)
    )
    assert decode(envelope("v1", "ConfigMap", meta + data)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "labels": {"a": "b"}},
        "data": {"k": "v"},
        "binaryData": {"bin": "/w=="},
        "immutable": True,
    }


def test_protobuf_that_is_not_understood_is_refused_not_dropped() -> None:
    with pytest.raises(ApiError, match="the sandbox cannot read field 9 of ConfigMap in protobuf") as caught:
        decode(envelope("v1", "ConfigMap", field(9, b"x")))
    assert caught.value.code == 415
    with pytest.raises(ApiError, match="cannot read nobody/v1 Knows"):
        decode(envelope("nobody/v1", "Knows", b""))
    with pytest.raises(ApiError, match="not in Kubernetes' protobuf form"):
        decode(b"{}")


def test_the_spdy_dictionary_is_the_specifications() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


async def test_spdy_streams() -> None:
    sent, opened = bytearray(), []

    async def write(data: bytes) -> None:
        sent.extend(data)

    connection = Connection(write, opened.append)
    deflate = zlib.compressobj(zdict=DICTIONARY)
    raw = struct.pack("!I", 1) + struct.pack("!I", 10) + b"streamtype" + struct.pack("!I", 4) + b"data"
    block = deflate.compress(raw) + deflate.flush(zlib.Z_SYNC_FLUSH)
    body = struct.pack("!IIBB", 1, 0, 0, 0) + block
    frame = struct.pack("!HHI", 0x8003, 1, len(body)) + body
    data = struct.pack("!II", 1, 5) + b"hello" + struct.pack("!II", 1, 0x01000000)
    for start in range(0, len(frame + data), 7):  # however the bytes are cut
        await connection.feed((frame + data)[start : start + 7])
    [stream] = opened
    assert isinstance(stream, Stream)
    assert stream.headers == {"streamtype": "data"}
    assert [await stream.read(), await stream.read()] == [b"hello", b""]
    await stream.write(b"back")
    assert bytes(sent).endswith(struct.pack("!II", 1, 4) + b"back")


LOG = """2026-11-23T13:00:00.000000001Z stdout F one
2026-11-23T13:00:01.000000001Z stderr P tw
2026-11-23T13:00:01.000000002Z stderr F o
2026-11-23T13:00:02.000000001Z stdout F three
"""


async def read(path: Path, query: dict[str, str], ended: bool = True) -> str:
    options = LogOptions.parse(query)
    reader = LogReader(path, options, lambda: ended)
    return "".join([shown(lines, options).decode() async for lines in reader.lines()])


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, "one\ntwo\nthree\n"),
        ({"tailLines": "1"}, "three\n"),
        ({"tailLines": "0"}, ""),
        ({"sinceTime": "2026-11-23T13:00:02Z"}, "three\n"),
        ({"stream": "Stdout"}, "one\nthree\n"),
        ({"timestamps": "true", "tailLines": "1"}, "2026-11-23T13:00:02.000000001Z three\n"),
        ({"follow": "true"}, "one\ntwo\nthree\n"),
    ],
)
async def test_logs(tmp_path: Path, query: dict[str, str], text: str) -> None:
    path = tmp_path / "0.log"
    path.write_text(LOG)
    assert await read(path, query) == text


async def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "0.log", {"follow": "true"}) == ""


async def test_following_ends_with_the_container_and_misses_nothing(tmp_path: Path) -> None:
    path, state = tmp_path / "0.log", {"ended": False}
    reader = LogReader(path, LogOptions(follow=True), lambda: state["ended"])
    found: list[str] = []

    async def follow() -> None:
        async for lines in reader.lines():
            found.extend(line.text.decode() for line in lines)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for number in range(3):
        with path.open("a") as file:
            file.write(f"2026-11-23T13:00:00.000000001Z stdout F {number}\n")
        await asyncio.sleep(0)
    state["ended"] = True
    await asyncio.wait_for(task, 30)
    assert found == ["0\n", "1\n", "2\n"]


@pytest.mark.parametrize(
    "query", [{"tailLines": "x"}, {"tailLines": "-1"}, {"sinceSeconds": "0"}, {"sinceTime": "x"}]
)
def test_wrong_log_options(query: dict[str, str]) -> None:
    with pytest.raises(ApiError):
        LogOptions.parse(query)


def test_certificates_are_kept_and_private(tmp_path: Path) -> None:
    first = certificates.ensure(tmp_path)
    pem = first.certificate.read_bytes()
    assert certificates.ensure(tmp_path).certificate.read_bytes() == pem
    assert first.key.stat().st_mode & 0o077 == 0
    first.server_context()
    certificates.write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:6443", first.ca, "t")
    config = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    assert config["users"][0]["user"] == {"token": "t"}
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o077 == 0


class Client:
    """Requests with the token and the certificate."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, ca: Path, faults: Faults, cluster: Cluster
    ) -> None:
        self.session, self.url, self.faults, self.cluster = session, url, faults, cluster
        self.tls = ssl.create_default_context(cafile=str(ca))

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, ssl=self.tls, **more) as answer:
            text = await answer.text()
            return answer.status, yaml.safe_load(text) if text else None


@pytest_asyncio.fixture
async def http(tmp_path: Path) -> AsyncIterator[Client]:
    cluster, faults = Cluster(None), Faults()
    tls = certificates.ensure(tmp_path)
    runner = await server.serve(cluster, "127.0.0.1", 0, tls, {"good": "admin"}, tmp_path / "logs", faults)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer good"}) as session:
        url = f"https://127.0.0.1:{server.bound_port(runner)}"
        yield Client(session, url, tls.ca, faults, cluster)
    await runner.cleanup()
    cluster.close()


@pytest.mark.parametrize(
    ("path", "token", "code"),
    [
        ("/api/v1/pods", "good", 200),
        ("/api/v1/pods", "bad", 401),
        ("/sandbox.local/faults", "bad", 401),
        ("/livez", "bad", 200),
        ("/api/v1/nonsense", "good", 404),
        ("/apis/nobody/v1/pods", "good", 404),
        ("/api/v1/namespaces/default/pods/p/nonsense", "good", 404),
    ],
)
async def test_who_is_let_in(http: Client, path: str, token: str, code: int) -> None:
    status, body = await http.ask("GET", path, headers={"Authorization": f"Bearer {token}"})
    assert status == code
    if code >= 400:
        assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", code)


async def test_bodies_and_answers(http: Client) -> None:
    path = "/api/v1/namespaces/default/secrets"
    assert (await http.ask("POST", path, data=b"{"))[0] == 400
    assert (await http.ask("POST", path, data=b"x", headers={"Content-Type": "application/cbor"}))[0] == 415
    assert (await http.ask("POST", "/api/v1/secrets", json={}))[0] == 405
    status, made = await http.ask("POST", path, json={"metadata": {"name": "c"}})
    assert (status, made["kind"]) == (201, "Secret")
    yaml_type = {"Content-Type": "application/yaml"}
    assert (await http.ask("POST", path, data=b"metadata: {name: d}", headers=yaml_type))[0] == 201
    status, listed = await http.ask("GET", path)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["c", "d"]
    assert (listed["kind"], "kind" in listed["items"][0]) == ("SecretList", False)
    status, _ = await http.ask("GET", path, headers={"Accept": "application/vnd.kubernetes.protobuf"})
    assert status == 406
    merge = {"Content-Type": "application/merge-patch+json"}
    _, patched = await http.ask("PATCH", f"{path}/c", json={"stringData": {"a": "b"}}, headers=merge)
    assert patched["data"] == {"a": "Yg=="}
    status, answer = await http.ask("DELETE", f"{path}/c")
    assert (status, answer["status"], answer["details"]["name"]) == (200, "Success", "c")
    status, answer = await http.ask("DELETE", path)
    assert [item["metadata"]["name"] for item in answer["items"]] == ["d"]


async def test_faults_on_requests(http: Client) -> None:
    http.faults.set(Fault(FaultKind.API_THROTTLE, "GET */pods", value=3, count=1))
    async with http.session.get(f"{http.url}/api/v1/pods", ssl=http.tls) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert (await http.ask("GET", "/api/v1/pods"))[0] == 200
    status, body = await http.ask("POST", "/sandbox.local/faults", json={"kind": "api-error", "value": 503})
    assert status == 201
    assert (await http.ask("GET", "/api/v1/pods"))[0] == 503
    await http.ask("DELETE", f"/sandbox.local/faults?id={body['id']}")
    assert (await http.ask("GET", "/api/v1/pods"))[0] == 200


async def test_a_dropped_watch_breaks_off(http: Client) -> None:
    async with http.session.get(f"{http.url}/api/v1/pods?watch=1", ssl=http.tls) as answer:
        assert answer.status == 200
        await asyncio.sleep(0.05)
        http.faults.set(Fault(FaultKind.WATCH_DROP, "/api/v1/pods"))
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(answer.content.read(), 30)


async def test_an_expired_watch_says_so_in_the_stream(http: Client) -> None:
    http.cluster.storage.log("pods").floor = 10**6
    status, event = await http.ask("GET", "/api/v1/pods?watch=True&resourceVersion=1")
    assert (status, event["type"], event["object"]["code"]) == (200, "ERROR", 410)


async def test_a_watch_list_marks_the_end_of_the_initial_state(http: Client) -> None:
    await http.cluster.create("secrets", {"metadata": {"name": "c"}})
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    async with http.session.get(
        f"{http.url}/api/v1/namespaces/default/secrets?{query}", ssl=http.tls
    ) as answer:
        events = [yaml.safe_load(line) async for line in answer.content]
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_refusals_are_worded_by_the_kind_of_request(http: Client) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    base = "/api/v1/namespaces/default/pods"
    await http.ask("POST", base, json=pod)
    wrong = {"spec": {"unknown": 1}}
    merge = {"Content-Type": "application/merge-patch+json"}
    status, body = await http.ask("PATCH", f"{base}/p?fieldValidation=Strict", json=wrong, headers=merge)
    assert (status, body["details"]["causes"][0]["field"]) == (422, "patch")
    assert 'strict decoding error: unknown field "spec.unknown"' in body["message"]
    apply = {"Content-Type": "application/apply-patch+yaml"}
    config = {"apiVersion": "v1", "kind": "Pod", **pod, **wrong}
    status, body = await http.ask("PATCH", f"{base}/p?fieldManager=m", json=config, headers=apply)
    assert status == 500
    assert body["message"] == (
        "failed to create typed patch object (default/p; /v1, Kind=Pod): .spec.unknown: field not declared in schema"
    )
    status, body = await http.ask("POST", f"{base}?fieldValidation=Strict", json={**pod, "unknown": 1})
    assert (status, body["reason"]) == (400, "BadRequest")


async def test_a_lease_is_made_by_a_put(http: Client) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/leader"
    status, made = await http.ask(
        "PUT", path, json={"metadata": {"name": "leader"}, "spec": {"holderIdentity": "a"}}
    )
    assert status == 201
    status, body = await http.ask("PUT", path, json={"metadata": {"name": "leader"}})
    assert (status, body["details"]["causes"][0]["field"]) == (422, "metadata.resourceVersion")
    made["spec"]["holderIdentity"] = "b"
    assert (await http.ask("PUT", path, json=made))[0] == 200


async def test_the_cluster_knows_its_own_address(http: Client) -> None:
    _, endpoints = await http.ask("GET", "/api/v1/namespaces/default/endpoints/kubernetes")
    assert endpoints["subsets"][0]["ports"][0]["port"] == int(http.url.rsplit(":", 1)[1])
    await http.ask("POST", "/api/v1/namespaces", json={"metadata": {"name": "extra"}})
    _, config = await http.ask("GET", "/api/v1/namespaces/extra/configmaps/kube-root-ca.crt")
    assert "BEGIN CERTIFICATE" in config["data"]["ca.crt"]
