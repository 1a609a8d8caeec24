"""A conf with a typing error, or without a Workspace, runs nothing and touches nothing, whichever DAG gets it."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.params import janitor_params, release_params, serving_params, tuning_params
from kaito.run_conf import NAMED, conf_faults, identity_faults, refuse

from tests.support.fake_cluster import QUICK_START, FakeCluster
from tests.support.tasks import preflight

FORMS = [tuning_params, serving_params, release_params, janitor_params]


@pytest.mark.parametrize("form", FORMS)
def test_the_fields_of_a_form_are_known(form: Any) -> None:
    assert conf_faults(dict.fromkeys(form()), form()) == []


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("wokspace", "did you mean workspace?"),
        ("Workspace", "did you mean workspace?"),
        ("dataset-url", "did you mean dataset_url?"),
        ("metadata", "a Workspace is written below the key workspace"),
        ("tuning", "a Workspace is written below the key workspace"),
        ("zzz", "known here: "),
    ],
)
def test_an_unknown_key_is_named_with_what_would_be_right(key: str, hint: str) -> None:
    (fault,) = conf_faults({key: {}, "name": "w"}, tuning_params())
    assert fault.startswith(f"{key}: is no field of this DAG; ")
    assert hint in fault


@pytest.mark.parametrize(
    "params", [{}, {"workspace": {}}, {"workspace": None, "name": None}, {"workspace": {}, "name": ""}]
)
def test_a_run_without_a_workspace_says_how_to_name_one(params: dict[str, Any]) -> None:
    (fault,) = identity_faults(params)
    assert NAMED in fault


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(AirflowFailException) as refused:
        refuse(["a: one", "b: two"])
    assert "2 faults" in str(refused.value)
    assert "a: one" in str(refused.value)
    assert "b: two" in str(refused.value)


@pytest.mark.parametrize("form", [tuning_params, serving_params, release_params])
def test_no_form_comes_with_a_name_or_a_place_that_would_run(form: Any) -> None:
    values = {key: param.value for key, param in form().items()}
    assert identity_faults(values) != []
    assert not any("HERE" in str(value) for value in values.values())


@pytest.mark.parametrize(
    "conf",
    [
        {"wokspace": QUICK_START},
        {"wokspace": QUICK_START, "name": "workspace-tuning-phi-3"},
        {},
        {"workspace": {}},
        {"preset": "phi-4"},
        QUICK_START,
    ],
)
@pytest.mark.parametrize("purpose", ["tuning", "serving"])
def test_preflight_touches_nothing_for_a_conf_that_cannot_be_used(
    cluster: FakeCluster, workspace: dict[str, Any], conf: dict[str, Any], purpose: str
) -> None:
    before = str(cluster.objects)
    with pytest.raises(AirflowFailException, match="conf cannot be used"):
        preflight(cluster, conf, purpose)
    assert cluster.writes == []
    assert str(cluster.objects) == before
