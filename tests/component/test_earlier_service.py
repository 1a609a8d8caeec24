"""A service that is put back, against an API server: what stood before, and nothing of what came between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kaito.hooks import api
from kaito.hooks.api import STATEFUL_SET
from kaito.operators.rollout import unrolled
from kaito.tasks import earlier_service

from include import manifests
from include.catalog import load_catalog
from include.manifests import ManifestSettings
from include.planning import plan_serving
from include.workspace import parse_workspace
from tests.support.installed import Installed


class Written:
    """A cluster without a ConfigMap, that keeps what it is told to apply."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def find(self, *_: Any) -> None:
        return None

    def apply(self, _: Any, document: dict[str, Any]) -> None:
        self.documents.append(document)


async def test_what_is_put_back_is_what_stood_before_to_the_letter(cluster: Installed) -> None:
    catalog, document = load_catalog(), await cluster.quick_start()

    def wanted(run: str, mode: str, live: Any) -> dict[str, Any]:
        document["metadata"]["annotations"] = {"kaito.sh/performance-mode": mode}
        workspace = parse_workspace(document)
        made = manifests.stateful_set(
            workspace, plan_serving(workspace, catalog), ManifestSettings.defaults(catalog), run
        )
        return unrolled(made, live, None)

    await cluster.hook.apply(STATEFUL_SET, wanted("one", "balanced", None))
    name = document["metadata"]["name"]
    live = await cluster.hook.find(STATEFUL_SET, name, "default")
    before = await cluster.admin.send(
        api.status_patch(STATEFUL_SET, live, {"replicas": 1, "readyReplicas": 1})
    )
    later: Any = SimpleNamespace(run_id="two", document=document, namespace="default")
    changed, written = wanted("two", "throughput", before), Written()
    earlier_service.note(written, later, changed, before)  # type: ignore[arg-type]
    after = await cluster.hook.apply(STATEFUL_SET, changed)
    assert after["spec"] != before["spec"]
    assert earlier_service.put_back(written, later, after)  # type: ignore[arg-type]
    [again] = written.documents
    now = await cluster.hook.apply(STATEFUL_SET, again)
    assert now["spec"] == before["spec"]
    for part in ("uid", "labels", "annotations", "ownerReferences"):
        assert now["metadata"].get(part) == before["metadata"].get(part), part
