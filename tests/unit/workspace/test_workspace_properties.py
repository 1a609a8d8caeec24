"""Properties: nothing is lost in a round trip, and nothing but a report ever comes out of validation."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.contracts.redaction import redact
from include.contracts.yaml_documents.dumper import write_yaml
from include.workspace import Fault, Workspace, examine_workspace, parse_workspace, validate
from include.workspace.validation.training_config import config_faults
from tests.support.any_workspace import (
    CATALOG,
    json_values,
    workspaces,
)


@given(workspaces())
@settings(max_examples=150, deadline=None)
def test_parse_dump_parse_is_identity(document: dict[str, Any]) -> None:
    workspace = parse_workspace(document)
    assert workspace.to_dict() == document
    again = parse_workspace(write_yaml(workspace.to_dict()))
    assert again.to_dict() == document
    assert again == workspace


@given(workspaces())
@settings(max_examples=150, deadline=None)
def test_validation_gives_faults_and_nothing_else(document: dict[str, Any]) -> None:
    faults = validate(parse_workspace(document), CATALOG)
    for fault in faults:
        assert isinstance(fault, Fault)
        assert str(fault).endswith(f"[{fault.rule}]")
        assert "\n" not in str(fault)


@given(
    st.one_of(
        json_values,
        st.dictionaries(
            st.sampled_from(
                ["apiVersion", "kind", "metadata", "resource", "tuning", "inference", "status", "spec"]
            ),
            json_values,
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_anything_at_all_gives_a_workspace_or_a_report(data: Any) -> None:
    workspace, faults = examine_workspace(data, CATALOG)
    assert isinstance(workspace, Workspace) or faults
    assert all(str(fault) for fault in faults)


@given(workspaces(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_broken_part_never_hides_in_an_exception(document: dict[str, Any], data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(sorted(document)))
    document = {**document, section: data.draw(json_values)}
    workspace, faults = examine_workspace(document, CATALOG)
    assert isinstance(workspace, Workspace) or faults


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_gives_a_workspace_or_a_report(data: str | bytes) -> None:
    workspace, faults = examine_workspace(data, CATALOG)
    assert isinstance(workspace, Workspace) or faults


@given(st.text(max_size=60))
def test_helpers_never_raise_anything_of_their_own(text: str) -> None:
    for url in (text, f"http://{text}/"):
        with contextlib.suppress(ValueError):
            NetworkPolicy().check_dataset(url)
    redact(text)
    config_faults(text, "qlora")
    with contextlib.suppress(ValueError):
        parse_reference(text)
