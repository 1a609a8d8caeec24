"""The check of presets folders: the project's own is sound, and each kind of fault is found, with file and name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.catalog.checking import check
from include.catalog.records import PRESETS
from include.cli import main as command

DENSE: dict[str, Any] = yaml.safe_load((PRESETS / "models" / "phi.yaml").read_text())["models"][0]
MACHINE: dict[str, Any] = {
    "name": "Standard_X",
    "gpu": "NVIDIA A100",
    "gpus": 1,
    "gpu_memory_gib": 80,
    "compute_capability": "8.0",
    "usd_per_hour": 3.5,
}
SKUS: dict[str, Any] = {
    "cloud": "azure",
    "prices": {"region": "East US", "as_of": "2024-06"},
    "machines": [MACHINE],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "skus").mkdir()
    return tmp_path


def write(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def changed(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy of a record; `a__b` sets a nested field, None leaves a field out."""
    copied = copy.deepcopy(record)
    for key, value in fields.items():
        outer, _, inner = key.partition("__")
        place = copied[outer] if inner else copied
        if value is None:
            place.pop(inner or outer, None)
        else:
            place[inner or outer] = value
    return copied


def test_the_projects_own_presets_are_sound() -> None:
    assert check([PRESETS]) == []


def test_the_records_that_the_faults_are_made_of_are_sound(folder: Path) -> None:
    write(folder / "models" / "x.yaml", {"models": [DENSE]})
    write(folder / "skus" / "x.yaml", SKUS)
    assert check([folder]) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"colour": "red"}, "colour is not a known field"),
        ({"hf_id": None}, "hf_id is missing"),
        ({"weights_gib": "27"}, "weights_gib is '27'; input should be a valid number"),
        ({"context": True}, "context is True; input should be a valid integer"),
        ({"status": "young"}, "status is 'young'; input should be 'current' or 'deprecated'"),
        ({"attention": "XYZ"}, "attention is 'XYZ'"),
        ({"shape__depth": 3}, "shape.depth is not a known field"),
        ({"tuning__target_modules": [1]}, "tuning.target_modules.0 is 1"),
        ({"name": "Phi 4"}, "name 'Phi 4' must be lower-case"),
        ({"hf_id": "phi-4"}, "hf_id 'phi-4' must be like org/model"),
        ({"revision": "v1"}, "revision 'v1' must be a commit"),
        ({"weights_gib": 0.0}, "weights_gib 0.0 must be from"),
        ({"context": 0}, "context 0 must be from"),
        ({"kv_bytes_per_token": 204801}, "kv_bytes_per_token 204801 is 204800 by its shape"),
        ({"attention": "MHA"}, "attention MHA is GQA by its shape"),
        ({"weights_gib": 13.65}, "is 8.0 bits for each of 14.7B parameters"),
        ({"weights_gib": 28.5}, "weights_gib 28.5 is"),  # within the bits of its name, not of its shape
        ({"parameters": "large"}, "parameters 'large' must begin like 7B"),
        ({"dtype": "auto"}, "auto is for quantised weights"),
        ({"quantization": "awq", "dtype": "auto", "weights_gib": 8.0}, "awq weights cannot be tuned"),
        ({"revision": "main"}, "an adapter needs a revision that stays"),
        ({"shape": None}, "without a shape its memory is unknown"),
        ({"tuning__target_modules": ["q_proj"]}, "has 'q_proj'; Phi3ForCausalLM has qkv_proj"),
        ({"tuning__target_modules": []}, "must name the layers to adapt"),
        ({"tuning__supported": False}, "target_modules are given, but tuning.supported is false"),
        ({"architecture": "NewForCausalLM"}, "the linear layers of NewForCausalLM are not known"),
        ({"status": "deprecated"}, "deprecated ones have one"),
        ({"last_release": "v0.1.0"}, "deprecated ones have one"),
        ({"aliases": ["PHI-4"]}, "has the name phi-4 twice"),
    ],
)
def test_a_wrong_model_is_named_with_its_file(folder: Path, fields: dict[str, Any], said: str) -> None:
    path = folder / "models" / "x.yaml"
    record = changed(DENSE, **fields)
    write(path, {"models": [record]})
    found = check([folder])
    assert found
    assert all(fault.startswith(f"{path}: {record['name']}: ") for fault in found)
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize(
    ("file", "machine", "said"),
    [
        ({}, {"vcpu": 3}, "vcpu is not a known field"),
        ({}, {"gpus": 0}, "gpus 0 must be from 1 to 32"),
        ({}, {"gpu_memory_gib": 1024}, "gpu_memory_gib 1024"),
        ({}, {"compute_capability": "eight"}, "compute_capability 'eight' must be like"),
        ({}, {"compute_capability": None}, "NVIDIA GPUs have one"),
        ({}, {"gpu": "AMD V620"}, "NVIDIA GPUs have one"),
        ({}, {"usd_per_hour": -1.0}, "usd_per_hour -1.0 must be from"),
        ({}, {"last_release": "v0.1.0"}, "deprecated ones have one"),
        ({"cloud": "moon"}, {}, "cloud 'moon' must be one of azure"),
        ({"cloud": None}, {}, "cloud is None"),
        ({"prices": {"region": "East US"}}, {}, "prices.as_of as year and month"),
        ({"prices": {"region": "East US", "as_of": "summer"}}, {}, "prices.as_of as year and month"),
        ({"prices": {"as_of": "2024-06"}}, {}, "prices.region"),
    ],
)
def test_a_wrong_machine_is_named_with_its_file(
    folder: Path, file: dict[str, Any], machine: dict[str, Any], said: str
) -> None:
    path = folder / "skus" / "x.yaml"
    write(path, {**SKUS, **file, "machines": [changed(MACHINE, **machine)]})
    found = check([folder])
    assert any(fault.startswith(f"{path}: Standard_X: ") and said in fault for fault in found), found


