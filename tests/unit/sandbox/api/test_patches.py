"""JSON, merge and strategic merge patches."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.errors import ApiError
from sandbox.api.kinds.builtin import BUILTINS
from sandbox.api.writes.patch import (
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    merge,
    patched,
)

Json = dict[str, Any]
PODS = next(info for info in BUILTINS if info.plural == "pods")
SERVICES = next(info for info in BUILTINS if info.plural == "services")


def containers(*names: str, **more: Any) -> Json:
    return {"spec": {"containers": [{"name": name, **more} for name in names]}}


def strategic(current: Json, patch: Json) -> Json:
    return patched(PODS, current, patch, STRATEGIC_PATCH)


def test_merge_patch() -> None:
    current = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert merge(current, {"a": {"b": None, "d": {"e": None, "f": 1}}, "l": [3]}) == {
        "a": {"c": 2, "d": {"f": 1}},
        "l": [3],
    }
    assert current == {"a": {"b": 1, "c": 2}, "l": [1, 2]}


def test_json_patch() -> None:
    current = {"metadata": {"labels": {"a": "b"}}}
    patch = [
        {"op": "test", "path": "/metadata/labels/a", "value": "b"},
        {"op": "remove", "path": "/metadata/labels/a"},
    ]
    assert patched(PODS, current, patch, JSON_PATCH) == {"metadata": {"labels": {}}}
    with pytest.raises(ApiError) as caught:
        patched(PODS, current, [{"op": "remove", "path": "/nowhere"}], JSON_PATCH)
    assert caught.value.code == 422


def test_lists_merge_by_key() -> None:
    current = containers("a", "b", image="old")
    result = strategic(current, {"spec": {"containers": [{"name": "b", "image": "new"}, {"name": "c"}]}})
    assert result["spec"]["containers"] == [
        {"name": "a", "image": "old"},
        {"name": "b", "image": "new"},
        {"name": "c"},
    ]


def test_items_are_deleted_by_directive() -> None:
    patch = {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}
    assert strategic(containers("a", "b"), patch) == containers("b")


def test_lists_and_maps_are_replaced_by_directive() -> None:
    patch = {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}
    assert strategic(containers("a", "b"), patch) == containers("z")
    current = {"metadata": {"labels": {"a": "1", "b": "2"}}}
    patch = {"metadata": {"labels": {"c": "3", "$patch": "replace"}}}
    assert strategic(current, patch) == {"metadata": {"labels": {"c": "3"}}}


def test_order_follows_the_patch() -> None:
    order = {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}
    result = strategic(containers("a", "b"), {"spec": order})
    assert [item["name"] for item in result["spec"]["containers"]] == ["c", "a", "b"]


def test_primitive_lists_merge_and_lose_values() -> None:
    current = {"metadata": {"finalizers": ["a", "b"]}}
    assert strategic(current, {"metadata": {"finalizers": ["c", "a"]}}) == {
        "metadata": {"finalizers": ["a", "b", "c"]}
    }
    assert strategic(current, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}) == {
        "metadata": {"finalizers": ["b"]}
    }


def test_lists_without_a_key_are_replaced() -> None:
    current = containers("a", args=["x", "y"])
    assert strategic(current, containers("a", args=["z"])) == containers("a", args=["z"])


def test_retained_keys() -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    patch = [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]
    result = strategic({"spec": {"volumes": volumes}}, {"spec": {"volumes": patch}})
    assert result["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_service_ports_merge_by_port() -> None:
    current = {"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}}
    result = patched(SERVICES, current, {"spec": {"ports": [{"port": 81, "name": "c"}]}}, STRATEGIC_PATCH)
    assert [port["name"] for port in result["spec"]["ports"]] == ["a", "c"]


def test_a_missing_merge_key_is_refused() -> None:
    with pytest.raises(ApiError, match="does not contain declared merge key: name"):
        strategic(containers("a"), {"spec": {"containers": [{"image": "x"}]}})


@pytest.mark.parametrize(("patch", "media"), [([], MERGE_PATCH), ({}, JSON_PATCH), ({}, "text/plain")])
def test_wrong_bodies_are_refused(patch: Any, media: str) -> None:
    with pytest.raises(ApiError):
        patched(PODS, {}, patch, media)


def test_merge_patches_drop_nulls_inside_lists() -> None:
    """As the library of the real API server does; RFC 7386 would keep them."""
    assert merge({"a": [{"x": 1}]}, {"a": [{"x": None, "y": {"z": None, "k": 2}}]}) == {
        "a": [{"y": {"k": 2}}]
    }
    assert merge({}, {"a": [[{"x": None}], None]}) == {"a": [[{}], None]}
