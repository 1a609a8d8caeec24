"""A golden set is read from wherever a policy says that it lies, behind the walls of a dataset, and in bounds."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kaito.hooks.api import CONFIG_MAP, SECRET
from kaito.tasks.golden_sets import GoldenSetNotRead, text_of

from include.contracts.evaluation_policy import GoldenSource
from include.contracts.yaml_documents.reader import MAX_BYTES
from tests.support.dataset_server import folder_server
from tests.support.fake_cluster import FakeCluster
from tests.support.registry_server import Handler, Registry, digest_of, registry

__all__ = ["registry"]
TEXT = "- {prompt: What is 1 plus 1?, expected: It is 2.}\n"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "127.0.0.0/8")
    with folder_server(tmp_path) as url:
        yield tmp_path, url


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def image_of(registry: Registry, files: dict[str, bytes], *, index: bool = False, tag: str = "1") -> str:
    """An image with these files, as a tool for images would push it; its reference."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    layer = gzip.compress(packed.getvalue())
    registry.blobs[digest_of(layer)] = layer
    manifest = json.dumps(
        {"schemaVersion": 2, "layers": [{"digest": digest_of(layer), "size": len(layer)}]}
    ).encode()
    if index:
        registry.manifests[digest_of(manifest)] = manifest
        entries = [
            {"digest": "sha256:0", "platform": {"os": "windows"}},
            {"digest": digest_of(manifest), "platform": {"os": "linux"}},
        ]
        manifest = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    registry.manifests[tag] = manifest
    return f"127.0.0.1:{registry.port}/team/phi:{tag}"


def test_a_config_map_is_read_as_it_is(cluster: FakeCluster) -> None:
    source = GoldenSource(config_map="golden")
    assert text_of(cluster, source, "default") is None
    cluster.add(CONFIG_MAP, {"metadata": {"name": "golden"}, "data": {"golden.yaml": TEXT}})
    assert text_of(cluster, source, "default") == TEXT


def test_a_url_is_read(served: tuple[Path, str], cluster: FakeCluster) -> None:
    folder, url = served
    (folder / "golden.yaml").write_text(TEXT)
    assert text_of(cluster, GoldenSource(url=f"{url}/golden.yaml"), "default") == TEXT.encode()


def test_what_is_not_there_or_too_big_says_so(served: tuple[Path, str], cluster: FakeCluster) -> None:
    folder, url = served
    (folder / "big.yaml").write_bytes(b" " * (MAX_BYTES + 1))
    (folder / "fits.yaml").write_bytes(b" " * MAX_BYTES)
    assert len(text_of(cluster, GoldenSource(url=f"{url}/fits.yaml"), "default") or b"") == MAX_BYTES
    with pytest.raises(GoldenSetNotRead, match=f"more than {MAX_BYTES} bytes"):
        text_of(cluster, GoldenSource(url=f"{url}/big.yaml"), "default")
    with pytest.raises(GoldenSetNotRead, match="no such file"):
        text_of(cluster, GoldenSource(url=f"{url}/none.yaml"), "default")


def test_an_address_inside_the_network_is_refused_unless_it_is_allowed(
    served: tuple[Path, str], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "")
    with pytest.raises(GoldenSetNotRead, match="not a public address"):
        text_of(cluster, GoldenSource(url=f"{served[1]}/golden.yaml"), "default")


def test_a_server_that_is_down_is_asked_again_later(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", "127.0.0.1:9")
    for source in (
        GoldenSource(url="http://127.0.0.1:9/golden.yaml"),
        GoldenSource(image="127.0.0.1:9/golden:1"),
    ):
        with pytest.raises(RuntimeError, match="for now"):
            text_of(cluster, source, "default")


@pytest.mark.parametrize("index", [False, True])
def test_an_image_is_read(
    registry: Registry, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    files = {"data/golden.yaml": TEXT.encode(), "data/other": b"x", "etc/golden.yaml": b"y"}
    source = GoldenSource(image=image_of(registry, files, index=index))
    assert text_of(cluster, source, "default") == TEXT.encode()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"data/other.yaml": b"x"}, "has no file /data/golden.yaml"),
        ({"data/golden.yaml": b"x" * (MAX_BYTES + 1)}, f"more than {MAX_BYTES} bytes"),
        ({"data/golden.yaml": b"x", "data/../../escape": b"x"}, "cannot be used"),
    ],
)
def test_an_image_without_it_says_so(
    registry: Registry,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
    says: str,
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    with pytest.raises(GoldenSetNotRead, match=says):
        text_of(cluster, GoldenSource(image=image_of(registry, files)), "default")


def test_a_layer_that_is_not_the_named_one_is_not_used(
    registry: Registry, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    source = GoldenSource(image=image_of(registry, {"data/golden.yaml": TEXT.encode()}))
    [digest] = registry.blobs
    registry.blobs[digest] = b"something else"
    with pytest.raises(RuntimeError, match="arrived changed"):
        text_of(cluster, source, "default")


def test_a_private_image_is_asked_with_its_secret(
    registry: Registry, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = f"127.0.0.1:{registry.port}"
    monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", host)
    reference = image_of(registry, {"data/golden.yaml": TEXT.encode()})
    right = "Basic " + base64.b64encode(b"reader:CANARY-password").decode()

    def wants_a_password(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == right:
            return False
        return handler.reply(401, WWW_Authenticate='Basic realm="r"')

    registry.before = wants_a_password
    with pytest.raises(GoldenSetNotRead, match=r"golden.*|401|password") as raised:
        text_of(cluster, GoldenSource(image=reference), "default")
    with pytest.raises(GoldenSetNotRead, match="names the Secret pull, which is not in namespace default"):
        text_of(cluster, GoldenSource(image=reference, secret="pull"), "default")
    config = {"auths": {host: {"username": "reader", "password": "CANARY-password"}}}
    encoded = base64.b64encode(json.dumps(config).encode()).decode()
    cluster.add(SECRET, {"metadata": {"name": "pull"}, "data": {".dockerconfigjson": encoded}})
    assert text_of(cluster, GoldenSource(image=reference, secret="pull"), "default") == TEXT.encode()
    assert "CANARY" not in str(raised.value)


def test_a_private_url_needs_a_header_in_its_secret(cluster: FakeCluster) -> None:
    cluster.add(SECRET, {"metadata": {"name": "hub"}, "data": {"API_KEY": "eA=="}})
    source = GoldenSource(url="https://example.com/golden.yaml", secret="hub")
    with pytest.raises(GoldenSetNotRead, match="none of the keys AUTHORIZATION"):
        text_of(cluster, source, "default")


def test_a_private_url_is_asked_with_the_header_of_its_secret(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.workloads.dataset.connection import PinnedClient

    asked: list[Any] = []

    def opened(client: PinnedClient, url: str, headers: dict[str, str]) -> io.BytesIO:
        asked.append((url, client.authorization))
        return io.BytesIO(TEXT.encode())

    monkeypatch.setattr(PinnedClient, "open", opened)
    value = base64.b64encode(b"Bearer CANARY").decode()
    cluster.add(SECRET, {"metadata": {"name": "hub"}, "data": {"AUTHORIZATION": value}})
    source = GoldenSource(url="https://example.com/golden.yaml", secret="hub")
    assert text_of(cluster, source, "default") == TEXT.encode()
    assert asked == [("https://example.com/golden.yaml", "Bearer CANARY")]
