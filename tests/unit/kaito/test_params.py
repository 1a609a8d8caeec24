"""What a form or a conf asks for."""

from __future__ import annotations

from typing import Any

import pytest
from kaito.params import Requested, differences, requested, serving_params, tuning_params

from include.catalog import load_catalog
from include.workspace import examine_workspace

DEFAULTS = {key: param.value for key, param in tuning_params().items()}


def asked(conf: dict[str, Any], purpose: str = "tuning") -> Requested:
    defaults = (
        DEFAULTS if purpose == "tuning" else {key: param.value for key, param in serving_params().items()}
    )
    return requested({**defaults, **conf}, conf, defaults, purpose)


def test_the_whole_yaml_is_taken_as_it_is() -> None:
    document = {"apiVersion": "kaito.sh/v1beta1", "metadata": {"name": "w"}, "tuning": {"method": "lora"}}
    found = asked({"workspace": document})
    assert found == Requested("w", "default", document, said=True)
    assert found.api_version == "kaito.sh/v1beta1"


def test_metadata_alone_names_a_workspace_in_the_cluster() -> None:
    assert asked({"workspace": {"metadata": {"name": "w", "namespace": "team"}}}) == Requested(
        "w", "team", None, True
    )


def test_a_name_alone_names_a_workspace_in_the_cluster() -> None:
    assert asked({"name": "w"}).document is None


def test_a_form_left_alone_says_nothing_about_an_existing_workspace() -> None:
    found = asked({**DEFAULTS, "name": "w", "question": "Who?"})
    assert found.document is not None
    assert not found.said


def test_a_filled_in_form_is_a_workspace_of_the_quick_starts_dialect() -> None:
    found = asked(
        {
            "name": "w",
            "output_image": "registry.example.com/a:1",
            "push_secret": "push",
            "method": "lora",
            "config": "mine",
            "roll_out": False,
            "objective": "dpo",
        }
    )
    assert found.said
    workspace, faults = examine_workspace(found.document or {}, load_catalog())
    assert faults == []
    assert workspace is not None
    assert (workspace.method, workspace.rollout, workspace.objective) == ("lora", False, "dpo")
    assert found.document["tuning"]["config"] == "mine"


def test_the_serving_form_takes_an_adapter() -> None:
    found = asked(
        {"name": "w", "adapter_image": "registry.example.com/a@sha256:" + "0" * 64, "pull_secret": "s"},
        "serving",
    )
    workspace, faults = examine_workspace(found.document or {}, load_catalog())
    assert faults == []
    assert workspace is not None
    assert workspace.inference is not None
    assert workspace.inference.adapters is not None


@pytest.mark.parametrize("workspace", [{"metadata": []}, {"metadata": "w"}, {"spec": {}}])
def test_nonsense_stays_a_document_so_that_its_faults_are_named(workspace: dict[str, Any]) -> None:
    assert asked({"workspace": workspace}).document == workspace


def test_differences_are_paths_and_ignore_what_was_not_asked_for() -> None:
    live = {"tuning": {"method": "qlora", "input": {"urls": ["a"]}}, "status": {}}
    assert differences({"tuning": {"method": "lora", "input": {"urls": ["a"]}}}, live) == ["tuning.method"]
    assert differences({"tuning": {"config": "c"}}, {}) == ["tuning"]
