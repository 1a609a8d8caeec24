"""Makes a stand-in model: a tiny Phi-3 with random weights, so that tests and demos run in seconds without a download.

It is not a language model: untrained, it answers noise. Its config.json, README and `generation_config` say so.
Deterministic: the same folder content each time, on one version of the libraries.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NOTICE = (
    "STAND-IN: randomly initialised Phi-3 of about a million parameters, for tests only; it knows nothing."
)
SPECIAL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def make_standin(folder: Path, seed: int = 0, layers: int = 4) -> Path:
    """Write config, safetensors and tokenizer into `folder` (made when missing) and return it."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        original_max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # with the usual 0.02 the frozen output layer could not express any certainty
        standin=NOTICE,
    )
    model = Phi3ForCausalLM(config)
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|end|>"),
    ]
    model.save_pretrained(folder)
    (folder / "README.md").write_text(f"# Stand-in model\n\n{NOTICE}\n")
    return folder


def _tokenizer() -> Any:
    """A byte-level tokenizer: 256 bytes and the special tokens, so any text fits and none is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the model")
    arguments = parser.parse_args()
    print(f"{NOTICE} Written to {make_standin(arguments.folder)}.")  # noqa: T201
