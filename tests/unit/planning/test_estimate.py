"""Time and cost: monotone, in phases, near published runs, and written for people."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import load_catalog
from include.catalog.training_shape import TrainingShape
from include.planning import throughput
from include.planning.estimate import dollars, duration, estimate
from include.planning.plan import Plan

CATALOG = load_catalog()
TUNABLE = [model for model in CATALOG.models if model.tuning.supported]
NVIDIA = [machine for machine in CATALOG.machines if machine.nvidia]
KEEPING = TrainingShape(gradient_checkpointing=False)


def a_plan(**changes: Any) -> Plan:
    plan = Plan(
        "tuning", "m", "o/m", "0", "x", 1, 1, "bfloat16", weights_bytes=2**33, tokens_per_second=1000.0
    )
    return dataclasses.replace(plan, **{"estimate_usd_per_hour": 3.6, **changes})


def test_a_run_is_its_phases() -> None:
    made = a_plan().estimate(1_000_000)
    assert [name for name, _ in made.phases] == [
        "machines",
        "image",
        "weights",
        "loading",
        "training",
        "release",
    ]
    assert dict(made.phases)["training"] == 1000
    assert made.usd == pytest.approx(made.seconds * 3.6 / 3600)


def test_serving_trains_nothing() -> None:
    made = a_plan(purpose="serving").estimate(1_000_000)
    assert (made.tokens, "training" in dict(made.phases)) == (0, False)


def test_no_price_no_cost() -> None:
    assert a_plan(estimate_usd_per_hour=None).estimate(10).usd is None


@given(
    st.integers(0, 10**10), st.integers(0, 10**9), st.floats(1, 1e6), st.floats(0, 1e3), st.integers(0, 2**40)
)
def test_more_work_never_takes_less(tokens: int, more: int, rate: float, price: float, weights: int) -> None:
    small = estimate("tuning", weights, tokens, rate, price)
    large = estimate("tuning", weights + more, tokens + more, rate, price)
    assert large.seconds >= small.seconds
    assert (large.usd or 0) >= (small.usd or 0)
    assert estimate("tuning", weights, tokens, rate * 2, price).seconds <= small.seconds


@given(st.sampled_from(TUNABLE), st.sampled_from(NVIDIA), st.sampled_from(["lora", "qlora"]))
def test_throughput_is_positive_and_falls_with_recomputing(model: Any, machine: Any, method: str) -> None:
    kept = throughput.training_tokens_per_second(model, machine, method, KEEPING)
    again = throughput.training_tokens_per_second(
        model, machine, method, dataclasses.replace(KEEPING, gradient_checkpointing=True)
    )
    assert kept >= again > 0
    double = dataclasses.replace(machine, gpus=machine.gpus * 2)
    assert throughput.training_tokens_per_second(model, double, method, KEEPING) > kept


@pytest.mark.parametrize("machine", NVIDIA, ids=lambda machine: machine.name)
def test_every_gpu_has_a_data_sheet(machine: Any) -> None:
    assert machine.gpu in throughput.PEAK_TFLOPS


def test_a_part_of_a_gpu_has_its_share() -> None:
    whole, part = CATALOG.machine("Standard_NV36ads_A10_v5"), CATALOG.machine("Standard_NV6ads_A10_v5")
    assert throughput.peak_flops(part) == pytest.approx(throughput.peak_flops(whole) / 6)


def test_a_published_run_is_within_a_factor_of_three() -> None:
    """PEFT: Llama 3.2 3B, LoRA, 4,457 tokens/s on an L40S, padded and not packed; ours packs (x 3.4, torchtune)."""
    model = dataclasses.replace(CATALOG.model("llama-3.1-8b-instruct"), weights_gib=5.98)
    machine = dataclasses.replace(
        CATALOG.machine("Standard_NC24ads_A100_v4"), gpu="NVIDIA L40S", gpu_memory_gib=48
    )
    got = throughput.training_tokens_per_second(model, machine, "lora", KEEPING)
    assert 1 <= got / 4457 <= 3.4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12, "12 s"), (89.9, "90 s"), (600, "10 min"), (7200, "2.0 h"), (300_000, "3.5 days")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_amounts_are_written_for_people() -> None:
    assert [dollars(usd) for usd in (0.041, 12.5, 1234.4)] == ["0.04 USD", "12.50 USD", "1,234 USD"]
