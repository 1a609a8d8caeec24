"""CustomResourceDefinitions: defaults, pruning, validation, CEL, versions, generation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster, WriteOptions
from sandbox.api.crd import structural_schema
from sandbox.api.http.printing.tables import table

Json = dict[str, Any]
CRDS = "customresourcedefinitions.apiextensions.k8s.io"
MakeDefinition = Callable[..., Json]

SPEC = {
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 5},
                "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                "port": {"x-kubernetes-int-or-string": True},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "nested": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["key"],
                    "items": {
                        "type": "object",
                        "required": ["key"],
                        "properties": {
                            "key": {"type": "string"},
                            "value": {"type": "string", "default": "v"},
                        },
                    },
                },
            },
            "x-kubernetes-validations": [
                {"rule": "self.mode != 'slow' || self.size < 3", "message": "slow widgets are small"},
                {
                    "rule": "self.size >= oldSelf.size",
                    "messageExpression": "'may not shrink from ' + string(oldSelf.size)",
                },
            ],
        },
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    }
}


async def install(cluster: Cluster, make: MakeDefinition, root: Json = SPEC, **version: Any) -> Json:
    return await cluster.create(CRDS, make(root, **version))


def widget(**spec: Any) -> Json:
    return {"metadata": {"name": "w"}, "spec": {"size": 1, **spec}}


async def test_a_definition_is_established(cluster: Cluster, make_definition: MakeDefinition) -> None:
    made = await install(cluster, make_definition)
    true = {c["type"] for c in made["status"]["conditions"] if c["status"] == "True"}
    assert true == {"NamesAccepted", "Established"}
    assert made["status"]["storedVersions"] == ["v1"]
    assert made["spec"]["names"]["listKind"] == "WidgetList"


async def test_defaults_and_pruning(cluster: Cluster, make_definition: MakeDefinition) -> None:
    await install(cluster, make_definition)
    options = WriteOptions(validation="Warn")
    body = widget(extra=1, free={"any": {"thing": [1]}}, nested=[{"key": "a", "other": 2}])
    made = await cluster.create("widgets.example.com", body, options=options)
    assert made["spec"] == {
        "size": 1,
        "mode": "fast",
        "free": {"any": {"thing": [1]}},
        "nested": [{"key": "a", "value": "v"}],
    }
    assert options.warnings == ['unknown field "spec.extra"', 'unknown field "spec.nested[0].other"']
    with pytest.raises(ApiError, match=r'strict decoding error: unknown field "spec\.extra"') as caught:
        await cluster.create("widgets.example.com", body, options=WriteOptions(validation="Strict"))
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"size": None}, "spec.size: Required value"),
        (
            {"size": "x"},
            'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"',
        ),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": 6}, "spec.size: Invalid value: 6: spec.size in body should be less than or equal to 5"),
        ({"mode": "x"}, 'spec.mode: Unsupported value: "x": supported values: "fast", "slow"'),
        ({"name": "A"}, "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"),
        ({"name": "abcdef"}, "spec.name: Too long: may not be more than 5 bytes"),
        ({"port": 1.5}, "spec.port in body must be of type integer,string"),
        ({"nested": [{}]}, "spec.nested[0].key: Required value"),
        ({"nested": [{"key": "a"}, {"key": "a"}]}, 'spec.nested[1]: Duplicate value: {"key":"a"}'),
        ({"mode": "slow", "size": 4}, "is invalid: spec: Invalid value: slow widgets are small"),
    ],
)
async def test_validation(
    cluster: Cluster, make_definition: MakeDefinition, spec: Json, message: str
) -> None:
    await install(cluster, make_definition)
    with pytest.raises(ApiError) as caught:
        await cluster.create("widgets.example.com", widget(**spec))
    assert message in caught.value.message
    assert caught.value.message.startswith('Widget.example.com "w" is invalid: ')
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


async def test_nulls_that_are_not_nullable_are_dropped(
    cluster: Cluster, make_definition: MakeDefinition
) -> None:
    """With a default or without one, in lists and in maps; nullable ones stay, and so do null list items."""
    text = {"type": "string"}
    properties = {
        "plain": text,
        "defaulted": {**text, "default": "d"},
        "nullable": {**text, "nullable": True},
        "listed": {"type": "array", "items": {"type": "object", "properties": {"a": text, "b": text}}},
        "mapped": {"type": "object", "additionalProperties": text},
    }
    await install(
        cluster, make_definition, {"properties": {"spec": {"type": "object", "properties": properties}}}
    )
    given = {
        "plain": None,
        "defaulted": None,
        "nullable": None,
        "listed": [{"a": None, "b": "x"}],
        "mapped": {"k": None, "l": "y"},
    }
    made = await cluster.create("widgets.example.com", {"metadata": {"name": "w"}, "spec": given})
    assert made["spec"] == {"defaulted": "d", "nullable": None, "listed": [{"b": "x"}], "mapped": {"l": "y"}}
    with pytest.raises(ApiError, match=r'spec.listed\[0\]: Invalid value: "null"'):
        await cluster.create("widgets.example.com", {"metadata": {"name": "v"}, "spec": {"listed": [None]}})


async def test_another_case_of_the_kind_is_invalid(cluster: Cluster, make_definition: MakeDefinition) -> None:
    await install(cluster, make_definition)
    message = 'widget.example.com "w" is invalid: kind: Invalid value: "widget": must be Widget'
    with pytest.raises(ApiError) as caught:
        await cluster.create("widgets.example.com", {**widget(), "kind": "widget"})
    assert (caught.value.code, caught.value.message) == (422, message)
    made = await cluster.create("widgets.example.com", widget())
    with pytest.raises(ApiError) as caught:
        await cluster.update("widgets.example.com", {**made, "kind": "widget"})
    assert (caught.value.code, caught.value.message) == (422, message)
    with pytest.raises(
        ApiError, match='pod in version "v1" cannot be handled as a Pod: no kind "pod" is'
    ) as caught:
        await cluster.create("pods", {"kind": "pod", "metadata": {"name": "w"}})
    assert caught.value.code == 400


async def test_all_faults_come_at_once(cluster: Cluster, make_definition: MakeDefinition) -> None:
    await install(cluster, make_definition)
    with pytest.raises(ApiError) as caught:
        await cluster.create("widgets.example.com", widget(size=0, mode="x"))
    assert [cause["field"] for cause in caught.value.details["causes"]] == ["spec.size", "spec.mode"]


async def test_transition_rules(cluster: Cluster, make_definition: MakeDefinition) -> None:
    await install(cluster, make_definition)
    await cluster.create("widgets.example.com", widget(size=2))
    await cluster.patch("widgets.example.com", "w", {"spec": {"size": 3}})
    with pytest.raises(ApiError, match="may not shrink from 3"):
        await cluster.patch("widgets.example.com", "w", {"spec": {"size": 2}})


async def test_generation_with_a_status_subresource(
    cluster: Cluster, make_definition: MakeDefinition
) -> None:
    await install(cluster, make_definition, subresources={"status": {}})
    made = await cluster.create("widgets.example.com", {**widget(), "status": {"phase": "x"}})
    assert "status" not in made
    labelled = await cluster.patch("widgets.example.com", "w", {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    status = await cluster.patch(
        "widgets.example.com", "w", {"status": {"phase": "y"}, "spec": {"size": 2}}, subresource="status"
    )
    assert (status["metadata"]["generation"], status["spec"]["size"], status["status"]) == (
        1,
        1,
        {"phase": "y"},
    )
    grown = await cluster.patch("widgets.example.com", "w", {"spec": {"size": 2}, "status": None})
    assert (grown["metadata"]["generation"], grown["status"]) == (2, {"phase": "y"})


async def test_generation_of_kinds_without_a_spec(cluster: Cluster, make_definition: MakeDefinition) -> None:
    """A KAITO Workspace has `resource` and `tuning` at its root."""
    root = {"properties": {"resource": {"type": "object", "properties": {"count": {"type": "integer"}}}}}
    await install(cluster, make_definition, root, subresources={"status": {}})
    await cluster.create("widgets.example.com", {"metadata": {"name": "w"}, "resource": {"count": 1}})
    changed = await cluster.patch("widgets.example.com", "w", {"resource": {"count": 2}})
    assert changed["metadata"]["generation"] == 2


async def test_two_versions_share_one_object(cluster: Cluster, make_definition: MakeDefinition) -> None:
    definition = make_definition(SPEC)
    [version] = definition["spec"]["versions"]
    older = {**version, "name": "v1alpha1", "storage": False, "deprecated": True}
    definition["spec"]["versions"].append(older)
    await cluster.create(CRDS, definition)
    await cluster.create("widgets.v1alpha1.example.com", widget())
    for served in ("v1", "v1alpha1"):
        found = await cluster.get(f"widgets.{served}.example.com", "w")
        assert found["apiVersion"] == f"example.com/{served}"
    assert (await cluster.get("widgets.example.com", "w"))["apiVersion"] == "example.com/v1"
    assert cluster.resource("widgets.v1alpha1.example.com").custom.deprecation == (
        "example.com/v1alpha1 Widget is deprecated"
    )


async def test_a_version_shows_only_the_fields_that_it_has(
    cluster: Cluster, make_definition: MakeDefinition
) -> None:
    definition = make_definition(SPEC)
    [version] = definition["spec"]["versions"]
    older = copy.deepcopy(version) | {"name": "v1alpha1", "storage": False}
    fields = older["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del fields["name"], fields["nested"]["items"]["properties"]["value"]
    definition["spec"]["versions"].append(older)
    await cluster.create(CRDS, definition)
    body = widget(name="abc", free={"any": [1]}, nested=[{"key": "a", "value": "x"}])
    made = await cluster.create("widgets.v1.example.com", body)
    seen = await cluster.get("widgets.v1alpha1.example.com", "w")
    assert seen["apiVersion"] == "example.com/v1alpha1"
    assert seen["metadata"] == made["metadata"]
    assert seen["spec"] == {"size": 1, "mode": "fast", "free": {"any": [1]}, "nested": [{"key": "a"}]}
    assert await cluster.get("widgets.v1.example.com", "w") == made, "what is stored is whole"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["metadata"].update(name="x.y"), 'must be spec.names.plural+"."+spec.group'),
        (lambda d: d["spec"]["versions"][0].pop("schema"), "schemas are required"),
        (lambda d: d["spec"]["versions"][0].update(storage=False), "exactly one version marked as storage"),
        (lambda d: d["spec"].pop("scope"), "spec.scope: Required value"),
    ],
)
async def test_wrong_definitions_are_refused(
    cluster: Cluster, make_definition: MakeDefinition, change: Callable[[Json], Any], message: str
) -> None:
    definition = make_definition({})
    change(definition)
    with pytest.raises(ApiError) as caught:
        await cluster.create(CRDS, definition)
    assert message in caught.value.message


async def test_columns(cluster: Cluster, make_definition: MakeDefinition) -> None:
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "priority": 1},
    ]
    root = {"properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    await install(cluster, make_definition, root, additionalPrinterColumns=columns)
    made = await cluster.create("widgets.example.com", widget(mode="m"))
    shown = table(cluster.resource("widgets.example.com"), [made], {})
    assert [(c["name"], c["priority"]) for c in shown["columnDefinitions"]] == [
        ("Name", 0),
        ("Size", 0),
        ("Ready", 0),
        ("Age", 0),
        ("Mode", 1),
    ]
    name, size, ready, age, mode = shown["rows"][0]["cells"]
    assert (name, size, ready, mode) == ("w", 1, None, "m")
    assert age.endswith("s")


def test_combined_schemas() -> None:
    one_of = {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert structural_schema.faults(one_of, {"a": 1}, "spec") == []
    [fault] = structural_schema.faults(one_of, {"a": 1, "b": 2}, "spec")
    assert "must validate one and only one schema (oneOf)" in str(fault)
    any_of = {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert "must validate at least one schema (anyOf)" in str(structural_schema.faults(any_of, {}, "spec")[0])
    assert "must not validate the schema (not)" in str(
        structural_schema.faults({"not": {"required": ["a"]}}, {"a": 1}, "x")[0]
    )


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date-time", "2026-11-23T13:00:00Z", "yesterday"),
        ("byte", "YQ==", "%"),
        ("duration", "1h30m", "soon"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    assert structural_schema.faults({"type": "string", "format": name}, good, "x") == []
    assert f"must be of type {name}" in str(
        structural_schema.faults({"type": "string", "format": name}, bad, "x")[0]
    )