def test_a_machine_without_a_price_needs_no_date(folder: Path) -> None:
    write(folder / "skus" / "x.yaml", {"cloud": "byo", "machines": [changed(MACHINE, usd_per_hour=None)]})
    assert check([folder]) == []


def test_one_gpu_has_one_capability(folder: Path) -> None:
    other = changed(MACHINE, name="Standard_Y", compute_capability="8.6")
    write(folder / "skus" / "x.yaml", {**SKUS, "machines": [MACHINE, other]})
    assert [
        "Standard_Y: NVIDIA A100 has compute capability 8.6 here and 8.0" in f for f in check([folder])
    ] == [True]


def test_no_name_means_two_models_in_any_letter_case(folder: Path) -> None:
    write(folder / "models" / "a.yaml", {"models": [DENSE]})
    other = changed(DENSE, name="other", hf_id="MICROSOFT/PHI-4")
    write(
        folder / "models" / "b.yaml",
        {"models": [other, changed(DENSE, name="third", hf_id="a/b", aliases=["Phi-4"])]},
    )
    found = check([folder])
    assert len(found) == 2
    assert f"b.yaml: other: the name microsoft/phi-4 belongs to {folder}/models/a.yaml: phi-4" in found[0]
    assert "b.yaml: third: the name phi-4 belongs to" in found[1]


def test_a_name_stands_once_in_a_folder(folder: Path) -> None:
    write(folder / "models" / "a.yaml", {"models": [DENSE]})
    write(folder / "models" / "b.yaml", {"models": [DENSE]})
    write(folder / "skus" / "x.yaml", {**SKUS, "machines": [MACHINE, changed(MACHINE, name="STANDARD_x")]})
    found = check([folder])
    assert [fault for fault in found if "b.yaml: phi-4: the name stands in" in fault]
    assert [
        fault
        for fault in found
        if "x.yaml: STANDARD_x: the name stands in" in fault or "Standard_X: the" in fault
    ]


