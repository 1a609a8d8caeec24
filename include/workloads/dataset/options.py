"""What the user's training config and the model say about the data, before a GPU is paid for."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from include.contracts.held_out import MAX_SHARE
from include.contracts.methods import OBJECTIVES, Objective
from include.workloads import known_model
from include.workloads.chat import Conversation, Pair
from include.workloads.chat_template import TemplateCheck, renderer
from include.workloads.contract import UserConfigError, number, one_of
from include.workloads.dataset.columns import Preference
from include.workloads.dataset.content import Look
from include.workloads.dataset.named import NamedColumns
from include.workloads.dataset.usable_rows import UsableRows
from include.workloads.tuning.recipe import LONGEST_CUDA
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
    max_cut_share: float | None = None
    max_duplicate_share: float | None = None
    max_length: int | None = None
    held_out_share: float = 0.0
    answers_only: bool = True
    objective: str = Objective.SFT

    @property
    def look(self) -> Look:
        """What the finished rows are looked at with."""
        return Look(self._tokenizer, self._cut_at(), self.held_out_share, self.answers_only)

    @property
    def look_identity(self) -> list[object]:
        """For knowing whether the rows were looked at with the same."""
        return [
            self._cut_at(),
            self.held_out_share,
            self.answers_only,
            self.chat_template,
            _digest(self.tokenizer),
        ]

    def _cut_at(self) -> int | None:
        """Tokens after which the training cuts a row: as asked for, or as it chooses on a GPU."""
        if self.max_length or self.tokenizer is None:
            return self.max_length
        return min(LONGEST_CUDA, known_model.context(self.tokenizer) or LONGEST_CUDA)

    @property
    def identity(self) -> list[object]:
        """For the fingerprint of what was written with them."""
        # Limits on what the rows are like, and lengths, change nothing of what is written.
        named = [list(self.named.roles.items())] if self.named else []
        template = [self.chat_template, _digest(self.tokenizer)]
        objective = [self.objective] if self.objective != Objective.SFT else []
        return [self.preference.value, self.max_dropped_share, *template, *named, *objective]

    def refused_by_template(self, conversation: Conversation) -> str | None:
        """Why the model's chat template cannot show this conversation, or None."""
        if self._template is None:
            return None
        reason = self._template.refused(conversation)
        if reason is None and isinstance(conversation, Pair):
            reason = self._template.refused(conversation.worse)
        return reason

    def shows_all(self, rows: UsableRows) -> bool:
        """Whether the model's chat template surely shows all of these rows."""
        if self._template is None:
            return True
        shapes = rows.shapes()
        return shapes is not None and not any(map(self._template.refused, shapes))

    def require_tokens(self, text: str) -> None:
        """UserConfigError when a training config's text names a token that the model's tokenizer, if here, has not."""
        from include.workloads.tuning.config import parse_section
        from include.workloads.tuning.model import TOKENS, require_tokens

        training = parse_section(text, "TrainingArguments", self.objective)
        if any(map(training.get, TOKENS)) and self._tokenizer is not None:
            require_tokens(self._tokenizer, training)

    @cached_property
    def _tokenizer(self) -> Any:
        if self.tokenizer is None or not (self.tokenizer / _TEMPLATE_FILES[0]).is_file():
            log.info("the model's tokenizer is not here: its chat template is asked when the training starts")
            return None
        from include.workloads.tuning.model import load_tokenizer

        return load_tokenizer(self.tokenizer, self.chat_template)

    @cached_property
    def _template(self) -> TemplateCheck | None:
        if self._tokenizer is None:
            return None
        require_template(self._tokenizer)
        return TemplateCheck(renderer(self._tokenizer))


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
    share = number("HELD_OUT_SHARE", 0.0, MAX_SHARE)
    objective = one_of("TUNING_OBJECTIVE", OBJECTIVES)
    if not path:
        return Options(tokenizer=tokenizer, held_out_share=share, objective=objective)
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserConfigError(
            f"The training configuration {path} cannot be read: {error.strerror}."
        ) from None
    _check_layers(text, tokenizer, objective)
    options = options_of(text, tokenizer, share, objective)
    options.require_tokens(text)
    return options


def _check_layers(text: str, model: Path | None, objective: str) -> None:
    """Whatever of LoraConfig no model could be trained with is refused here, where no GPU is paid for."""
    from include.workloads.tuning.config import parse_section
    from include.workloads.tuning.targets import check_targets

    if model is not None:
        check_targets(model, parse_section(text, "LoraConfig", objective))


def options_of(
    text: str, tokenizer: Path | None = None, held_out_share: float = 0.0, objective: str = Objective.SFT
) -> Options:
    """The options in a training config's text; `held_out_share` is what the Workspace asks to hold out at least."""
    from include.workloads.tuning.config import parse_section

    given: dict[str, Any] = parse_section(text, "DatasetConfig", objective)
    training = parse_section(text, "TrainingArguments", objective)
    return Options(
        Preference(given.get("preference_data", Preference.REFUSE.value)),
        float(given.get("max_dropped_share", MAX_DROPPED_SHARE)),
        tokenizer,
        parse_section(text, "ModelConfig", objective).get("chat_template"),
        NamedColumns.of(given),
        given.get("max_cut_share"),
        given.get("max_duplicate_share"),
        training.get("max_length"),
        max(1.0 - given.get("train_test_split", 1.0), held_out_share),
        bool(training.get("assistant_only_loss", True)),
        objective,
    )
