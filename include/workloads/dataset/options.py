"""What the user's training config and the model say about the data, before a GPU is paid for."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from include.workloads.chat import Conversation
from include.workloads.chat_template import TemplateCheck, renderer
from include.workloads.contract import UserConfigError
from include.workloads.dataset.columns import Preference
from include.workloads.dataset.named import NamedColumns
from include.workloads.tuning.rows import MAX_DROPPED_SHARE, require_template

log = logging.getLogger("dataset")

# Where a model's chat template stands.
_TEMPLATE_FILES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class Options:
    """How rows are read and judged.

    `max_dropped_share` is the share of rows, 0 to 1, above which a dataset is refused. `tokenizer` is the folder with
    the model's tokenizer, whose chat template must show each conversation; `chat_template` replaces the model's own.
    """

    preference: Preference = Preference.REFUSE
    max_dropped_share: float = MAX_DROPPED_SHARE
    tokenizer: Path | None = None
    chat_template: str | None = None
    named: NamedColumns = field(default_factory=NamedColumns)

    @property
    def identity(self) -> list[object]:
        """For the fingerprint of what was written with them."""
        named = [list(self.named.roles.items())] if self.named else []
        template = [self.chat_template, _digest(self.tokenizer)]
        return [self.preference.value, self.max_dropped_share, *template, *named]

    def refused_by_template(self, conversation: Conversation) -> str | None:
        """Why the model's chat template cannot show this conversation, or None."""
        return self._template.refused(conversation) if self._template else None

    @cached_property
    def _template(self) -> TemplateCheck | None:
        if self.tokenizer is None or not (self.tokenizer / _TEMPLATE_FILES[0]).is_file():
            log.info("the model's tokenizer is not here: its chat template is asked when the training starts")
            return None
        from include.workloads.tuning.model import load_tokenizer

        tokenizer = load_tokenizer(self.tokenizer, self.chat_template)
        require_template(tokenizer)
        return TemplateCheck(renderer(tokenizer))


def _digest(folder: Path | None) -> str | None:
    if folder is None:
        return None
    found = hashlib.sha256()
    for path in (folder / name for name in _TEMPLATE_FILES):
        found.update(path.read_bytes() if path.is_file() else b"-")
    return found.hexdigest()


def read_options() -> Options:
    """The options in $YAML_FILE_PATH and $TOKENIZER_PATH, or the defaults. UserConfigError names a bad key."""
    folder = os.environ.get("TOKENIZER_PATH", "").strip()
    tokenizer = Path(folder) if folder else None
    path = os.environ.get("YAML_FILE_PATH", "").strip()
    if not path:
        return Options(tokenizer=tokenizer)
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserConfigError(
            f"The training configuration {path} cannot be read: {error.strerror}."
        ) from None
    _check_layers(text, tokenizer)
    return options_of(text, tokenizer)


def _check_layers(text: str, model: Path | None) -> None:
    """Whatever of LoraConfig no model could be trained with is refused here, where no GPU is paid for."""
    from include.workloads.tuning.config import parse_section
    from include.workloads.tuning.targets import check_targets

    if model is not None:
        check_targets(model, parse_section(text, "LoraConfig"))


def options_of(text: str, tokenizer: Path | None = None) -> Options:
    """The options in a training config's text."""
    from include.workloads.tuning.config import parse_section

    given: dict[str, Any] = parse_section(text, "DatasetConfig")
    return Options(
        Preference(given.get("preference_data", Preference.REFUSE.value)),
        float(given.get("max_dropped_share", MAX_DROPPED_SHARE)),
        tokenizer,
        parse_section(text, "ModelConfig").get("chat_template"),
        NamedColumns.of(given),
    )
