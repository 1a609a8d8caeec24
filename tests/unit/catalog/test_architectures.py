"""The list of model types against the transformers that is installed here, which the workloads image pins."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from include.catalog import load_catalog
from include.catalog.architectures import TARGET_MODULES, loadable
from include.catalog.loading import PRESETS


def known_to_transformers() -> dict[str, tuple[str, ...]]:
    """AutoModelForCausalLM's table, read from its source: importing it takes seconds."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    for node in ast.parse(source.read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
        ):
            assert isinstance(node.value, ast.Call)
            pairs = ast.literal_eval(node.value.args[0])
            return {key: (value,) if isinstance(value, str) else tuple(value) for key, value in pairs}
    raise AssertionError("transformers has no such table any more")


def test_every_listed_type_is_one_that_transformers_loads() -> None:
    known = known_to_transformers()
    assert {kind: name for kind, name in loadable().items() if name not in known.get(kind, ())} == {}


def test_every_tunable_architecture_can_be_loaded() -> None:
    assert set(TARGET_MODULES) <= set(loadable().values())


@pytest.mark.parametrize("name", ["bert", "whisper", "t5", "clip"])
def test_what_writes_no_text_is_not_listed(name: str) -> None:
    assert name not in loadable()


def test_presets_that_are_tuned_have_an_architecture_of_the_list() -> None:
    tuned = {model.architecture for model in load_catalog(PRESETS).models if model.tuning.supported}
    assert tuned <= set(TARGET_MODULES)
