"""What the CustomResourceDefinition refuses `check` refuses too, in a sentence; walked limit by limit of its schema."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from include.catalog import load_catalog
from include.workspace import Policy, examine_workspace, workspace_crd
from include.workspace.api.limits import PATTERNS
from sandbox.api.crd import custom_resources
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed

CATALOG = load_catalog()
VERSIONS: dict[str, dict[str, Any]] = {
    version["name"]: version["schema"]["openAPIV3Schema"] for version in workspace_crd()["spec"]["versions"]
}
ADAPTER = {"source": {"name": "a", "image": "r.example.com/a:1"}}
#: Good items of lists, where they are no plain names.
ITEMS: dict[str, Any] = {
    "urls[]": "https://example.com/a.parquet",
    "adapters[]": ADAPTER,
    "matchExpressions[]": {"key": "a", "operator": "In", "values": ["1"]},
}
WRONG_TYPE = {"string": ["a"], "integer": "1", "array": "a", "object": "a"}


class Limit(NamedTuple):
    """One limit of the schema, and a value beyond it."""

    version: str
    place: str
    key: str
    bound: Any
    value: Any


def limits(version: str, schema: dict[str, Any], place: str = "") -> Iterator[Limit]:
    """Each limit at and below a place of the schema; a list's items are at `[]`, a mapping's values at `{}`."""
    if place in ("status", "metadata"):
        return
    item = next((good for end, good in ITEMS.items() if place.endswith(end[:-2])), "a")
    for key, bound in schema.items():
        beyond: dict[str, Any] = {
            "maxItems": lambda n: [item] * (n + 1),
            "maxProperties": lambda n: {f"k{index}": "v" for index in range(n + 1)},
            "maxLength": lambda n: ("https://example.com/" if place.endswith("urls[]") else "").ljust(
                n + 1, "a"
            ),
            "minLength": lambda n: "a" * (n - 1),
            "minimum": lambda n: n - 1,
            "enum": lambda _: "neither",
            "type": lambda name: WRONG_TYPE[name],
        }
        if key in beyond and place:
            yield Limit(version, place, key, bound, beyond[key](bound))
        for name in bound if key == "required" else ():
            yield Limit(version, f"{place}.{name}", key, name, REMOVE)
    if place in PATTERNS:
        yield Limit(version, place, "pattern", PATTERNS[place].regex, " !")
    for name, inner in schema.get("properties", {}).items():
        yield from limits(version, inner, f"{place}.{name}" if place else name)
    for key, end in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from limits(version, schema[key], place + end)


LIMITS = [limit for version, schema in VERSIONS.items() for limit in limits(version, schema)]


def broken(limit: Limit) -> tuple[dict[str, Any], str]:
    """A Workspace whose one fault is a value beyond the limit, and the path of that value."""
    changes: dict[str, Any] = {"apiVersion": f"kaito.sh/{limit.version}"}
    document = (
        TUNING if limit.place.startswith("tuning") else changed(SERVING, {"inference.adapters": [ADAPTER]})
    )
    if limit.place.startswith("resource.partition"):
        count = {"mode": "accelerator", "count": 1}
        partition = {"mode": "mig", "profile": "1g.10gb"} if limit.place.endswith("profile") else count
        changes |= {"resource.instanceType": REMOVE, "resource.partition": partition}
    result: Any = copy.deepcopy(changed(document, changes))
    path, owner, step = "", result, ""
    steps = re.findall(r"[^.\[{]+|\[\]|\{\}", limit.place)
    for step, following in zip(steps, [*steps[1:], ""], strict=True):
        name: Any = {"[]": 0, "{}": "app"}.get(step, step)
        path += "[0]" if step == "[]" else "[app]" if step == "{}" else f".{step}" if path else step
        if not following:
            break
        empty: Any = [] if following == "[]" else {}
        if step == "[]":
            good = next(
                (good for end, good in ITEMS.items() if path.endswith(end.replace("[]", "[0]"))), empty
            )
            owner[:] = owner[:1] or [copy.deepcopy(good)]
            owner = owner[0]
        else:
            owner = owner.setdefault(name, empty)
    if step == "[]":
        owner[:] = [limit.value]
    elif limit.value is REMOVE:
        owner.pop(name, None)
    else:
        owner[name] = limit.value
    return result, path


def test_the_walk_meets_every_kind_of_limit() -> None:
    keys = (
        "maxItems",
        "maxLength",
        "maxProperties",
        "minimum",
        "minLength",
        "pattern",
        "enum",
        "type",
        "required",
    )
    assert {limit.key for limit in LIMITS} == set(keys)
    assert len(LIMITS) > 200


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.version}-{limit.place}-{limit.key}")
def test_check_refuses_what_the_schema_refuses(limit: Limit) -> None:
    document, path = broken(limit)
    same = (path, path.replace("[app]", ".app"))  # of a mapping's value
    refused = custom_resources.refusals(VERSIONS[limit.version], document, None)
    assert {fault.field for fault in refused} & set(same)
    policy = Policy(byo=path.startswith("resource.partition"), mig=True, accelerator=True)
    _, faults = examine_workspace(document, CATALOG, policy)
    told = [fault for fault in faults if fault.path in same]
    assert told, f"only {[str(fault) for fault in faults]}"
    for fault in told:
        text = str(fault)
        assert re.search(r"must|is required|is not|at most|cannot", text)
        if isinstance(limit.value, str | int):
            assert repr(limit.value)[:60] in text
        if fault.rule == "S7" and limit.key in ("maxItems", "maxLength", "maxProperties", "minimum"):
            assert re.search(rf"\b{limit.bound}\b", text), text
        assert "^" not in text, "a regular expression is no sentence"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"metadata.annotations": {"note": "x" * 262141}},
            "metadata.annotations: must have at most 262144 bytes (256 KiB) in all, keys and values together "
            "(got 262145); keep long texts in a ConfigMap [S8]",
        ),
        (
            {"metadata.annotations": {"my note": "x"}},
            "metadata.annotations[my note]: is not a key it can have; write name or domain/name [S8]",
        ),
        (
            {"metadata.labels": {"a/b/c": "x"}},
            "metadata.labels[a/b/c]: is not a key it can have; write name or domain/name [S8]",
        ),
        (
            {"metadata.labels": {"team": "ml & co"}},
            "metadata.labels[team]: is not a label value (got 'ml & co'); use at most 63 letters, digits, '-', '_' "
            "and '.', with a letter or digit at both ends [S8]",
        ),
    ],
)
def test_metadata_that_the_api_server_refuses(changes: dict[str, Any], sentence: str) -> None:
    _, faults = examine_workspace(changed(TUNING, changes), CATALOG)
    assert [str(fault) for fault in faults] == [sentence]


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata.annotations": {"note": "x" * 262140}},
        {"metadata.annotations": {"Example.COM/Note": ""}},
        {"metadata.labels": {"example.com/team": "", "a": "B_c.d-1"}},
        {"tuning.input.urls": [f"https://example.com/{index}" for index in range(64)]},
        {"tuning.input.urls": ["https://example.com/".ljust(4096, "a")]},
        {"resource.preferredNodes": ["n"] * 1000},
    ],
)
def test_what_is_just_within_its_limits_passes(changes: dict[str, Any]) -> None:
    _, faults = examine_workspace(changed(TUNING, changes), CATALOG)
    assert faults == []
