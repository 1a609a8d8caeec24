"""The order in which machines are asked for, and the proof that each is large enough."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import Machine, load_catalog
from include.planning import Plan, candidates
from include.workspace import Workspace, parse_workspace
from include.workspace.api import names
from tests.support.plans import serving, tuning

CATALOG = load_catalog()
A100, H100, V100 = "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5", "Standard_NC6s_v3"


def annotated(ws: Workspace, machines: str = "", terms: str = "") -> Workspace:
    notes = {names.INSTANCE_TYPES: machines, names.CAPACITY_TYPE: terms}
    document = ws.to_dict()
    document["metadata"]["annotations"] = {key: text for key, text in notes.items() if text}
    return parse_workspace(document)


def offers(ws: Workspace, **how: Any) -> list[str]:
    return [one.offer for one in candidates(ws, CATALOG, **how).plans]


@pytest.mark.parametrize(
    ("machines", "terms", "expected"),
    [
        ("", "", [V100]),
        (f"{A100.lower()}@1 , {H100}", "", [V100, f"{A100}@1", H100]),
        ("", "spot", [f"{V100}/spot"]),
        (A100, "spot,on-demand", [f"{V100}/spot", f"{A100}/spot", f"{V100}/on-demand", f"{A100}/on-demand"]),
        (f"{V100}@2,{V100}@1", "", [V100, f"{V100}@2", f"{V100}@1"]),
    ],
)
def test_the_workspaces_own_machine_comes_first_and_spot_before_on_demand(
    machines: str, terms: str, expected: list[str]
) -> None:
    assert offers(annotated(tuning(), machines, terms)) == expected


def test_each_alternative_has_the_plan_of_its_own_machine() -> None:
    found = candidates(annotated(tuning(), H100), CATALOG).plans
    assert [one.dtype for one in found] == ["float16", "bfloat16"]
    assert found[0].gpu_memory_bytes < found[1].gpu_memory_bytes
    assert [one.training and one.training.rank for one in found] == [16, 16]
    assert not any(one.own_nodes for one in found)


def test_what_an_exact_plan_shows_to_be_too_small_is_left_out_with_a_sentence() -> None:
    wide = {"training_config": {"TrainingArguments": {"per_device_train_batch_size": 64, "max_length": 4096}}}
    ws = annotated(tuning(machine=H100), f"{V100},{A100}")
    assert offers(ws) == [H100, V100, A100]
    found = candidates(ws, CATALOG, wide)
    assert V100 not in [one.instance_type for one in found.plans]
    assert found.left_out[0].startswith(f"{V100} is no alternative: it needs ")
    assert f"Warning: {found.left_out[0]}" in found.sentences()


def test_a_service_keeps_the_context_that_was_asked_for_on_every_machine() -> None:
    ws = annotated(serving("phi-3-mini-128k-instruct", H100), A100)
    found = candidates(ws, CATALOG, {"vllm": {"max-model-len": 8192}})
    assert [(one.instance_type, one.max_model_len) for one in found.plans] == [(H100, 8192), (A100, 8192)]


def test_a_tuned_model_is_served_in_the_same_order() -> None:
    ws = annotated(tuning(), A100, "spot")
    found = candidates(ws, CATALOG, serving=True).plans
    assert [(one.purpose, one.offer) for one in found] == [
        ("serving", f"{V100}/spot"),
        ("serving", f"{A100}/spot"),
    ]


def test_the_sentences_name_each_alternative_with_its_price() -> None:
    told = candidates(annotated(tuning(), f"{A100}@1", "spot,on-demand"), CATALOG).sentences()
    assert f"What is asked for first is {V100} as spot." in told
    others = [sentence for sentence in told if sentence.startswith("Alternative")]
    assert others == [
        f"Alternative 1, if the cloud has none of those: 1 x {A100} in zone 1 as spot (1 NVIDIA A100 each) in "
        "bfloat16, at most 3.67 USD an hour.",
        f"Alternative 2, if the cloud has none of those: 1 x {V100} on demand (1 NVIDIA V100 each) in float16, "
        "about 3.06 USD an hour.",
        f"Alternative 3, if the cloud has none of those: 1 x {A100} in zone 1 on demand (1 NVIDIA A100 each) in "
        "bfloat16, about 3.67 USD an hour.",
    ]
    assert told[-1].startswith("Warning: ")


def test_byo_nodes_have_no_alternative() -> None:
    own: Machine = CATALOG.machine(A100)
    assert offers(annotated(tuning(), H100, "spot"), machine=own) == [A100]


@given(
    st.lists(
        st.sampled_from([A100, H100, f"{A100}@1", f"{H100}@3", "Standard_NC96ads_A100_v4"]), unique=True
    ),
    st.sampled_from(["", "spot", "on-demand", "spot,on-demand", "on-demand,spot"]),
)
def test_all_are_asked_for_once_and_survive_the_way_between_tasks(listed: list[str], terms: str) -> None:
    found = candidates(annotated(tuning(), ",".join(listed), terms), CATALOG).plans
    assert (
        len({one.offer for one in found}) == len(found) == (len(listed) + 1) * max(1, len(terms.split(",")))
    )
    assert [Plan.from_dict(one.to_dict()) for one in found] == list(found)
