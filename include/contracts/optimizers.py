"""The optimizers of `TrainingArguments.optim`, and what each takes from `optim_args`.

transformers (trainer_optimizer.py) reads the settings when the first step is near, on a GPU that is paid for: what it
cannot read ends the pod there, and what an optimizer does not take is left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from include.contracts.faults import Fault

_PATH = "training_config.TrainingArguments.optim_args"


@dataclass(frozen=True)
class Settings:
    """The names of an optimizer's own settings, by what their values are."""

    numbers: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    switches: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return self.numbers | self.whole | self.switches


_NONE = Settings()
_ADEMAMIX = Settings(
    numbers=frozenset({"beta1", "beta2", "beta3", "alpha", "eps"}), whole=frozenset({"t_alpha", "t_beta3"})
)
#: Those of the libraries' that need no package beyond the pod image's.
OPTIMIZERS: Mapping[str, Settings] = {
    "adafactor": _NONE,
    "adagrad": Settings(numbers=frozenset({"lr_decay", "weight_decay", "eps"})),
    "adamw_8bit": _NONE,
    "adamw_bnb_8bit": _NONE,
    "adamw_torch": _NONE,
    "adamw_torch_fused": _NONE,
    "ademamix": _ADEMAMIX,
    "ademamix_8bit": _ADEMAMIX,
    "lion_32bit": _NONE,
    "lion_8bit": _NONE,
    "paged_adamw_32bit": _NONE,
    "paged_adamw_8bit": _NONE,
    "paged_ademamix_32bit": _ADEMAMIX,
    "paged_ademamix_8bit": _ADEMAMIX,
    "paged_lion_32bit": _NONE,
    "paged_lion_8bit": _NONE,
    "rmsprop": Settings(
        numbers=frozenset({"momentum", "alpha", "eps", "weight_decay"}), switches=frozenset({"centered"})
    ),
    # bitsandbytes would be given texts where it wants numbers
    "rmsprop_bnb": _NONE,
    "rmsprop_bnb_32bit": _NONE,
    "rmsprop_bnb_8bit": _NONE,
    "sgd": Settings(
        numbers=frozenset({"momentum", "dampening", "weight_decay"}), switches=frozenset({"nesterov"})
    ),
}


def faults(training: Mapping[str, Any], default: str = "adamw") -> Iterator[Fault]:
    """F12: `optim_args` that the optimizer cannot read, or does not take.

    :param training: the TrainingArguments that are right each for itself.
    :param default: the optimizer's name for people where the config names none.
    """
    text = training.get("optim_args") or ""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any("=" not in part for part in parts):
        yield Fault(_PATH, text, "F12", "must be key=value pairs with commas between")
        return
    name = training.get("optim") or default
    known = OPTIMIZERS.get(name, _NONE)
    for part in parts:
        key, _, value = (one.strip() for one in part.partition("="))
        if key not in known.names:
            hint = f"it takes {', '.join(sorted(known.names))}" if known.names else "leave it out"
            yield Fault(_PATH, part, "F12", f"{key} is no setting of {name}", hint)
        elif not _reads(known, key, value):
            what = (
                "true or false"
                if key in known.switches
                else "a whole number"
                if key in known.whole
                else "a number"
            )
            yield Fault(_PATH, part, "F12", f"{key} must be {what}")


def _reads(known: Settings, key: str, value: str) -> bool:
    if key in known.switches:
        return value.lower() in ("true", "false")
    try:
        number = int(value) if key in known.whole else float(value)
    except ValueError:
        return False
    return abs(number) < float("inf")
