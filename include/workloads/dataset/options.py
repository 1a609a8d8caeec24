"""What the user's training config says about the data, read where the data is: before any GPU is paid for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.workloads.chat import Conversation
from include.workloads.contract import UserConfigError
from include.workloads.dataset.columns import Preference

#: Above it most rows would be lost, which nobody means by a training.
MAX_DROPPED_SHARE = 0.5


@dataclass(frozen=True)
class Options:
    """`max_dropped_share` is the share of rows, 0 to 1, above which a dataset is refused."""

    preference: Preference = Preference.REFUSE
    max_dropped_share: float = MAX_DROPPED_SHARE

    @property
    def identity(self) -> str:
        """For the fingerprint of what was written with them."""
        return f"{self.preference.value} {self.max_dropped_share}"

    def refused_by_template(self, conversation: Conversation) -> str | None:
        """Why the model's chat template cannot show this conversation, or None."""
        return None


def read_options() -> Options:
    """The options in $YAML_FILE_PATH, or the defaults where no config is mounted. UserConfigError names a bad key."""
    path = os.environ.get("YAML_FILE_PATH", "").strip()
    if not path:
        return Options()
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserConfigError(
            f"The training configuration {path} cannot be read: {error.strerror}."
        ) from None
    return options_of(text)


def options_of(text: str) -> Options:
    """The options in a training config's text."""
    from include.workloads.tuning.config import parse_section

    given: dict[str, Any] = parse_section(text, "DatasetConfig")
    return Options(
        Preference(given.get("preference_data", Preference.REFUSE.value)),
        float(given.get("max_dropped_share", MAX_DROPPED_SHARE)),
    )
