"""Where the generators of random numbers stand: dropout and the order of rows go on from there in the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Chance:
    """The generators of Python, NumPy, the processor, and this process's GPU where it has one."""

    python: Any
    numpy: Any
    cpu: Any
    gpu: Any = None

    @classmethod
    def now(cls) -> Chance:
        """Where they stand now."""
        gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), gpu)

    def restore(self) -> None:
        """Put them back to where they stood."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)
