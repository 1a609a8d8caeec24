"""Further presets folders: what overrides what, and whom an error names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from include.catalog import load_catalog, records
from include.catalog.loading import PRESETS, PresetsError, UnknownName

OWN_MODEL = """
models:
  - name: {name}
    hf_id: {hf_id}
    revision: main
    status: current
    architecture: LlamaForCausalLM
    weights_gib: 2.5
    context: 4096
    attention: MHA
    kv_bytes_per_token: 4096
    dtype: bfloat16
    {more}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("models", "skus", "tuning"):
        (tmp_path / part).mkdir()
    return tmp_path


def own_model(folder: Path, name: str = "our-model", hf_id: str = "us/our-model", more: str = "") -> None:
    (folder / "models" / "ours.yaml").write_text(OWN_MODEL.format(name=name, hf_id=hf_id, more=more))


def test_an_extra_folder_adds_and_replaces_by_name(folder: Path) -> None:
    own_model(folder, name="Phi-4", hf_id="us/better-phi")
    (folder / "skus" / "ours.yaml").write_text(
        "cloud: byo\nmachines: [{name: standard_nc6s_v3, gpu: NVIDIA V100, gpus: 3, gpu_memory_gib: 32}]\n"
    )
    (folder / "images.yaml").write_text("images: {workloads: registry.example.com/kaito-workloads:2}\n")
    (folder / "tuning" / "lora.yaml").write_text("training_config: {}\n")
    catalog = load_catalog(PRESETS, folder)
    base = load_catalog(PRESETS)
    assert catalog.model("phi-4").hf_id == "us/better-phi"
    assert len(catalog.models) == len(base.models)
    with pytest.raises(UnknownName):
        catalog.model("microsoft/phi-4")  # the whole record is replaced, its hub id too
    assert catalog.machine("Standard_NC6s_v3").gpus == 3
    assert catalog.image("workloads") == "registry.example.com/kaito-workloads:2"
    assert catalog.tuning_config("lora") == "training_config: {}\n"
    assert catalog.tuning_config("qlora") == base.tuning_config("qlora")


def test_the_environment_names_further_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_model(folder)
    assert not load_catalog().has_model("our-model")
    monkeypatch.setenv("KAITO_PRESETS", f":{folder}: ")
    assert load_catalog().model("US/our-model").name == "our-model"
    assert load_catalog() is load_catalog()  # read once


def test_the_last_folder_wins(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    last = tmp_path_factory.mktemp("last")
    (last / "models").mkdir()
    own_model(folder, hf_id="a/one")
    own_model(last, hf_id="b/two")
    assert load_catalog(PRESETS, folder, last).model("our-model").hf_id == "b/two"
    assert load_catalog(PRESETS, last, folder).model("our-model").hf_id == "a/one"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [{name: a, colour: red}]", r"ours\.yaml: a: .*colour"),
        ("models: [{name: a, shape: 3}]", r"ours\.yaml: a: "),
        ("models: [{name: a, tuning: [x]}]", r"ours\.yaml: a: "),
        ("models: [", r"ours\.yaml: this is not YAML"),
        ("machines: []", r"ours\.yaml: needs a list of records under 'models'"),
    ],
)
def test_an_error_names_the_file(folder: Path, text: str, said: str) -> None:
    (folder / "models" / "ours.yaml").write_text(text)
    with pytest.raises(PresetsError, match=said):
        load_catalog(PRESETS, folder)


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITO_PRESETS", "/nowhere/presets")
    with pytest.raises(PresetsError, match=r"/nowhere/presets: there is no such folder.*KAITO_PRESETS"):
        load_catalog()


def test_a_name_of_another_preset_may_not_be_taken(folder: Path) -> None:
    own_model(folder, more="aliases: [PHI-4]")
    with pytest.raises(
        PresetsError, match=r"ours\.yaml: our-model: the name phi-4 belongs to .*phi\.yaml: phi-4"
    ):
        load_catalog(PRESETS, folder)


def test_what_is_read_is_what_pyyaml_reads(folder: Path) -> None:
    every_kind = (
        "[text, '5', !!str 5, 5, 1e3, 1.5, yes, ~, 2024-01-31, 0x1f, &it {a: b}, *it, {<<: *it, c: d}, '']"
    )
    (folder / "kinds.yaml").write_text(f"kinds: {every_kind}\n")
    for path in (folder / "kinds.yaml", *PRESETS.rglob("models/*.yaml"), PRESETS / "vllm.yaml"):
        assert repr(records.read(path)) == repr(yaml.safe_load(path.read_text()))
    (folder / "kinds.yaml").write_text("kinds: !!str [a, b]\n")
    with pytest.raises(PresetsError, match="expected a scalar node, but found sequence"):
        records.read(folder / "kinds.yaml")
