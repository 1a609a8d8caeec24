"""A provider that an installation adds: found by its setting, and all that a run needs of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import TaskSuccessEvent
from kaito.controller.finalizer import request_deletion
from kaito.controller.service_probe import workspace_pools
from kaito.hooks.api import NODE, WORKSPACE, Request
from kaito.providers import registry
from kaito.providers.base import ProviderContext, labels_of
from kaito.providers.byo import OwnNodes
from kaito.providers.settings import PoolSettings
from kaito.settings import policy
from kaito.triggers import base

from examples.pool_providers.labelled_nodes import SET_ASIDE, LabelledNodes
from include.workspace.api import names
from tests.support.fake_cluster import FakeCalls, FakeCluster
from tests.support.tasks import create, release
from tests.support.triggers import NAME, ending, pool_trigger

PROJECT = Path(__file__).resolve().parents[3]
PATH = "examples.pool_providers.labelled_nodes:LabelledNodes"


class Labelling(FakeCluster):
    """A cluster whose Nodes can be labelled."""

    def send(self, request: Request) -> dict[str, Any]:
        if request.method != "PATCH":
            return super().send(request)
        node = self.objects["nodes", "", request.path.rpartition("/")[2]]
        change = request.body["metadata"]
        assert change["uid"] == node["metadata"]["uid"]
        labels = {**node["metadata"]["labels"], **change["labels"]}
        node["metadata"]["labels"] = {key: value for key, value in labels.items() if value is not None}
        return node


@pytest.fixture
def cluster() -> Labelling:
    return Labelling()


@pytest.fixture(autouse=True)
def installed(
    monkeypatch: pytest.MonkeyPatch, cluster: Labelling, workspace: dict[str, Any], context: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDERS", f"{LabelledNodes.name}={PATH}")
    monkeypatch.setattr(base, "AsyncKaitoClusterHook", lambda conn_id: FakeCalls(cluster))
    for kept in (
        cluster.objects["workspaces", "default", NAME],
        context["ti"].xcoms["preflight"]["workspace"],
    ):
        kept["metadata"].setdefault("annotations", {})[names.POOL_PROVIDER] = LabelledNodes.name


def stand(cluster: FakeCluster, name: str, gpus: str = "1") -> None:
    labels = {
        SET_ASIDE: "true",
        "app": "tuning-phi-3",
        "node.kubernetes.io/instance-type": "Standard_NC6s_v3",
    }
    told = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": gpus}}
    cluster.add(NODE, {"metadata": {"name": name, "labels": labels}, "status": told})


def taken(cluster: FakeCluster) -> list[str]:
    return [n["metadata"]["name"] for n in cluster.list(NODE) if names.WORKSPACE in n["metadata"]["labels"]]


async def test_a_run_takes_waits_for_and_gives_back_its_machines(
    cluster: Labelling, context: dict[str, Any]
) -> None:
    stand(cluster, "first")
    stand(cluster, "second")
    assert create(cluster).execute(context)["made"] == ["first"]
    assert create(cluster).execute(context)["made"] == [], "a second try takes up the first one's"
    event = await ending(pool_trigger())
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms["return_value"]["nodes"] == ["first"]
    release(cluster).execute(context)
    assert taken(cluster) == []
    assert len(cluster.list(NODE)) == 2, "the machines themselves stay"


def test_what_is_not_there_is_told_in_the_providers_own_words(
    cluster: Labelling, context: dict[str, Any]
) -> None:
    with pytest.raises(AirflowFailException, match=r"1 Node\(s\) are needed and 0 of those"):
        create(cluster).execute(context)


def test_a_release_and_the_reconciler_see_its_pools(
    cluster: Labelling, context: dict[str, Any], workspace: dict[str, Any]
) -> None:
    from kaito.controller.finalizer import look
    from kaito.hooks.cluster_calls import run

    stand(cluster, "first")
    create(cluster).execute(context)
    live = cluster.find(WORKSPACE, NAME, "default") or {}
    settings = PoolSettings(LabelledNodes.name)
    shown = registry.provider(cluster, settings, live).list_owned(labels_of(live))
    seen = workspace_pools([], cluster.list(NODE), settings, shown)
    assert (seen.provider, seen.complete, seen.watched) == (LabelledNodes.name, True, False)
    assert [pool.name for pool in seen.pools] == ["first"]
    remains = run(look(cluster.calls, live, 1800.0))
    assert "Node first" in str(remains)
    assert request_deletion(cluster, live, remains) == ["Node first"]
    assert taken(cluster) == []


@pytest.fixture
def toy() -> Iterator[None]:
    registry.register("toy", LabelledNodes)
    yield
    registry.unregister("toy")


@pytest.mark.usefixtures("toy")
def test_a_provider_may_be_registered_by_code_too() -> None:
    assert registry.lookup("toy") is LabelledNodes
    assert registry.lookup(LabelledNodes.name) is LabelledNodes, "by the setting"
    assert {"toy", LabelledNodes.name} < set(registry.provider_names())
    assert LabelledNodes.name in policy().pool_providers, "so that admission takes the annotation"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("labelled", "must be NAME=package.module:Class"),
        ("toy=no.such:Thing", "Provider toy cannot be imported from no.such.Thing"),
        ("toy=json:JSONDecoder", "must be a kaito.providers.base.PoolProvider"),
    ],
)
def test_a_setting_that_names_no_provider_is_told(
    monkeypatch: pytest.MonkeyPatch, setting: str, words: str
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDERS", setting)
    with pytest.raises(ValueError, match=words):
        registry.lookup("toy")


def test_the_products_own_names_are_taken() -> None:
    with pytest.raises(ValueError, match="the product has one of that name"):
        registry.register("byo", OwnNodes)


def test_the_manual_shows_the_very_module_that_is_tested_here() -> None:
    module = (PROJECT / "examples" / "pool_providers" / "labelled_nodes.py").read_text()
    assert f"```python\n{module}```" in (PROJECT / "docs" / "extending.md").read_text()


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_clouds_own_sdk_is_called_beside_the_event_loop(cluster: Labelling, blocking: bool) -> None:
    """What docs/extending.md promises of `call`: in a task at once, in a trigger in a thread of its own."""
    calls = FakeCalls(cluster)
    calls.blocking = blocking
    provider = LabelledNodes(ProviderContext(calls))  # type: ignore[arg-type]
    here = threading.get_ident()
    assert (await provider.call(threading.get_ident) == here) is blocking
