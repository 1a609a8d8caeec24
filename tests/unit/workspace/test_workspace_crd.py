"""The CRD: structural, in step with the models and with the committed manifest, and with the quick start's columns."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from include.catalog import load_catalog
from include.cli.main import CRD_FILE, crd_text
from include.workspace import examine_workspace, parse_workspace, workspace_crd
from include.workspace.api.names import STORED_VERSION
from sandbox.api.crd import cel_rules, custom_resources, structural_schema
from tests.support.quick_start import QUICK_START
from tests.support.rule_cases import BETA_TEMPLATE, UPDATES, Update
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed

CRD = workspace_crd()
VERSIONS: dict[str, dict[str, Any]] = {version["name"]: version for version in CRD["spec"]["versions"]}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def accepts(version: str, document: Any) -> bool:
    schema = VERSIONS[version]["schema"]["openAPIV3Schema"]
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


def test_the_committed_manifest_is_up_to_date() -> None:
    committed = (Path(__file__).parents[3] / CRD_FILE).read_text()
    assert committed == crd_text(), "run: python -m include.cli crd > " + CRD_FILE
    assert yaml.safe_load(committed) == CRD


def test_identity() -> None:
    spec = CRD["spec"]
    assert CRD["metadata"]["name"] == "workspaces.kaito.sh"
    assert (spec["group"], spec["scope"], spec["names"]["shortNames"]) == (
        "kaito.sh",
        "Namespaced",
        ["wk", "wks"],
    )
    assert {name: (v["served"], v["storage"]) for name, v in VERSIONS.items()} == {
        "v1alpha1": (True, False),
        "v1beta1": (True, True),
    }
    assert STORED_VERSION == "v1beta1"
    assert all(version["subresources"] == {"status": {}} for version in VERSIONS.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_get_shows_the_quick_start_s_columns(version: str) -> None:
    columns = VERSIONS[version]["additionalPrinterColumns"]
    narrow = [column["name"].upper() for column in columns if not column.get("priority")]
    assert narrow == ["INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert wide == [
        "JobStarted",
        "WorkspaceSucceeded",
        "TargetNodeCount",
        "State",
        "Stage",
        "Percent",
        "Adapter",
    ]


def _costs(schema: dict[str, Any], times: int = 1) -> Iterator[tuple[str, float]]:
    """What the API server reckons that each rule about a text's look costs at most, for all its places in an object.

    By k8s.io/apiserver/pkg/cel/library/cost.go and cel-go's checker/cost.go: a letter may be four bytes, a text is
    walked through for a tenth of a unit a byte, and a match takes that times a quarter of the expression's length.
    """
    size = 4 * schema.get("maxLength", 3 * 2**20 // 4)
    for one in schema.get("x-kubernetes-validations", ()):
        for regex in re.findall(r"matches\('(.*)'\)", one["rule"]):
            walk = math.ceil((size + 1) * 0.1)
            cost = walk * math.ceil(len(regex) * 0.25) + walk * one["rule"].count("lowerAscii")
            yield one["rule"], times * cost
    for inner in (schema.get("properties") or {}).values():
        yield from _costs(inner, times)
    for key, most in (("items", "maxItems"), ("additionalProperties", "maxProperties")):
        if isinstance(schema.get(key), dict):
            yield from _costs(schema[key], times * schema.get(most, 10**6))


@pytest.mark.parametrize("version", VERSIONS)
def test_no_rule_costs_more_than_the_api_server_allows(version: str) -> None:
    """It refuses the whole CRD otherwise. One for the URLs of all adapters cost 1.4 times as much as is allowed."""
    costs = list(_costs(VERSIONS[version]["schema"]["openAPIV3Schema"]))
    assert len(costs) > 5
    assert [(rule, cost) for rule, cost in costs if cost > 10_000_000] == []
    assert sum(cost for _, cost in costs) < 100_000_000


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_is_structural(version: str) -> None:
    for path, node in nodes(VERSIONS[version]["schema"]["openAPIV3Schema"]):
        assert node.get("type") in {"object", "array", "string", "integer", "boolean", "number"}, path
        assert not {"$ref", "$defs", "anyOf", "title"} & set(node), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if node["type"] == "array":
            assert "items" in node, path
        if node["type"] == "object" and path not in (".metadata",):
            kinds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
            assert kinds & set(node), f"{path} would be pruned to nothing"
        for rule in node.get("x-kubernetes-validations", []):
            assert {"rule", "message"} <= set(rule) <= {"rule", "message", "fieldPath", "reason"}
            assert rule.get("fieldPath", "").strip(".") in {"", *node.get("properties", {})}
            assert rule.get("reason", "FieldValueRequired") == "FieldValueRequired"


def test_kubernetes_own_types_are_not_pruned() -> None:
    opaque = {
        path
        for path, node in nodes(VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"])
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    assert {path for path in opaque if not path.startswith(".status")} == {
        ".inference.template",
        ".inference.adapters[].source.volumeSource",
        ".tuning.input.volumeSource",
        ".tuning.output.volumeSource",
    }
    assert ".status" in opaque, "a status field of another controller must survive"


def test_rules_name_fields_that_exist() -> None:
    """A CEL rule with an unknown field makes the API server refuse the whole CRD."""
    for version in VERSIONS.values():
        for path, node in nodes(version["schema"]["openAPIV3Schema"]):
            for rule in node.get("x-kubernetes-validations", []):
                for chain in re.findall(r"\b(?:self|oldSelf)((?:\.[a-zA-Z]+)+)(?!\w*\()", rule["rule"]):
                    place: Any = node
                    for step in chain.strip(".").split("."):
                        if path == "" and chain.startswith(".metadata"):
                            break
                        if step in ("lowerAscii", "matches"):
                            break
                        assert step in place.get("properties", {}), f"{path}: {rule['rule']}"
                        place = place["properties"][step]


def test_versions_differ_as_kaitos_do() -> None:
    alpha = {path: node for path, node in nodes(VERSIONS["v1alpha1"]["schema"]["openAPIV3Schema"])}
    beta = {path: node for path, node in nodes(VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"])}
    assert {path for path in set(beta) - set(alpha) if not path.startswith(".resource.partition.")} == {
        ".resource.partition",
        ".tuning.preset.presetOptions.modelAccessSecret",
        ".inference.preset.presetOptions.modelAccessSecret",
    }
    assert set(alpha) <= set(beta)
    assert alpha[".resource.instanceType"]["default"] == "Standard_NC24ads_A100_v4"
    assert "default" not in beta[".resource.instanceType"]
    assert beta[".resource.count"]["default"] == 1


@pytest.mark.parametrize("document", [yaml.safe_load(QUICK_START), TUNING, SERVING])
def test_good_workspaces_pass_the_schema(document: dict[str, Any]) -> None:
    assert accepts(document["apiVersion"].partition("/")[2], document)
    assert parse_workspace(document)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/train.parquet",
        "HTTPS://example.com/train.parquet",
        "hf://datasets/org/name@main/train.parquet",
        "s3://bucket/train.jsonl?region=eu-west-1",
        "s3a://bucket/train.jsonl",
        "gs://bucket/folder/",
        "GCS://bucket/part-*.parquet",
        "abfs://container@account.dfs.core.windows.net/train.csv",
        "abfss://container@account.dfs.core.windows.net/train.csv",
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_takes_data_from_wherever_the_rules_do(version: str, url: str) -> None:
    document = changed(TUNING, {"apiVersion": f"kaito.sh/{version}", "tuning.input.urls": [url]})
    _, faults = examine_workspace(document, load_catalog())
    assert faults == []
    assert accepts(version, document)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning.input": REMOVE},
        {"tuning.preset": {}},
        {"resource.count": "1"},
        {"resource.count": 0},
        {"resource.labelSelector": REMOVE},
        {"tuning.preset.accessMode": "secret"},
    ],
)
def test_the_schema_alone_refuses(changes: dict[str, Any]) -> None:
    assert not accepts("v1beta1", changed(TUNING, changes))


@pytest.mark.parametrize("method", ["lora", "QLoRA", "qlora", "LORA"])
def test_methods_pass_in_any_letter_case(method: str) -> None:
    assert refusals(changed(TUNING, {"tuning.method": method})) == []


@pytest.mark.parametrize(
    ("document", "changes", "sentence"),
    [
        (TUNING, {"tuning.method": "dora"}, "tuning.method: must be lora or qlora"),
        (
            TUNING,
            {"tuning.input.urls": ["ftp://example.com"]},
            "tuning.input.urls[0]: must be a URL that begins with https://, http://, hf://, s3://, gs://, abfs://",
        ),
        (TUNING, {"tuning.input.urls": ["file:///etc/passwd"]}, "tuning.input.urls[0]: must be a URL that"),
        (TUNING, {"tuning.input.urls": ["s3:/bucket/rows"]}, "tuning.input.urls[0]: must be a URL that"),
        (
            TUNING,
            {"tuning.config": "My Config"},
            "tuning.config: must be the name of a Secret or ConfigMap: lower-case letters, digits, '-' and '.'",
        ),
        (
            TUNING,
            {"tuning.output.image": "a b"},
            "tuning.output.image: must be an image reference, without white",
        ),
        (
            SERVING,
            {"inference.adapters": [{"source": {"name": "a", "image": "i"}, "strength": "much"}]},
            'inference.adapters[0].strength: must be a number from 0 to 1 as text, such as "0.5"',
        ),
    ],
)
def test_a_text_that_looks_wrong_is_refused_with_a_sentence(
    document: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    """kubectl prints a pattern of the schema as its regular expression, so there is none."""
    field, _, right = sentence.partition(": ")
    [(name, message)] = refusals(changed(document, changes))
    assert name == field
    assert right in message
    for version in VERSIONS.values():
        own = version["schema"]["openAPIV3Schema"]["properties"]
        for part in ("resource", "inference", "tuning"):
            assert not [path for path, node in nodes(own[part]) if "pattern" in node]


def test_a_status_that_we_write_passes_the_schema() -> None:
    from datetime import UTC, datetime

    from include.workspace import Phase
    from include.workspace.status import conditions

    status = conditions.progress(
        TUNING,
        Phase.ACCEPTED,
        message="m",
        now=datetime.now(UTC),
        nodes=["n"],
        target_nodes=1,
        adapter={"image": "a", "digest": "d", "reference": "r"},
    )
    assert accepts("v1beta1", {**TUNING, "status": status})
    known = set(VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"])
    assert set(status) <= known


def refusals(document: dict[str, Any], old: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """(field, message) of all that an API server would refuse, by the sandbox's reading of the schema."""
    version = VERSIONS[document["apiVersion"].partition("/")[2]]["schema"]["openAPIV3Schema"]
    new, before = copy.deepcopy(document), copy.deepcopy(old)
    for each in (new, before):
        structural_schema.apply_defaults(version, each)
    found = custom_resources.refusals(version, new, before)
    return [(fault.field, fault.message) for fault in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_rule_can_be_evaluated(version: str) -> None:
    """A rule with a function that nobody knows would be skipped without a word."""
    for path, node in nodes(VERSIONS[version]["schema"]["openAPIV3Schema"]):
        for rule in node.get("x-kubernetes-validations", []):
            assert cel_rules._program(rule["rule"]) is not None, f"{path}: {rule['rule']}"


FIXED_BY_SCHEMA = ("X1", "X2", "X3", "X4", "X5", "X7", "X8", "X9", "X10", "X11", "X12", "X14")


@pytest.mark.parametrize(
    ("rule", "case"),
    [pytest.param(rule, case, id=rule) for rule in FIXED_BY_SCHEMA for case in UPDATES[rule]],
)
def test_the_api_server_itself_refuses_changes(
    rule: str, case: Update, caplog: pytest.LogCaptureFixture
) -> None:
    new = changed(case.before, case.changes)
    if (rule == "X5" and "instanceType" not in new["resource"]) or (
        rule == "X2" and "count" not in new["resource"]
    ):
        return  # clearing the type is for BYO nodes (X6); a count that is left out is one
    found = refusals(new, case.before)
    assert found
    assert refusals(case.before, case.before) == []
    assert not caplog.records, "no rule may be skipped"
    shown = case.path.partition(".")[0]
    assert any(shown in f"{field} {message}" for field, message in found)


@pytest.mark.parametrize(
    ("document", "changes"),
    [
        (TUNING, {"tuning.method": "QLoRA"}),
        (TUNING, {"resource.instanceType": "standard_nc24ads_a100_v4"}),
        (TUNING, {"resource.instanceType": REMOVE}),
        (TUNING, {"tuning.preset.name": "PHI-3-mini-128k-instruct"}),
        (TUNING, {"tuning.preset.accessMode": "public"}),
        (TUNING, {"tuning.input.name": ""}),
        (TUNING, {"tuning.input": {"image": "r.example.com/d:1"}}),
        (TUNING, {"tuning.output": {"volumeSource": {"persistentVolumeClaim": {"claimName": "c"}}}}),
        (TUNING, {"tuning.config": "mine"}),
        (TUNING, {"resource.labelSelector.matchExpressions": []}),
        (SERVING, {"inference.adapters": [{"source": {"name": "a", "image": "r.example.com/a:1"}}]}),
        (BETA_TEMPLATE, {"inference.template": {"spec": {"containers": [{"name": "other"}]}}}),
    ],
)
def test_the_api_server_lets_through_what_may_change(
    document: dict[str, Any], changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert refusals(changed(document, changes), document) == []
    assert not caplog.records


ADAPTER = {"name": "a", "image": "r.example.com/a:1"}


@pytest.mark.parametrize(
    ("document", "changes", "field"),
    [
        (TUNING, {"tuning": REMOVE}, "<nil>"),
        (TUNING, {"inference": SERVING["inference"]}, "<nil>"),
        (TUNING, {"metadata.name": "Tune_Phi"}, "<nil>"),
        (TUNING, {"resource.count": 2}, "<nil>"),
        (TUNING, {"resource.partition": {"mode": "mig"}}, "<nil>"),
        (TUNING, {"tuning.preset": REMOVE}, "tuning.preset"),
        (TUNING, {"tuning.method": REMOVE}, "tuning.method"),
        (TUNING, {"tuning.method": "dora"}, "tuning.method"),
        (TUNING, {"tuning.input": {}}, "tuning.input"),
        (TUNING, {"tuning.input.image": "r.example.com/d:1"}, "tuning.input"),
        (TUNING, {"tuning.input.urls": ["ftp://example.com/a"]}, "tuning.input.urls[0]"),
        (TUNING, {"tuning.output": {}}, "tuning.output"),
        (TUNING, {"tuning.output.imagePushSecret": REMOVE}, "tuning.output.imagePushSecret"),
        (TUNING, {"tuning.output.imagePushSecret": "A B"}, "tuning.output.imagePushSecret"),
        (TUNING, {"tuning.output.image": "has a space"}, "tuning.output.image"),
        (TUNING, {"tuning.config": "A_B"}, "tuning.config"),
        (TUNING, {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "Exists"}]},
         "resource.labelSelector.matchExpressions[0]"),
        (SERVING, {"inference": {}}, "inference"),
        (SERVING, {"inference.template": {"spec": {}}}, "inference"),
        (SERVING, {"inference.adapters": [{"source": {**ADAPTER, "name": f"a{i}"}} for i in range(11)]},
         "inference.adapters"),
        (SERVING, {"inference.adapters": [{"source": ADAPTER}, {"source": ADAPTER}]}, "inference.adapters"),
        (SERVING, {"inference.adapters": [{}]}, "inference.adapters[0].source"),
        (SERVING, {"inference.adapters": [{"source": {"image": "r.example.com/a"}}]},
         "inference.adapters[0].source.name"),
        (SERVING, {"inference.adapters": [{"source": {"name": "a"}}]}, "inference.adapters[0].source"),
        (SERVING, {"inference.adapters": [{"source": {**ADAPTER, "urls": ["https://a"]}}]},
         "inference.adapters[0].source.urls"),
        (SERVING, {"inference.adapters": [{"source": ADAPTER, "strength": "1.5"}]},
         "inference.adapters[0].strength"),
        (SERVING, {"inference.adapters": [{"source": ADAPTER, "strength": "much"}]},
         "inference.adapters[0].strength"),
        (SERVING, {"resource.partition": {"mode": "mig", "count": 1}}, "resource.partition.count"),
        (SERVING, {"resource.partition": {"mode": "accelerator"}}, "resource.partition.count"),
        (SERVING, {"resource.partition": {"mode": "slices"}}, "resource.partition.mode"),
    ],
)  # fmt: skip
def test_the_api_server_names_the_field(
    document: dict[str, Any], changes: dict[str, Any], field: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = refusals(changed(document, changes))
    assert field in [name for name, _ in found]
    assert not caplog.records
    _, faults = examine_workspace(changed(document, changes), load_catalog())
    assert faults, "check refuses it too"


def test_conditions_are_a_map_by_type() -> None:
    """Else server-side apply gives all conditions to one controller."""
    for version in VERSIONS.values():
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        assert status["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
        assert all(node.get("description") for name, node in status["properties"].items())


def test_the_manifest_has_no_yaml_anchors() -> None:
    assert not re.search(r"[&*]id\d", crd_text())


def test_the_quick_start_as_printed_passes_the_api_server() -> None:
    """Upstream's schema takes it; what is to be filled in there is told by the conditions."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert refusals(yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])) == []
