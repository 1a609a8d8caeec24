from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from include.catalog import load_catalog
from include.planning import server_environment
from include.workloads.contract import UserConfigError
from include.workloads.serving.__main__ import choose_default
from include.workloads.serving.adapters import Adapter, base_names, check_base, find_adapters


def adapter(root: Path, name: str, **config: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"q_proj.lora_A.weight": np.zeros((8, 4), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def test_no_folder_and_an_empty_one_mean_no_adapter(tmp_path: Path) -> None:
    assert find_adapters(tmp_path / "missing") == []
    assert find_adapters(tmp_path) == []


def test_adapters_come_sorted_with_their_strength(tmp_path: Path) -> None:
    adapter(tmp_path, "tone")
    adapter(tmp_path, "facts")
    found = find_adapters(tmp_path, {"tone": "0.5"})
    assert [(item.name, item.rank, item.strength) for item in found] == [("facts", 8, 1.0), ("tone", 8, 0.5)]


def test_a_volume_that_a_tuning_has_written_is_a_source_as_it_is(tmp_path: Path) -> None:
    adapter(tmp_path / "machines", "adapter")
    (tmp_path / "machines" / "report").mkdir()
    [found] = find_adapters(tmp_path, {"machines": "0.5"})
    assert (found.name, found.path, found.strength) == ("machines", tmp_path / "machines" / "adapter", 0.5)


def test_an_adapter_at_a_volume_s_root_goes_before_a_folder_of_it(tmp_path: Path) -> None:
    path = adapter(tmp_path, "tone")
    adapter(path, "adapter")
    assert [one.path for one in find_adapters(tmp_path)] == [path]


@pytest.mark.parametrize("strength", ["1.5", "-0.1", "much", "nan"])
def test_a_strength_that_is_not_a_share_is_refused(tmp_path: Path, strength: str) -> None:
    adapter(tmp_path, "tone")
    with pytest.raises(UserConfigError, match="must be a number from 0 to 1"):
        find_adapters(tmp_path, {"tone": strength})


def test_every_broken_adapter_is_named(tmp_path: Path) -> None:
    adapter(tmp_path, "good")
    (adapter(tmp_path, "no-config") / "adapter_config.json").unlink()
    (adapter(tmp_path, "torn-config") / "adapter_config.json").write_text("{")
    adapter(tmp_path, "other-kind", peft_type="PREFIX_TUNING")
    pickle = adapter(tmp_path, "pickle")
    (pickle / "adapter_model.safetensors").rename(pickle / "adapter_model.bin")
    (adapter(tmp_path, "torn-weights") / "adapter_model.safetensors").write_bytes(b"xx")
    save_file({"w": np.zeros(1, np.float32)}, adapter(tmp_path, "empty") / "adapter_model.safetensors")
    with pytest.raises(UserConfigError) as caught:
        find_adapters(tmp_path)
    text = str(caught.value)
    assert "good" not in text
    for expected in (
        "Adapter no-config: there is no adapter_config.json",
        "Adapter torn-config: adapter_config.json cannot be read",
        "Adapter other-kind: peft_type is PREFIX_TUNING",
        "Adapter pickle: there is no adapter_model.safetensors",
        "found adapter_model.bin, a format that can run code",
        "Adapter torn-weights: adapter_model.safetensors is damaged",
        "Adapter empty: adapter_model.safetensors holds no LoRA tensors",
    ):
        assert expected in text


def loaded(*names: str) -> list[Adapter]:
    return [Adapter(name, Path(name), 8, "org/base", 1.0) for name in names]


def test_the_only_adapter_is_the_default_and_several_need_a_name() -> None:
    assert choose_default([], None) is None
    assert choose_default(loaded("a"), None) == "a"
    assert choose_default(loaded("a", "b"), None) is None
    assert choose_default(loaded("a", "b"), "b") == "b"
    with pytest.raises(UserConfigError, match="the adapters here are a, b"):
        choose_default(loaded("a", "b"), "c")


def test_another_base_model_is_worth_a_warning() -> None:
    assert check_base(loaded("a"), {"org/base", "preset"}) == []
    assert "made for org/base" in check_base(loaded("a"), {"org/else"})[0]


@pytest.mark.parametrize("served", ["preset", "helper"])
def test_the_base_model_is_known_by_the_hub_s_name_and_the_preset_s_whatever_it_is_served_as(
    served: str,
) -> None:
    """An adapter for HuggingFaceTB/SmolLM2-135M-Instruct was said not to be for smollm2-135m-instruct."""
    model = load_catalog().model("smollm2-135m-instruct")
    made = SimpleNamespace(model=model.name, model_id=model.hf_id, dtype="float32")
    config = {"vllm": {"served-model-name": "helper"}} if served == "helper" else None
    environment = server_environment(made, config=config)
    known = base_names(environment["SERVED_MODEL_NAME"], environment)
    adapters = [Adapter("a", Path("a"), 8, base, 1.0) for base in (model.hf_id, model.name)]
    assert check_base(adapters, known) == []
    assert len(check_base(loaded("b"), known)) == 1
    assert base_names("x", {}) == {"x"}
