# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""Notices: what is allowed and does nothing, or not what it seems."""

from __future__ import annotations

from typing import Any

import pytest

from include.catalog import load_catalog
from include.contracts.faults import CLOSE_LOOKS, HINTS
from include.workspace import parse_workspace
from include.workspace.validation.notices import notices
from tests.support.workspaces import SERVING, TUNING, changed

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resource.labelSelector.matchLabels": {"app": "x", "kaito.sh/workspace": "y"}}, "kaito.sh/workspace is set by KAITO"),
        ({"resource.preferredNodes": ["n1"]}, "preferredNodes has had no effect"),
        ({"tuning.preset.accessMode": "private"}, "accessMode private is ignored"),
        ({"tuning.preset.name": "falcon-7b"}, "falcon-7b is deprecated: KAITO last had it in v0.10.0."),
        ({"resource.instanceType": "Standard_NC6s_v3"}, "Standard_NC6s_v3 is deprecated"),
        ({"metadata.annotations": {"kaito.sh/roll-out": "true"}}, "did you mean kaito.sh/rollout?"),
        ({"metadata.annotations": {"kaito.sh/q0q1q2q3q4q5q6q7q8q9": "true"}}, "is not known and has no effect."),
        ({"tuning.preset.presetOptions": {"image": "r.example.com/x:1"}}, "presetOptions.image is ignored"),
        ({"metadata.annotations": {"kaito.sh/runtime": "Transformers"}}, "'Transformers' names no runtime, so vllm serves"),
        ({"metadata.annotations": {"kaito.sh/runtime": "transformers", "kaito.sh/performance-mode": "throughput"}}, "performance-mode has no effect with"),
        ({"metadata.annotations": {"kaito.sh/disable-benchmark": "yes"}}, "only 'true' turns the benchmark off"),
        ({"metadata.annotations": {"kaito.sh/enablelb": "true"}}, "only 'True', spelled so"),
        ({"metadata.annotations": {"kaito.sh/use-local-weights": "true"}}, "the tuning itself downloads the model"),
        ({"metadata.annotations": {"kaito.sh/dataset-identity": "kaito-dataset", "kaito.sh/retrain-policy": "weekly"}}, "each look of a retraining reads the whole dataset"),
    ],
)  # fmt: skip
def test_a_notice(changes: dict[str, Any], words: str) -> None:
    found = notices(parse_workspace(changed(TUNING, changes)), CATALOG)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "values",
    [
        {"kaito.sh/runtime": "vllm", "kaito.sh/performance-mode": "throughput"},
        {"kaito.sh/runtime": "transformers", "kaito.sh/performance-mode": "balanced"},
        {"kaito.sh/disable-benchmark": "True", "kaito.sh/enablelb": "True"},
        {
            "kaito.sh/disable-benchmark": "false",
            "kaito.sh/enablelb": "False",
            "kaito.sh/use-local-weights": "true",
        },
    ],
)
def test_what_has_its_effect_needs_no_notice(values: dict[str, str]) -> None:
    assert notices(parse_workspace(changed(SERVING, {"metadata.annotations": values})), CATALOG) == []


def test_a_model_without_a_pinned_revision() -> None:
    document = changed(SERVING, {"inference.preset.name": "qwen3-8b-awq"})
    assert notices(parse_workspace(document), CATALOG) == [
        "qwen3-8b-awq follows the branch main of its repository: a Workspace keeps the commit that this is when its "
        "first run begins, if the hub can be asked then."
    ]


def test_ordinary_workspaces_need_no_notice() -> None:
    for document in (TUNING, SERVING):
        assert notices(parse_workspace(document), CATALOG) == []


def test_a_flood_of_unknown_annotations_costs_few_comparisons_and_few_lines(comparisons: list[str]) -> None:
    unknown = {f"kaito.sh/roll-out-{index:05}": "x" for index in range(20_000)}
    told = notices(parse_workspace(changed(TUNING, {"metadata.annotations": unknown})), CATALOG)
    assert 0 < len(comparisons) <= HINTS * (CLOSE_LOOKS + 1)
    assert told[0] == (
        "annotation kaito.sh/roll-out-00000 is not known and has no effect; did you mean kaito.sh/rollout?"
    )
    assert told[HINTS:] == ["19950 more annotations of kaito.sh/ are not known and have no effect."]


def test_an_endless_annotation_is_told_by_its_beginning() -> None:
    document = changed(TUNING, {"metadata.annotations": {"kaito.sh/" + "x" * 100_000: "1"}})
    assert len(notices(parse_workspace(document), CATALOG)[0]) < 250