def test_a_later_folder_replaces_records_but_may_not_take_other_names(folder: Path, tmp_path: Path) -> None:
    write(folder / "models" / "x.yaml", {"models": [DENSE]})
    assert check([PRESETS, folder]) == []
    write(folder / "models" / "x.yaml", {"models": [changed(DENSE, aliases=["phi-2"])]})
    found = check([PRESETS, folder])
    assert len(found) == 1
    assert "phi-2 belongs to" in found[0]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("models/x.yaml", "models: [", "this is not YAML"),
        ("models/x.yaml", "- a", "the file must hold a mapping"),
        ("models/x.yaml", "models: {a: b}", "needs a list of records under 'models'"),
        ("models/x.yaml", "model: []", "needs a list of records under 'models'"),
        ("models/x.yaml", "models: []\nmachines: []", "machines is not a known key of the file"),
        ("models/x.yaml", "models:\n- {name: a, name: b}", "name twice"),
        ("models/x.yaml", "models:\n- &a {name: a, shape: *a}", "is not plain data"),
        ("skus/x.yaml", "machines: []\nprices: 3", "prices must be a mapping"),
        ("images.yaml", "images: [a]", "needs a mapping of names"),
        ("images.yaml", "images: {w: ghcr.io/a/b:latest}", "must have a tag other than latest"),
        ("images.yaml", "images: {w: ghcr.io/a/b}", "must have a tag other than latest"),
        ("images.yaml", "images: {w: 'localhost:5000/b'}", "must have a tag other than latest"),
        ("images.yaml", "images: {w: 7}", "must have a tag other than latest"),
        ("tuning/dora.yaml", "training_config: {}", "the default configs are lora.yaml and qlora.yaml"),
        ("tuning/lora.yaml", "config: {}", "needs a mapping under 'training_config'"),
    ],
)
def test_a_file_that_is_no_presets_file_is_named(folder: Path, file: str, text: str, said: str) -> None:
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert [fault for fault in check([folder]) if fault.startswith(str(path)) and said in fault]


@pytest.mark.parametrize("image", ["ghcr.io/a/b:1.2", "localhost:5000/b:x", "a/b@sha256:" + "0" * 64])
def test_a_pinned_image_is_sound(folder: Path, image: str) -> None:
    write(folder / "images.yaml", {"images": {"w": image}})
    assert check([folder]) == []


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    assert "there is no such folder" in check([tmp_path / "none"])[0]
    assert "holds none of models/" in check([tmp_path])[0]


class TestCommand:
    def test_sound_presets_exit_with_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["presets"]) == 0
        assert capsys.readouterr().out.startswith("OK: 72 models, 116 machines, 3 images in")

    @pytest.mark.parametrize("by", ["argument", "environment"])
    def test_all_faults_of_an_extra_folder_are_printed_and_exit_with_1(
        self, folder: Path, by: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folder / "models" / "x.yaml", {"models": [changed(DENSE, context=0, revision="main")]})
        monkeypatch.setenv("KAITO_PRESETS", str(folder) if by == "environment" else "")
        assert command.main(["presets", *([str(folder)] if by == "argument" else [])]) == 1
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == 2
        assert printed.err == "2 faults\n"

    def test_a_wrong_command_line_exits_with_2(self) -> None:
        with pytest.raises(SystemExit) as ended:
            command.main(["pressets"])
        assert ended.value.code == 2


def test_each_fault_can_be_found_among_many(folder: Path) -> None:
    """All faults at once, in all files."""
    write(folder / "models" / "a.yaml", {"models": [changed(DENSE, context=0)]})
    write(folder / "models" / "b.yaml", {"models": [changed(DENSE, name="b", hf_id="b/b", colour=1)]})
    write(folder / "skus" / "c.yaml", {**SKUS, "cloud": "moon"})
    write(folder / "images.yaml", {"images": {"w": "x:latest"}})
    assert sorted(Path(fault.split(":")[0]).name for fault in check([folder])) == [
        "a.yaml",
        "b.yaml",
        "c.yaml",
        "images.yaml",
    ]
