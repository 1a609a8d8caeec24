from __future__ import annotations

from pathlib import Path

import pytest

from include.workloads.contract import UserConfigError
from include.workloads.tuning.model import load_tokenizer
from include.workloads.tuning.standin import _tokenizer

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
