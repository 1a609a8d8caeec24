"""The janitor at a real docker-registry: what was let go of is gone; what is kept, served or of others is there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from kaito.hooks.api import STATEFUL_SET, WORKSPACE
from kaito.operators.retention import RetireVersionsOperator

from include.workloads.oci.media import OCI_INDEX, OCI_MANIFEST
from tests.support.fake_cluster import FakeCluster
from tests.support.real_registry import RealRegistry, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="the Debian package docker-registry"),
]
NAME, EMPTY = "phi", b"{}"
OLD, SERVED, FOREIGN, SHARED, KEPT = "20261101.1", "20261102.1", "20261103.1", "20261104.1", "20261128.1"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealRegistry]:
    with running(tmp_path, password=False) as found:
        monkeypatch.setenv("AIRFLOW__KAITO__INSECURE_REGISTRIES", found.host)
        yield found


@pytest.fixture
def http(registry: RealRegistry) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{registry.host}/v2/team/phi/", timeout=10) as client:
        place = client.post("blobs/uploads/").raise_for_status().headers["Location"]
        client.put(f"{place}&digest={digest_of(EMPTY)}", content=EMPTY).raise_for_status()
        yield client


def put(http: httpx.Client, name: str, kind: str, **fields: Any) -> str:
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, **fields}).encode()
    path = f"manifests/{name or digest_of(content)}"
    http.put(path, content=content, headers={"Content-Type": kind}).raise_for_status()
    return digest_of(content)


def image(http: httpx.Client, tag: str, **annotations: str) -> str:
    empty = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest_of(EMPTY),
        "size": len(EMPTY),
    }
    return put(http, tag, OCI_MANIFEST, config=empty, layers=[empty], annotations={"tag": tag, **annotations})


def version(http: httpx.Client, number: str, maker: str = NAME) -> str:
    made = f"default/{maker}-r{number.replace('.', '-')}"
    return image(http, f"1-{number}", **{"sh.kaito.workspace": made})


def tags(http: httpx.Client) -> set[str]:
    return set(http.get("tags/list").raise_for_status().json()["tags"])


def there(http: httpx.Client, digest: str) -> bool:
    accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
    return http.head(f"manifests/{digest}", headers=accept).status_code == 200


def retire(cluster: FakeCluster, *, delete: bool) -> list[tuple[str, bool]]:
    task = RetireVersionsOperator(task_id="retire_versions")
    task.cluster = cluster  # type: ignore[assignment]
    found = task.execute({"dag_run": SimpleNamespace(conf={}), "params": {"delete": delete}})  # type: ignore[arg-type]
    assert found["unanswered"] == []
    return [(row["version"], row["deleted"]) for row in found["found"]]


def test_the_janitor_deletes_what_was_let_go_of_and_nothing_else(
    registry: RealRegistry, http: httpx.Client
) -> None:
    image(http, "1")
    old, served, foreign, _, kept = (
        version(http, OLD),
        version(http, SERVED),
        version(http, FOREIGN, maker="somebody"),
        version(http, SHARED),
        version(http, KEPT),
    )
    shared = http.get(f"manifests/1-{SHARED}", headers={"Accept": OCI_MANIFEST}).content
    http.put("manifests/prod", content=shared, headers={"Content-Type": OCI_MANIFEST})
    report = image(http, "")
    beside = old.replace(":", "-")
    listed = {"mediaType": OCI_MANIFEST, "digest": report, "size": 1}
    put(http, beside, OCI_INDEX, manifests=[listed])
    before = tags(http)
    assert before == {
        "1",
        "prod",
        beside,
        *(f"1-{one}" for one in (OLD, SERVED, FOREIGN, SHARED, KEPT)),
    }

    cluster = FakeCluster()
    output = {"image": f"{registry.host}/team/phi:1"}
    cluster.add(
        WORKSPACE,
        {
            "metadata": {"name": NAME, "namespace": "default", "uid": "u"},
            "tuning": {"output": output},
            "status": {"retrain": {"versions": [{"version": KEPT}]}},
        },
    )
    pod = {"spec": {"containers": [{"env": [{"value": f"{registry.host}/team/phi@{served}"}]}]}}
    cluster.add(
        STATEFUL_SET,
        {"metadata": {"name": NAME, "namespace": "default"}, "spec": {"template": pod}},
    )

    assert retire(cluster, delete=False) == [(OLD, False)]
    assert tags(http) == before
    assert retire(cluster, delete=True) == [(OLD, True)]
    assert tags(http) == before - {f"1-{OLD}", beside}
    assert not there(http, old)
    assert not there(http, report)
    assert all(there(http, one) for one in (served, foreign, digest_of(shared), kept))
    assert retire(cluster, delete=True) == []
