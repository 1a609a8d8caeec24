"""What the forms offer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from kaito.choices import machine_choices, model_choices
from kaito.params import serving_params, tuning_params

from include.catalog import load_catalog

CATALOG = load_catalog()


def test_only_tunable_presets_can_be_tuned_and_all_can_be_served() -> None:
    tunable = {model.name for model in CATALOG.models if model.tuning.supported}
    assert set(tuning_params()["preset"].schema["enum"]) == tunable
    assert set(serving_params()["preset"].schema["enum"]) == {model.name for model in CATALOG.models}


@pytest.mark.parametrize(
    "choices", [model_choices(tunable=False), model_choices(tunable=True), machine_choices()]
)
def test_what_kaito_dropped_comes_last_and_says_so(choices: dict[str, str]) -> None:
    dropped = [text.endswith("deprecated)") for text in choices.values()]
    assert dropped == sorted(dropped)
    assert any(dropped)
    assert not all(dropped)


def test_the_texts_say_size_and_price() -> None:
    assert model_choices(tunable=True)["phi-4"] == "phi-4 (14.7B, 27.3 GiB)"
    assert model_choices(tunable=False)["llama-2-7b"] == "llama-2-7b (7B, 12.6 GiB, gated, deprecated)"
    machines = machine_choices()
    shown = "Standard_NC24ads_A100_v4 (1 x NVIDIA A100, 80 GiB, 3.67 USD/h in 2024-06)"
    assert machines["Standard_NC24ads_A100_v4"] == shown
    assert machines["Standard_ND96isr_H200_v5"] == "Standard_ND96isr_H200_v5 (8 x NVIDIA H200, 141 GiB)"


def test_machines_that_the_workloads_can_use_come_first() -> None:
    machines = [CATALOG.machine(name) for name in machine_choices()]
    order = [(machine.deprecated, not machine.nvidia) for machine in machines]
    assert all(before <= after for before, after in pairwise(order))
    assert len(machines) == len(CATALOG.machines)


@pytest.mark.parametrize("form", [tuning_params(), serving_params()])
def test_each_choice_has_a_text_and_the_default_is_one(form: dict[str, object]) -> None:
    for name in ("preset", "instance_type"):
        param = form[name]
        assert list(param.schema["values_display"]) == param.schema["enum"]  # type: ignore[attr-defined]
        assert param.value in param.schema["enum"]  # type: ignore[attr-defined]
