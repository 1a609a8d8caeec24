"""Which presets can be tuned, and what is said about those that cannot."""

from __future__ import annotations

import pytest

from include.catalog import Model, load_catalog
from include.catalog.architectures import TARGET_MODULES
from include.catalog.tunability import why_not

CATALOG = load_catalog()


@pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: str(model.name))
def test_every_dense_model_whose_layers_are_known_is_tunable(model: Model) -> None:
    known = model.architecture in TARGET_MODULES and model.quantization is None
    assert model.tuning.supported == (known and model.shape is not None and model.pinned)
    assert bool(why_not(model)) != model.tuning.supported
    assert why_not(model) != "nobody has checked it here yet"


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-8b-instruct",
        "llama-3.3-70b-instruct",
        "llama-2-7b",
        "llama-2-13b-chat",
        "llama-2-70b",
        "mistral-7b",
        "mistral-7b-instruct",
        "falcon-7b",
        "falcon-7b-instruct",
        "falcon-40b-instruct",
        "phi-2",
        "deepseek-r1-distill-llama-8b",
        "deepseek-r1-distill-qwen-14b",
    ],
)
def test_a_well_known_model_is_tunable_in_all_its_layers(name: str) -> None:
    model = CATALOG.model(name)
    assert model.tuning.target_modules == TARGET_MODULES[model.architecture]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-oss-20b", "its weights are quantised (mxfp4)"),
        ("qwen3-8b-awq", "quantised (awq)"),
        ("deepseek-v3-0324", "quantised (fp8)"),
        ("qwen3.6-35b-a3b", "mixture of experts"),
        ("gemma-3-4b-instruct", "does not know the layers of Gemma3ForConditionalGeneration"),
        ("granite-4.1-8b", "its shape is not in the catalogue"),
    ],
)
def test_a_no_has_its_reason(name: str, words: str) -> None:
    assert words in why_not(CATALOG.model(name))
