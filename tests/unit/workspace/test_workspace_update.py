# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""Updates: what may not change, what may, and that no edit gets past the rules of create."""

from __future__ import annotations

from typing import Any

import pytest

from include.catalog import load_catalog
from include.workspace import Policy, examine_update, parse_workspace, update_faults
from tests.support.quick_start import QUICK_START
from tests.support.rule_cases import BETA_TEMPLATE, update_rules
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed

CATALOG = load_catalog()
BYO = Policy(byo=True)
NODE_CLASS = "kaito.sh/node-class-name"


@pytest.mark.parametrize("document", [QUICK_START, TUNING, SERVING, BETA_TEMPLATE])
def test_a_workspace_may_stay_as_it_is(document: Any) -> None:
    workspace = parse_workspace(document)
    assert update_faults(workspace, workspace, CATALOG) == []


@pytest.mark.parametrize(
    ("document", "changes"),
    [
        (TUNING, {"tuning.method": "QLoRA"}),
        (TUNING, {"resource.instanceType": "standard_nc24ADS_a100_v4"}),
        (TUNING, {"tuning.preset.name": "Phi-3-MINI-128k-instruct"}),
        (TUNING, {"tuning.preset.accessMode": "public"}),
        (TUNING, {"resource.count": 1}),
        (TUNING, {"resource.labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["tune"]}]}}),
        (TUNING, {"tuning.input.urls": ["https://example.com/other.parquet"]}),
        (TUNING, {"tuning.input": {"image": "r.example.com/data:1"}}),
        (TUNING, {"tuning.output.image": "registry.example.com/adapters/phi:2"}),
        (TUNING, {"tuning.config": "other"}),
        (TUNING, {"resource.preferredNodes": ["a"]}),
        (TUNING, {"metadata.annotations": {"kaito.sh/rollout": "true"}}),
        (SERVING, {"inference.adapters": [{"source": {"name": "a", "image": "r.example.com/a:1"}}]}),
        (SERVING, {"inference.config": "mine"}),
        (BETA_TEMPLATE, {"inference.template": {"spec": {"containers": [{"name": "b", "image": "j"}]}}}),
    ],
)  # fmt: skip
def test_what_may_change(document: dict[str, Any], changes: dict[str, Any]) -> None:
    old, new = parse_workspace(document), parse_workspace(changed(document, changes))
    assert update_faults(old, new, CATALOG) == []


@pytest.mark.parametrize(
    ("document", "changes", "rule"),
    [
        (TUNING, {"tuning.input.image": "r.example.com/data:1"}, "U5"),
        (TUNING, {"tuning.output.volumeSource": {"persistentVolumeClaim": {"claimName": "x"}}}, "U8"),
        (TUNING, {"tuning.input.urls": ["http://169.254.169.254/latest"]}, "U7"),
        (TUNING, {"tuning.output.imagePushSecret": REMOVE}, "U10"),
        (TUNING, {"metadata.annotations": {"kaito.sh/node-image-family": "windows"}}, "C5"),
        (TUNING, {"metadata.annotations": {"kaito.sh/performance-mode": "fast"}}, "C6"),
        (TUNING, {"metadata.annotations": {"kaito.sh/use-local-weights": "yes"}}, "C7"),
        (SERVING, {"inference.adapters": [{"source": {"name": f"a{i}", "image": "r.example.com/a:1"}} for i in range(11)]}, "I10"),
        (SERVING, {"inference.adapters": [{"source": {"name": "a", "urls": ["https://example.com/a"]}}]}, "A5"),
        (SERVING, {"inference.adapters": [{}]}, "A1"),
    ],
)  # fmt: skip
def test_upstream_forgets_on_update_what_it_checks_on_create(
    document: dict[str, Any], changes: dict[str, Any], rule: str
) -> None:
    old, new = parse_workspace(document), parse_workspace(changed(document, changes))
    assert [fault.rule for fault in update_faults(old, new, CATALOG)] == [rule]


def test_sizing_is_checked_on_update_too() -> None:
    """A method that fits and one that does not: only the preflight of the next run would have said it."""
    changes = {"resource.instanceType": "Standard_NC6s_v3", "tuning.preset.name": "phi-4"}
    old = parse_workspace(changed(TUNING, changes))
    faults = update_faults(old, parse_workspace(changed(old.to_dict(), {"tuning.method": "lora"})), CATALOG)
    assert [(fault.rule, fault.path) for fault in faults] == [
        ("X14", "tuning.method"),
        ("F9", "resource.instanceType"),
    ]


def test_every_table_entry_is_an_update_rule() -> None:
    assert {f"X{number}" for number in range(1, 17)} == set(update_rules())


def test_with_byo_nodes_the_machine_type_may_go_but_not_come() -> None:
    """X6."""
    with_type = parse_workspace(TUNING)
    without = parse_workspace(changed(TUNING, {"resource.instanceType": REMOVE}))
    other = parse_workspace(changed(TUNING, {"resource.instanceType": "Standard_NC40ads_H100_v5"}))
    assert update_faults(with_type, without, CATALOG, BYO) == []
    assert update_faults(with_type, with_type, CATALOG, BYO) == [], "it was there before the cluster changed"
    assert [f.rule for f in update_faults(without, with_type, CATALOG, BYO)] == ["X6"]
    assert [f.rule for f in update_faults(with_type, other, CATALOG, BYO)] == ["X6"]
    assert [f.rule for f in update_faults(with_type, without, CATALOG)] == ["X5"]


def test_a_machine_type_may_be_given_for_the_first_time() -> None:
    """X5: as the API server's own rule has it."""
    with_type = parse_workspace(TUNING)
    without = parse_workspace(changed(TUNING, {"resource.instanceType": REMOVE}))
    assert update_faults(without, with_type, CATALOG) == []
    assert update_faults(without, with_type, CATALOG, Policy(auto=True)) == []


def test_a_node_class_is_judged_only_when_it_changes() -> None:
    """X15."""
    policy = Policy(node_classes=("managed",))
    stale = parse_workspace(changed(TUNING, {"metadata.annotations": {NODE_CLASS: "gone"}}))
    other = parse_workspace(changed(TUNING, {"metadata.annotations": {NODE_CLASS: "unknown"}}))
    assert update_faults(stale, stale, CATALOG, policy) == []
    assert [f.rule for f in update_faults(stale, other, CATALOG, policy)] == ["C8"]


def test_v1alpha1_counts_its_default_machine_as_the_old_one() -> None:
    """X4: the API server fills the default in, which is no change."""
    bare = changed(TUNING, {"apiVersion": "kaito.sh/v1alpha1", "resource.instanceType": REMOVE})
    filled = changed(bare, {"resource.instanceType": "Standard_NC24ads_A100_v4"})
    assert update_faults(parse_workspace(bare), parse_workspace(filled), CATALOG) == []
    other = changed(bare, {"resource.instanceType": "Standard_NC40ads_H100_v5"})
    assert [f.rule for f in update_faults(parse_workspace(bare), parse_workspace(other), CATALOG)] == ["X4"]


def test_all_changes_are_told_at_once_with_both_values() -> None:
    new = changed(
        TUNING,
        {
            "tuning.preset.name": "phi-4",
            "tuning.method": "lora",
            "resource.labelSelector.matchLabels.app": "x",
        },
    )
    faults = update_faults(parse_workspace(TUNING), parse_workspace(new), CATALOG)
    told = {fault.path: str(fault) for fault in faults}
    assert set(told) == {"tuning.preset.name", "tuning.method", "resource.labelSelector"}
    assert "it was 'phi-3-mini-128k-instruct' (got 'phi-4')" in told["tuning.preset.name"]


def test_a_controller_revision_is_enough_to_judge_an_update() -> None:
    data = {key: TUNING[key] for key in ("resource", "tuning")} | {"inference": None}
    assert examine_update(TUNING, data, CATALOG)[1] == []
    _, faults = examine_update(changed(TUNING, {"tuning.method": "lora"}), data, CATALOG)
    assert [(fault.rule, fault.path) for fault in faults] == [("X14", "tuning.method")]


def test_faults_of_the_schema_and_of_the_change_come_together() -> None:
    new = changed(TUNING, {"tuning.method": "lora", "tuning.inputs": {}})
    _, faults = examine_update(new, TUNING, CATALOG)
    assert [fault.rule for fault in faults] == ["S6", "X14"]


@pytest.mark.parametrize("before", [None, {}, [], {"tuning": 3}, {"tuning": None}, "x"])
def test_an_old_state_that_cannot_be_read_hides_nothing_of_the_new(before: Any) -> None:
    _, faults = examine_update(changed(TUNING, {"tuning.method": "dora"}), before, CATALOG)
    assert "U1" in [fault.rule for fault in faults]
