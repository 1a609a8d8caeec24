"""The watch loop against a scripted API server: what it goes on from, what it lists again, how long it waits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from kaito.controller import informer as watching
from kaito.controller.informer import (
    Backoff,
    Change,
    changes,
    lines,
)
from kaito.hooks.api import WORKSPACE, ClusterError
from kaito.hooks.kubernetes import PAGE, AsyncKaitoClusterHook


def obj(version: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "w", "resourceVersion": version, **metadata}}


class Answer:
    """One HTTP answer; a stream is given in pieces as they come from the network."""

    def __init__(self, status: int = 200, *pieces: bytes, headers: dict[str, str] | None = None) -> None:
        self.status, self.reason, self.headers = status, "", headers or {}
        self.pieces = pieces
        self.content = SimpleNamespace(iter_any=self._pieces)

    async def _pieces(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    async def text(self) -> str:
        return b"".join(self.pieces).decode()

    async def read(self) -> bytes:
        return b"".join(self.pieces)

    def close(self) -> None:
        """Nothing to close."""


def a_list(version: str, *objects: dict[str, Any], token: str = "") -> Answer:
    metadata = {"resourceVersion": version, **({"continue": token} if token else {})}
    return Answer(200, json.dumps({"metadata": metadata, "items": objects}).encode())


def events(*told: tuple[str, dict[str, Any]]) -> Answer:
    return Answer(200, *(json.dumps({"type": t, "object": o}).encode() + b"\n" for t, o in told))


class Client:
    """Answers each call with the next of its answers; remembers what was asked."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.queries: list[dict[str, str]] = []

    async def call_api(self, **arguments: Any) -> Answer:
        self.queries.append(dict(arguments["query_params"]))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def watched(self) -> list[str]:
        return [query["resourceVersion"] for query in self.queries if query.get("watch")]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every wait of the loop, in seconds; none is waited."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(watching, "asyncio", SimpleNamespace(sleep=sleep))
    return found


async def heard(client: Client, until: int, **options: Any) -> list[Change]:
    hook = AsyncKaitoClusterHook(conn_id=None)
    hook._client = client
    found: list[Change] = []
    async for change in changes(hook, WORKSPACE, **options):
        found.append(change)
        if len(found) == until:
            break
    return found


async def test_it_lists_then_watches_from_the_lists_version(pauses: list[float]) -> None:
    client = Client(
        a_list("5", obj("3")),
        events(("MODIFIED", obj("6")), ("BOOKMARK", obj("9"))),
        events(("DELETED", obj("11"))),
    )
    found = await heard(client, 5)
    assert [change.type for change in found] == ["PAGE", "LISTED", "MODIFIED", "BOOKMARK", "DELETED"]
    assert client.watched == ["5", "9"]  # on from the bookmark, without another list
    assert pauses == []


async def test_it_goes_on_from_a_version_without_listing(pauses: list[float]) -> None:
    client = Client(events(("MODIFIED", obj("8"))))
    assert [change.type for change in await heard(client, 1, since="7")] == ["MODIFIED"]
    assert client.watched == ["7"]


async def test_a_version_that_is_too_old_means_a_new_list(pauses: list[float]) -> None:
    gone = events(("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
    client = Client(gone, a_list("20", obj("18")), events(("ADDED", obj("21"))))
    found = await heard(client, 3, since="1")
    assert [change.type for change in found] == ["PAGE", "LISTED", "ADDED"]
    assert client.watched == ["1", "20"]
    assert pauses == [0.0]


async def test_big_lists_come_in_pages(pauses: list[float]) -> None:
    client = Client(a_list("5", obj("1"), token="next"), a_list("5", obj("2")))
    assert [change.type for change in await heard(client, 3)] == ["PAGE", "PAGE", "LISTED"]
    assert client.queries[0]["limit"] == str(PAGE)
    assert client.queries[1]["continue"] == "next"


async def test_pages_of_big_objects_get_small(pauses: list[float]) -> None:
    big = obj("1", annotations={"a": "x" * 1_000_000})
    client = Client(a_list("5", big, token="next"), a_list("5", obj("2")))
    await heard(client, 3)
    assert int(client.queries[1]["limit"]) == 1


async def test_troubles_are_waited_out_longer_and_longer(pauses: list[float]) -> None:
    troubles = [Answer(503, b'{"message": "etcd is down"}') for _ in range(4)]
    client = Client(*troubles, events(("ADDED", obj("2"))))
    await heard(client, 1, since="1")
    assert len(pauses) == 4
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses))


async def test_the_server_may_ask_for_a_longer_pause(pauses: list[float]) -> None:
    client = Client(Answer(429, b"", headers={"Retry-After": "17"}), events(("ADDED", obj("2"))))
    await heard(client, 1, since="1")
    assert pauses == [17.0]


async def test_a_watch_that_ends_at_once_is_no_tight_loop(pauses: list[float]) -> None:
    client = Client(events(), events(), events(("ADDED", obj("2"))))
    await heard(client, 1, since="1")
    assert len(pauses) == 2
    assert min(pauses) > 0


@pytest.mark.parametrize("status", [403, 404])
async def test_a_kind_that_is_not_there_is_said_and_asked_for_later(
    pauses: list[float], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(Answer(status, b'{"message": "no"}'), Answer(status, b'{"message": "no"}'), a_list("1"))
    hook_error = await _of_pages(client)
    assert hook_error == ["ABSENT", "ABSENT", "PAGE", "LISTED"]
    assert pauses == [watching.ABSENT_SECONDS] * 2
    assert len(caplog.records) == 1  # said once


async def _of_pages(client: Client) -> list[str]:
    return [change.type for change in await heard(client, 4)]


async def test_credentials_that_are_no_longer_good_end_the_loop(pauses: list[float]) -> None:
    with pytest.raises(ClusterError, match="who are you"):
        await heard(Client(Answer(401, b'{"message": "who are you"}')), 1, since="1")


async def test_an_object_of_more_than_a_megabyte_comes_through(pauses: list[float]) -> None:
    """aiohttp's reading by line refuses lines of more than 128 KiB."""
    line = (
        json.dumps({"type": "ADDED", "object": obj("2", annotations={"a": "x" * 1_200_000})}).encode() + b"\n"
    )
    pieces = [line[start : start + 65536] for start in range(0, len(line), 65536)]
    found = await heard(Client(Answer(200, *pieces)), 1, since="1")
    assert len(found[0].objects[0]["metadata"]["annotations"]["a"]) == 1_200_000


async def test_lines_are_split_wherever_the_network_cuts_them() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b\nc", b"\n\n", b"d\ne"):
            yield piece

    assert [line async for line in lines(chunks())] == [b"ab", b"c", b"d", b"e"]


def test_backoff_is_capped_and_starts_anew_after_success() -> None:
    backoff = Backoff(first=1.0, cap=8.0)
    waits = [backoff.next() for _ in range(10)]
    assert all(wait <= 8.0 for wait in waits)
    assert waits[-1] >= 4.0
    backoff.reset()
    assert backoff.next() <= 1.0
