"""Server-side apply and managedFields."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster
from sandbox.api.http.negotiation import decoded as body_read
from sandbox.api.writes.fieldsets import decoded, encoded, shown

Json = dict[str, Any]
APPLY = "application/apply-patch+yaml"


def config_map(**data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


async def apply(
    cluster: Cluster, body: Json, manager: str, force: bool = False, resource: str = "configmaps"
) -> Json:
    name = body["metadata"]["name"]
    return await cluster.patch(resource, name, body, content_type=APPLY, field_manager=manager, force=force)


def managers(obj: Json) -> dict[str, set[str]]:
    return {
        f"{entry['manager']}/{entry['operation']}": {shown(path) for path in decoded(entry["fieldsV1"])}
        for entry in obj["metadata"].get("managedFields") or ()
    }


async def test_apply_creates_and_tracks(cluster: Cluster) -> None:
    made = await apply(cluster, config_map(a="1"), "one")
    assert made["data"] == {"a": "1"}
    assert managers(made) == {"one/Apply": {".data.a"}}


async def test_what_is_no_longer_applied_goes(cluster: Cluster) -> None:
    await apply(cluster, config_map(a="1", b="2"), "one")
    await cluster.patch("configmaps", "c", {"data": {"manual": "x"}}, field_manager="two")
    after = await apply(cluster, config_map(a="1"), "one")
    assert after["data"] == {"a": "1", "manual": "x"}


async def test_a_shared_field_stays_until_its_last_owner_lets_go(cluster: Cluster) -> None:
    await apply(cluster, config_map(a="1"), "one")
    both = await apply(cluster, config_map(a="1"), "two")
    assert set(managers(both)) == {"one/Apply", "two/Apply"}
    still = await apply(cluster, config_map(), "one")
    assert still["data"] == {"a": "1"}
    gone = await apply(cluster, config_map(), "two")
    assert not gone.get("data")


async def test_a_conflict_names_manager_and_field(cluster: Cluster) -> None:
    await apply(cluster, config_map(a="1", b="1"), "one")
    with pytest.raises(ApiError) as caught:
        await apply(cluster, config_map(a="2"), "two")
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    assert caught.value.code == 409
    assert caught.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}
    ]
    with pytest.raises(ApiError, match="Apply failed with 2 conflicts"):
        await apply(cluster, config_map(a="2", b="2"), "two")
    forced = await apply(cluster, config_map(a="2"), "two", force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    assert managers(forced) == {"one/Apply": {".data.b"}, "two/Apply": {".data.a"}}


async def test_applying_the_same_again_changes_nothing(cluster: Cluster) -> None:
    first = await apply(cluster, config_map(a="1"), "one")
    again = await apply(cluster, config_map(a="1"), "one")
    assert again["metadata"] == first["metadata"]


async def test_an_update_takes_fields_over(cluster: Cluster) -> None:
    await apply(cluster, config_map(a="1"), "one")
    changed = await cluster.patch("configmaps", "c", {"data": {"a": "2"}}, field_manager="editor")
    assert managers(changed) == {"editor/Update": {".data.a"}}
    with pytest.raises(ApiError, match=r'conflict with "editor" using v1: \.data\.a'):
        await apply(cluster, config_map(a="1"), "one")


async def test_lists_are_owned_by_item(cluster: Cluster, pod: Json) -> None:
    def configured(**container: Any) -> Json:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "d"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}},
            },
        }

    async def deploy(manager: str, **container: Any) -> Json:
        return await apply(cluster, configured(**container), manager, resource="deployments.apps")

    await deploy(
        "one", name="main", image="x", ports=[{"containerPort": 80}], env=[{"name": "A", "value": "1"}]
    )
    both = await deploy("two", name="side", image="y")
    assert [c["name"] for c in both["spec"]["template"]["spec"]["containers"]] == ["side", "main"]
    assert (
        '.spec.template.spec.containers[name="main"].ports[containerPort=80,protocol="TCP"]'
        in managers(both)["one/Apply"]
    )
    fewer = await deploy("one", name="main", image="x")
    main = next(c for c in fewer["spec"]["template"]["spec"]["containers"] if c["name"] == "main")
    assert "env" not in main
    assert "ports" not in main
    assert main["terminationMessagePath"] == "/dev/termination-log"


async def test_the_status_belongs_to_its_own_address(cluster: Cluster, pod: Json) -> None:
    await cluster.create("pods", pod)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "status": {"message": "hi"}}
    ignored = await apply(cluster, body, "one", resource="pods")
    assert "message" not in ignored["status"]
    patched = await cluster.patch(
        "pods", "web", body, subresource="status", content_type=APPLY, field_manager="one"
    )
    assert patched["status"]["message"] == "hi"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": ""}, "must have kind"),
        ({"metadata": {"name": "other"}}, "does not match the name on the URL"),
        ({"metadata": {"name": "c", "managedFields": [{}]}}, "managedFields must be nil"),
    ],
)
async def test_wrong_configurations_are_refused(cluster: Cluster, change: Json, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        await cluster.patch("configmaps", "c", {**config_map(a="1"), **change}, content_type=APPLY)


def test_field_sets_survive_their_encoding() -> None:
    tree = {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:containers": {'k:{"name":"x"}': {".": {}, "f:image": {}}}, "f:list": {'v:"q"': {}}},
    }
    assert encoded(decoded(tree)) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "2026-11-23", "b": 1e3, "c": null}', {"a": "2026-11-23", "b": 1000.0, "c": None}),
        ("{a: 2026-11-23}", {"a": "2026-11-23"}),  # no JSON, but YAML all the same
        ("a: [x, 1.5]\nb: yes\n", {"a": ["x", 1.5], "b": True}),
    ],
)
def test_what_is_applied_may_be_json_or_yaml(text: str, value: dict[str, Any]) -> None:
    assert body_read(text.encode(), "application/apply-patch+yaml") == value


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ApiError, match="unrecognized"):
        body_read(b"{a: [", "application/apply-patch+yaml")
