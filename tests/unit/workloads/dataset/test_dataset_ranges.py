"""A large file comes over several connections at once, and is one version of the file, whole and in order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from include.workloads.contract import TryAgain
from include.workloads.dataset import ranges
from include.workloads.dataset.fetch import Fetcher
from tests.support.dataset_server import Answer, Web, send
from tests.support.object_stores import ranged

BODY = bytes(range(256)) * 40
SIZE = 1000
Make = Callable[..., Fetcher]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", SIZE)


def asked(web: Web) -> list[str]:
    return [headers.get("Range", "") for _, headers in web.asked]


def serve(web: Web, answer: Answer) -> str:
    web.routes["/a"] = answer
    return web.url("/a")


def test_parts_are_put_together_and_hashed_meanwhile(web: Web, make_fetcher: Make, tmp_path: Path) -> None:
    found = make_fetcher().fetch(serve(web, lambda handler: ranged(handler, BODY)), tmp_path / "a")
    assert found.path.read_bytes() == BODY
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()
    wanted = [f"bytes={first}-{min(first + SIZE, len(BODY)) - 1}" for first in range(SIZE, len(BODY), SIZE)]
    assert sorted(asked(web)) == sorted(["", *wanted])


def test_parts_come_at_once_and_are_written_in_their_order(
    web: Web, make_fetcher: Make, tmp_path: Path
) -> None:
    two = threading.Barrier(2, timeout=10)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range", "").startswith(("bytes=1000-", "bytes=2000-")):
            two.wait()  # neither is answered before both are asked for
        ranged(handler, BODY)

    assert make_fetcher().fetch(serve(web, answer), tmp_path / "a").path.read_bytes() == BODY


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"v1"'},
        {"ETag": 'W/"v1"', "Accept_Ranges": "bytes"},
        {"Accept_Ranges": "bytes"},
        {"ETag": '"v1"', "Accept_Ranges": "none"},
    ],
)
def test_a_server_that_promises_too_little_is_asked_once(
    headers: dict[str, str], web: Web, make_fetcher: Make, tmp_path: Path
) -> None:
    url = serve(web, lambda handler: send(handler, BODY, **headers))
    assert make_fetcher().fetch(url, tmp_path / "a").path.read_bytes() == BODY
    assert asked(web) == [""]


def test_a_small_file_is_asked_for_once(web: Web, make_fetcher: Make, tmp_path: Path) -> None:
    url = serve(web, lambda handler: ranged(handler, BODY[: 2 * SIZE]))
    assert make_fetcher().fetch(url, tmp_path / "a").path.read_bytes() == BODY[: 2 * SIZE]
    assert len(web.asked) == 1


def test_a_version_that_changes_meanwhile_is_begun_anew(web: Web, make_fetcher: Make, tmp_path: Path) -> None:
    new = BODY[::-1]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        begun = handler.headers.get("If-Range") in (None, '"v1"') and "bytes=5000-" not in asked(web)[-1]
        if begun and not any(one.startswith("bytes=5000-") for one in asked(web)):
            ranged(handler, BODY)
        elif handler.headers.get("If-Range") == '"v2"':
            ranged(handler, new, '"v2"')
        else:
            send(handler, new, ETag='"v2"', Accept_Ranges="bytes")

    found = make_fetcher().fetch(serve(web, answer), tmp_path / "a")
    assert found.path.read_bytes() == new
    assert (found.etag, found.sha256) == ('"v2"', hashlib.sha256(new).hexdigest())


def cut(handler: BaseHTTPRequestHandler) -> None:
    send(
        handler, BODY[4000:4100], 206, length=1000, ETag='"v1"', Content_Range=f"bytes 4000-4999/{len(BODY)}"
    )


def cut_without_a_length(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(206)
    handler.send_header("ETag", '"v1"')
    handler.send_header("Content-Range", f"bytes 4000-4999/{len(BODY)}")
    handler.end_headers()
    handler.wfile.write(BODY[4000:4100])


def another(handler: BaseHTTPRequestHandler) -> None:
    send(handler, BODY[5000:6000], 206, ETag='"v1"', Content_Range=f"bytes 5000-5999/{len(BODY)}")


def of_another_version(handler: BaseHTTPRequestHandler) -> None:
    send(handler, BODY[4000:5000], 206, ETag='"v2"', Content_Range=f"bytes 4000-4999/{len(BODY)}")


def busy(handler: BaseHTTPRequestHandler) -> None:
    send(handler, status=503)


@pytest.mark.parametrize("bad", [cut, cut_without_a_length, another, of_another_version, busy])
def test_the_next_try_begins_behind_the_parts_that_were_good(
    bad: Answer, web: Web, make_fetcher: Make, tmp_path: Path, slept: list[float]
) -> None:
    bad_once = [bad]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range", "").startswith("bytes=4000-4999") and bad_once:
            bad_once.pop()(handler)
        else:
            ranged(handler, BODY)

    found = make_fetcher().fetch(serve(web, answer), tmp_path / "a")
    assert found.path.read_bytes() == BODY
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()
    assert len(slept) == 1
    assert "bytes=4000-" in asked(web)


def test_a_part_that_never_comes_is_no_whole_file(web: Web, make_fetcher: Make, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range", "").startswith("bytes=4000"):
            busy(handler)
        else:
            ranged(handler, BODY)

    with pytest.raises(TryAgain, match="503"):
        make_fetcher(attempts=2).fetch(serve(web, answer), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.part").read_bytes() == BODY[:4000]


def test_the_memory_holds_a_few_parts_whatever_the_file_has(web: Web, make_fetcher: Make) -> None:
    url = serve(web, lambda handler: ranged(handler, BODY))
    parts = ranges.Parts(make_fetcher().client, url, '"v1"', len(BODY), lambda: 10.0)
    arriving = parts.read(0)
    next(arriving)
    assert len(web.asked) <= ranges.AT_ONCE
    arriving.close()  # type: ignore[attr-defined]
