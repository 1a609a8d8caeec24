"""What every memory estimate is made of: terms in bytes for one GPU, their sum, and the error when they do not fit.

It must never know a model or a machine; the formulas are in tuning_memory.py and serving_memory.py.
"""

from __future__ import annotations

from include.catalog.models import GIB

Terms = list[tuple[str, int]]

CUDA_CONTEXT = round(0.6 * GIB)  # KAITO v0.12 pkg/workspace/estimator: 0.6 GiB for CUDA and NCCL


class DoesNotFit(ValueError):
    """A machine that cannot hold the model; the text says by how much it is too small, and what would do."""


class NotLoadable(DoesNotFit):
    """No machine helps: the runtime that serves cannot load the model."""


def total(terms: Terms) -> int:
    """Sum of a memory estimate in bytes."""
    return sum(size for _, size in terms)


def gib(size: float) -> str:
    """A size for people: 7516192768 -> "7.0 GiB"."""
    return f"{size / GIB:.1f} GiB"
