"""What a dataset's servers say of it is asked in a few bytes; who says nothing, or is behind a wall, gives no mark."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from kaito.tasks.dataset_marks import marks

from include.retraining.dataset_watch import Mark, Seen, compare
from include.workloads.dataset.connection import PassingFault, PinnedClient
from include.workloads.oci.credentials import Credentials
from tests.support.dataset_server import Web, folder_server, running
from tests.support.object_stores import AWS_ID, AWS_SECRET, s3_list, s3_object
from tests.support.registry_server import Handler, Registry, digest_of, registry

__all__ = ["registry"]
KEYS = {
    "mine": {
        "data": {
            key: base64.b64encode(value.encode()).decode()
            for key, value in (("AWS_ACCESS_KEY_ID", AWS_ID), ("AWS_SECRET_ACCESS_KEY", AWS_SECRET))
        }
    }
}
RIGHT = Credentials("entry", "reader", "CANARY-password")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "127.0.0.0/8")
    with folder_server(tmp_path) as url:
        yield tmp_path, url


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "127.0.0.0/8")
    with running() as site:
        yield site


def urls(*some: str) -> dict[str, Any]:
    return {"tuning": {"input": {"urls": list(some)}}}


def image(registry: Registry, tag: str = "latest", **more: Any) -> dict[str, Any]:
    return {"tuning": {"input": {"image": f"127.0.0.1:{registry.port}/team/phi:{tag}", **more}}}


def test_a_file_on_a_plain_server_is_known_by_its_time_and_size(served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "a.jsonl").write_text("{}")
    first = marks(urls(f"{url}/a.jsonl?sig=SECRET", f"{url}/missing.jsonl"))
    assert first[0].size == "2"
    assert first[0].modified
    assert first[1] == Mark()
    assert compare(first[:1], marks(urls(f"{url}/a.jsonl"))) is Seen.SAME
    (folder / "a.jsonl").write_text("{}{}")
    assert compare(first[:1], marks(urls(f"{url}/a.jsonl"))) is Seen.CHANGED


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as a hub does: a redirect that names the commit, to a store whose links are new each time."""

    commit, tag, asked = "1" * 40, '"sha-of-a"', 0
    stored: Mapping[str, str] = {}

    def do_GET(self) -> None:
        if self.path.startswith("/store/"):
            self.send_response(206)
            headers = {"Content-Range": "bytes 0-0/5", "Content-Length": "1", **self.stored}
        else:
            type(self).asked += 1
            self.send_response(302)
            headers = {
                "Location": f"/store/a?signature=SECRET-{self.asked}",
                "X-Repo-Commit": self.commit,
                "X-Linked-ETag": self.tag,
                "X-Linked-Size": "5",
                "Content-Length": "0",
            }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.path.startswith("/store/"):
            self.wfile.write(b"{")

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Hub], str]]:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "127.0.0.0/8")
    kind = type("OneHub", (Hub,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kind, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_is_known_by_its_commit_and_the_tag_of_the_content(hub: tuple[type[Hub], str]) -> None:
    kind, url = hub
    document = urls(f"{url}/datasets/team/facts/resolve/main/train.jsonl")
    kind.stored = {"ETag": '"of-the-store-1"', "Last-Modified": "Mon, 23 Nov 2026 12:00:00 GMT"}
    first = marks(document)
    assert (first[0].commit, first[0].etag, first[0].size) == ("1" * 40, '"sha-of-a"', "5")
    assert "SECRET" not in str(first[0].as_dict())
    kind.stored = {"ETag": '"of-the-store-2"'}
    assert compare(first, marks(document)) is Seen.SAME
    kind.commit = "2" * 40
    assert compare(first, marks(document)) is Seen.SAME, "another file of the repository has changed"
    kind.tag = '"sha-of-b"'
    assert compare(first, marks(document)) is Seen.CHANGED


@pytest.mark.parametrize("name", ["x-amz-version-id", "x-goog-generation", "x-ms-version-id"])
def test_an_object_is_known_by_its_version(hub: tuple[type[Hub], str], name: str) -> None:
    kind, url = hub
    document = urls(f"{url}/store/a")
    kind.stored = {name: "v1"}
    first = marks(document)
    assert compare(first, marks(document)) is Seen.SAME
    kind.stored = {name: "v2"}
    assert compare(first, marks(document)) is Seen.CHANGED
    kind.stored = {name: "null"}
    assert marks(document)[0].version == ""


SECRET = {"data": {"AUTHORIZATION": base64.b64encode(b"Bearer hf_CANARY\n").decode()}}


@pytest.mark.parametrize(
    ("some", "secret", "sent"),
    [
        (["https://hub.local/a", "https://hub.local/b"], SECRET, "Bearer hf_CANARY"),
        (["https://hub.local/a", "https://other.local/b"], SECRET, ""),
        (["https://hub.local/a", "http://hub.local/b"], SECRET, ""),
        (["https://hub.local/a"], None, ""),
        (["https://hub.local/a"], {"data": {}}, ""),
        (["https://hub.local/a"], {"data": {"AUTHORIZATION": "%"}}, ""),
        (["https://hub.local/a"], {"data": {"AUTHORIZATION": base64.b64encode(b"a\nb").decode()}}, ""),
    ],
)
def test_a_private_dataset_s_host_is_asked_with_its_header_and_no_other_host_is(
    some: list[str], secret: dict[str, Any] | None, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def opened(self: PinnedClient, *_: object, **__: object) -> NoReturn:
        used.append(self.authorization)
        raise PassingFault("only who is asked matters here")

    monkeypatch.setattr(PinnedClient, "open", opened)
    document = {"metadata": {"annotations": {"kaito.sh/dataset-secret": "mine"}}, **urls(*some)}
    marks(document, {"mine": secret}.get)
    assert used == [sent] * len(some)
    used.clear()
    marks(urls(*some), {"mine": secret}.get)
    assert used == [""] * len(some), "no Secret is named"


def test_an_address_inside_the_network_is_not_asked(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / "a.jsonl").write_text("{}")
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "")
    assert marks(urls(f"{url}/a.jsonl")) == [Mark()]


def test_an_image_is_known_by_the_digest_that_its_tag_holds(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def private(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == f"Basic {RIGHT.basic}":
            return False
        return handler.reply(401, WWW_Authenticate='Basic realm="r"')

    host = f"127.0.0.1:{registry.port}"
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", host)
    registry.before, registry.manifests = private, {"latest": b'{"rows": 1}'}
    login = {"auths": {host: {"auth": RIGHT.basic}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(login).encode()).decode()}
    secrets = {"other": {"data": {}}, "pull": {"data": data}}
    document = image(registry, imagePullSecrets=["gone", "other", "pull"])
    first = marks(document, secrets.get)
    assert first == [Mark(digest=digest_of(b'{"rows": 1}'))]
    assert all(method == "HEAD" for method, _ in registry.asked)
    registry.manifests = {"latest": b'{"rows": 2}'}
    assert compare(first, marks(document, secrets.get)) is Seen.CHANGED
    assert marks(document) == [Mark()]
    assert marks(image(registry, tag="gone", imagePullSecrets=["pull"]), secrets.get) == [Mark()]


def test_a_volume_says_nothing() -> None:
    assert marks({"tuning": {"input": {"volumeSource": {}}}}) == [Mark()]


def test_an_object_of_a_store_is_asked_with_a_signature(web: Web) -> None:
    web.routes["/rows/a.jsonl"] = s3_object(b"rows")
    named = {"metadata": {"annotations": {"kaito.sh/dataset-secret": "mine"}}}
    document = {**named, **urls(f"s3://rows/a.jsonl?endpoint={web.url('')}")}
    assert marks(document, KEYS.get) == [Mark(etag='"v1"', size="4", version="3")]
    assert marks(document) == [Mark()], "without the Secret the store refuses"


def test_a_dataset_that_an_identity_reads_is_not_asked(web: Web) -> None:
    document = urls(f"s3://rows/a.jsonl?endpoint={web.url('')}")
    document["metadata"] = {"annotations": {"kaito.sh/dataset-identity": "kaito-dataset"}}
    assert marks(document) == [Mark()]
    assert not web.asked


def test_a_dataset_of_a_hub_is_known_by_its_commit(web: Web) -> None:
    path = "/api/datasets/o/n/revision/main"
    document = urls(f"hf://datasets/o/n?endpoint={web.url('')}&split=train")
    web.serve(path, b'{"sha": "c1", "siblings": []}')
    first = marks(document)
    assert first == [Mark(commit="c1")]
    web.serve(path, b'{"sha": "c2", "siblings": []}')
    assert compare(first, marks(document)) is Seen.CHANGED
    web.serve(path, b"<html>")
    assert marks(document) == [Mark()]


def test_a_folder_of_a_store_is_known_by_what_it_lists(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    objects = {f"train/{number}.jsonl": b"{}" for number in range(3)}
    web.routes["/rows"] = s3_list(objects)
    document = urls(f"s3://rows/train/?endpoint={web.url('')}")
    document["metadata"] = {"annotations": {"kaito.sh/dataset-secret": "mine"}}
    before = marks(document, KEYS.get)
    assert before[0].etag
    assert compare(before, marks(document, KEYS.get)) is Seen.SAME
    for change in ({"train/3.jsonl": b"{}"}, {"train/0.jsonl": b"[]"}):
        objects |= change
        now = marks(document, KEYS.get)
        assert compare(before, now) is Seen.CHANGED
        before = now
    del objects["train/2.jsonl"]
    assert compare(before, marks(document, KEYS.get)) is Seen.CHANGED
    assert marks(document) == [Mark()]
    assert "CANARY" not in caplog.text
