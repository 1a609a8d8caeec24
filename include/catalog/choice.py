"""Which machines can do a piece of work, cheapest first, and why the others cannot.

Hints in error messages, a plan's alternatives and fallbacks all come from here, so that nobody is ever pointed to a
machine that the next check refuses. It must never start anything or know a Workspace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from include.catalog import serving_memory, tuning_memory
from include.catalog.machines import Machine
from include.catalog.memory import gib, total
from include.catalog.models import Model
from include.catalog.training_shape import TrainingShape
from include.contracts.methods import TuningMethod
from include.contracts.purpose import Purpose

QLORA_SINCE = (
    6,
    0,
)  # bitsandbytes 0.50, installation guide: NF4 kernels from compute capability 6.0, Volta included
INT8_SINCE = (7, 5)  # the same guide: LLM.int8 from 7.5


class Machines(Protocol):
    """What a catalogue has: machines to choose from."""

    @property
    def machines(self) -> tuple[Machine, ...]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One machine type for one piece of work: the estimate for one GPU, why it does not fit ("" when it does), and
    whether a tuning's model is sharded over its GPUs.
    """

    machine: Machine
    memory_bytes: int
    why_not: str = ""
    sharded: bool = False

    @property
    def fits(self) -> bool:
        return not self.why_not

    @property
    def share(self) -> float:
        """The estimate as a share of one GPU."""
        return (
            self.memory_bytes / self.machine.gpu_memory_bytes if self.machine.gpu_memory_bytes else math.inf
        )


def recommend(
    model: Model,
    purpose: Purpose,
    method: str,
    catalog: Machines,
    cloud: str | None = None,
    shape: TrainingShape | None = None,
) -> list[Choice]:
    """Every machine (of `cloud`, when given) with its verdict: those that fit first, then the others with the reason.

    Among those that fit: current before deprecated, then those whose GPUs hold a whole model each, then the price an
    hour (unknown last), fewer GPUs, name.
    `shape` are the tuning's settings; without them the least that a run without settings is worth.
    Raises ValueError for a tuning whose model has no shape.
    """
    found = [
        judge(model, purpose, method, machine, shape)
        for machine in catalog.machines
        if cloud is None or machine.cloud == cloud
    ]
    return sorted(found, key=_order)


def judge(
    model: Model, purpose: Purpose, method: str, machine: Machine, shape: TrainingShape | None = None
) -> Choice:
    """The verdict on one machine. Raises ValueError for a tuning whose model has no shape."""
    if not machine.nvidia:
        return Choice(machine, 0, f"has no NVIDIA GPU but {machine.gpu}")
    sharded = False
    if purpose == Purpose.SERVING:
        needed = total(serving_memory.serving_memory(model, machine, serving_memory.context_of(model)))
        most, has = serving_memory.usable(machine), serving_memory.room(machine)
    else:
        training = tuning_memory.placed(model, method, shape or TrainingShape.modest(), machine)
        if too_old := kernels_missing(method, machine, training.load_in_8bit):
            return Choice(machine, 0, too_old)
        needed = total(tuning_memory.tuning_memory(model, method, training))
        sharded = training.sharded
        most, has = machine.gpu_memory_bytes, gib(machine.gpu_memory_bytes)
    if needed > most:
        short = f"needs {gib(needed)} on each GPU, but one {machine.gpu} has {has}"
        return Choice(machine, needed, short, sharded)
    return Choice(machine, needed, sharded=sharded)


def kernels_missing(method: str, machine: Machine, eight_bit: bool = False) -> str:
    """Why this GPU cannot compute on quantised weights; "" when it can."""
    needed = INT8_SINCE if eight_bit else QLORA_SINCE
    if method != TuningMethod.QLORA or machine.capability >= needed:
        return ""
    return (
        f"has {machine.gpu} with compute capability {machine.compute_capability}; {8 if eight_bit else 4}-bit "
        f"kernels need {needed[0]}.{needed[1]}"
    )


def would_do(choices: Sequence[Choice], most: int = 2) -> str:
    """The hint for an error: "A or B would do", of current machines that fit; what else to try when there is none.

    Machines without bfloat16 are not recommended: most presets were trained in it.
    """
    good = [choice for choice in choices if choice.fits and choice.machine.bf16]
    names = [choice.machine.name for choice in good if not choice.machine.deprecated][:most]
    return f"{' or '.join(names)} would do" if names else "choose a smaller preset"


def _order(choice: Choice) -> tuple[bool, bool, bool, float, int, str]:
    machine = choice.machine
    price = math.inf if machine.usd_per_hour is None else machine.usd_per_hour
    return (not choice.fits, machine.deprecated, choice.sharded, price, machine.gpus, machine.name)


__all__ = ["Choice", "Purpose", "judge", "kernels_missing", "recommend", "would_do"]
