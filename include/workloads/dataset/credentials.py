"""What opens a dataset that is not public: the keys of one Secret, of the pod's environment or of the Secret itself.

Every value is hidden from logs before anything else is done with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from include.contracts.dataset_keys import AUTHORIZATION, GOOGLE_KEY, PREFIX, keys_of
from include.contracts.dataset_urls import scheme_of
from include.contracts.redaction import hide
from include.workloads.contract import UserConfigError

#: Set to true where the pod's own identity is what opens the dataset.
IDENTITY = "DATASET_IDENTITY"


@dataclass(frozen=True)
class Credentials:
    """Values by the Secret's keys, {} for a public dataset; `identity` is for the pod's workload identity instead."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    identity: bool = False

    def get(self, key: str) -> str:
        return self.values.get(key, "")

    @property
    def authorization(self) -> str:
        """The value of an Authorization header, "" for none."""
        return self.get(AUTHORIZATION)

    @classmethod
    def of(
        cls, urls: Iterable[str], find: Callable[[str], str | None], identity: bool = False
    ) -> Credentials:
        """The keys that these URLs can use, as far as `find` has them. Raises UserConfigError for a broken value."""
        wanted = dict.fromkeys(key for url in urls for key in keys_of(scheme_of(url)).all)
        values = {key: value for key in wanted if (value := (find(key) or "").strip())}
        for key, value in values.items():
            _hide(key, value)
        for key, value in values.items():
            _check(key, value)
        return cls(values, identity)


def from_environment(urls: Iterable[str]) -> Credentials:
    """As the dataset's pod was given them. Raises UserConfigError."""
    return Credentials.of(
        urls, lambda key: os.environ.get(PREFIX + key), os.environ.get(IDENTITY, "") == "true"
    )


def _hide(key: str, value: str) -> None:
    hide(value)
    if key == AUTHORIZATION:
        hide(value.rpartition(" ")[2])
    if key == GOOGLE_KEY:
        for line in value.split("\\n"):
            hide(line.strip().strip('"'))


def _check(key: str, value: str) -> None:
    if key == GOOGLE_KEY or (value.isprintable() and value.isascii()):
        return
    if key == AUTHORIZATION:
        raise UserConfigError(
            "The key AUTHORIZATION of the Secret in kaito.sh/dataset-secret is not the value of a header: one line of "
            "ASCII, such as Bearer hf_..."
        )
    raise UserConfigError(
        f"The key {key} of the Secret in kaito.sh/dataset-secret is not one line of ASCII; write it without breaks."
    )
