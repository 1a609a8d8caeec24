"""Names: deterministic, valid for their kind, distinct where they must be."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.pools.nodeclaim import node_claim_name
from include.workspace.api import names
from tests.support.workspaces import TUNING, changed


@given(st.text(max_size=120))
def test_a_run_id_label_is_a_label_value(run_id: str) -> None:
    label = names.run_id_label(run_id)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label)


@given(st.text(max_size=100), st.text(max_size=100))
def test_two_run_ids_have_two_labels(one: str, two: str) -> None:
    assert one == two or names.run_id_label(one) != names.run_id_label(two)


def test_an_ordinary_run_id_is_its_own_label() -> None:
    assert names.run_id_label("ml.tune-phi.0b1c2d3e.g3") == "ml.tune-phi.0b1c2d3e.g3"
    long = names.run_id_label("manual__2026-11-23T12:00:00+00:00/" + "x" * 60)
    assert (len(long), long[:20]) == (59, "manual__2026-11-23T1")


def test_the_run_id_of_a_workspace() -> None:
    assert names.run_id(TUNING) == "ml.tune-phi.0b1c2d3e.g3"


def test_node_claims_are_aks_pool_names_and_repeat() -> None:
    name = node_claim_name(TUNING, "tuning", 0)
    assert re.fullmatch(r"ws[0-9a-f]{9}", name)
    assert name == node_claim_name(TUNING, "tuning", 0)


@pytest.mark.parametrize(
    "changes",
    [{"metadata.generation": 4}, {"metadata.uid": "x"}, {"metadata.namespace": "a"}, {"metadata.name": "b"}],
)
def test_node_claims_of_two_workspaces_or_generations_differ(changes: dict[str, Any]) -> None:
    assert node_claim_name(changed(TUNING, changes), "tuning", 0) != node_claim_name(TUNING, "tuning", 0)


def test_node_claims_of_two_pools_and_nodes_differ() -> None:
    made = {
        node_claim_name(TUNING, purpose, index) for purpose in ("tuning", "serving") for index in range(3)
    }
    assert len(made) == 6


def test_children() -> None:
    assert names.work_volume(TUNING) == "tune-phi-work"
    assert names.pod(TUNING, "dataset") == "tune-phi-g3-dataset"
    assert names.tuning_config_map(TUNING) == "tune-phi-g3-tuning"
    assert (names.service(TUNING), names.headless_service(TUNING)) == ("tune-phi", "tune-phi-headless")
    assert names.labels(TUNING, "tuning", "r 1") == {
        "kaito.sh/workspace": "tune-phi",
        "kaito.sh/workspacenamespace": "ml",
        "kaito.sh/component": "tuning",
        "kaito.sh/run-id": names.run_id_label("r 1"),
    }


def test_the_owner_reference() -> None:
    assert names.owner_reference(TUNING) == {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "name": "tune-phi",
        "uid": TUNING["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


@pytest.mark.parametrize(
    ("run_id", "expected"),
    [
        ("team-a.llama.0123abcd.g3", ("0123abcd", 3)),
        ("team-a.llama.0123abcd.g3.r12", ("0123abcd", 3)),
        ("team-a.llama.0123abcd.release", None),
        ("manual__2026-11-23T00:00:00+00:00", None),
    ],
)
def test_a_run_id_tells_what_it_serves(run_id: str, expected: tuple[str, int] | None) -> None:
    assert names.served_by(run_id) == expected


def test_the_ids_of_later_attempts_and_of_releases() -> None:
    assert names.attempt_run_id(TUNING) == names.attempt_run_id(TUNING, 1) == names.run_id(TUNING)
    assert names.attempt_run_id(TUNING, 2) == "ml.tune-phi.0b1c2d3e.g3.r2"
    assert names.release_run_id(TUNING) == "ml.tune-phi.0b1c2d3e.release"
    assert names.release_run_id(TUNING, 3) == "ml.tune-phi.0b1c2d3e.release.r3"


def test_a_run_id_tells_whom_it_serves() -> None:
    assert names.served_by(names.attempt_run_id(TUNING, 2)) == ("0b1c2d3e", 3)
    assert names.served_by("manual__2026-11-23T12:00:00+00:00") is None
