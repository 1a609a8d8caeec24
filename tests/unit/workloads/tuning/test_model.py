from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import kernels
from include.workloads.tuning.model import load_model, load_tokenizer, model_facts
from include.workloads.tuning.standin import _tokenizer, make_standin

MESSAGES = [{"role": "user", "content": "Wie groß?"}]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("Größe 大きさ 😀: {{ messages[0].content }}", "Größe 大きさ 😀: Wie groß?"),
        (r"{{ 'a\\nb\u00e9' }}é", "a\nbéé"),
        ("{{ 'a' }}\nb", "a\nb"),
    ],
)
def test_a_template_s_letters_stay_and_its_escapes_are_decoded(
    weights: Path, template: str, shown: str
) -> None:
    """Letters beyond ASCII became others: every row was learnt with a text that nobody had written."""
    tokenizer = load_tokenizer(weights, template.replace("\\\\", "\\"))
    assert tokenizer.apply_chat_template(MESSAGES, tokenize=False) == shown


def test_an_escape_that_is_none_is_the_config_s_fault(weights: Path) -> None:
    with pytest.raises(UserConfigError, match="escape sequence that is none"):
        load_tokenizer(weights, r"{{ '\xg' }}")


CODE = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "own", "auto_map": CODE}, "needs code of its own .*which is never run"),
        ({"model_type": "own"}, "is of the type 'own', which transformers .* does not know"),
        ({"model_type": "llama", "hidden_size": "many"}, r"config\.json of the model .* cannot be used"),
    ],
)
def test_a_model_that_transformers_cannot_load_by_itself_is_named(
    config: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """It was an internal fault, which a run tries again, with advice to install something."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('code of the model was run')")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserConfigError, match=told):
        model_facts(tmp_path)


def test_code_beside_a_model_that_is_known_is_not_run(tmp_path: Path) -> None:
    _tokenizer().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["modeling_own.T", None]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {"model_type": "llama", "num_hidden_layers": 3, "auto_map": CODE}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('code of the model was run')")
    (tmp_path / "model.safetensors").touch()
    assert model_facts(tmp_path).layers == 3
    assert load_tokenizer(tmp_path, None)


def test_a_tokenizer_that_needs_code_is_named(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["modeling_own.T", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": CODE}))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(UserConfigError, match=r"needs code of its own \(auto_map\), which is never run"):
        load_tokenizer(tmp_path, None)


def test_a_model_that_flash_attention_cannot_serve_is_loaded_with_pytorch_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers refuses it so where the package is there and the model is of another kind, as where it is not."""
    monkeypatch.setattr(kernels, "attention", lambda hardware, precision: "flash_attention_2")
    weights = make_standin(tmp_path / "weights", layers=1)
    cpu = Hardware("cpu", "a CPU", 1, 2**34, bf16=True, cpu_threads=2)
    model = load_model(weights, None, cpu, Precision("float32", ""))
    assert "flash" not in model.config._attn_implementation


def test_a_model_without_a_layer_that_can_be_rounded_is_loaded_as_it_is(tmp_path: Path) -> None:
    """Falcon's linear layers are of a class of their own; transformers ended with an UnboundLocalError."""
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    FalconForCausalLM(FalconConfig(**shape)).save_pretrained(tmp_path)
    cpu = Hardware("cpu", "a CPU", 1, 2**34, bf16=True, cpu_threads=2)
    model = load_model(tmp_path, {"load_in_4bit": True}, cpu, Precision("float32", ""))
    assert model.dtype == torch.float32
    assert type(model.transformer.h[0].mlp.dense_h_to_4h).__name__ == "FalconLinear"
