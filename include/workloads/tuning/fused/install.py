"""Puts the fused parts in the place of a model's own, where a processor trains it."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import torch
from torch import nn

from include.workloads.tuning.evaluating import evaluating
from include.workloads.tuning.fused import adapters, norms

log = logging.getLogger("workload")

# Parameters of glibc's mallopt (malloc.h), and the most that it takes for each.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**31 - 1), (-3, 32 * 2**20)
TOKENS = 9  # that a head is tried with


def install(model: Any) -> None:
    """Fuse what can be of a model with its adapter, whose beginning is settled and which no process shards."""
    keep_freed_memory()
    layers, normed = adapters.use(model), norms.use(model)
    log.info("Fused for this processor: %s LoRA layers and %s norms.", layers, normed)


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for what is asked next; whether this is a glibc that does.

    A step frees and asks for the same activations again and again. From 128 KiB on each may be a mapping of its own,
    which the kernel fills with zeros page by page: a fifth of the time of a step on two cores. From 32 MiB on it stays
    so, and goes back to the machine at once.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(*pair) for pair in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))


def plain_head(base: Any) -> nn.Linear | None:
    """The layer that makes a model's scores, where these are its product and nothing else, and it is not trained.

    Some models scale or cap what it makes (`logits_scaling`, `final_logit_softcapping`), so the model is asked.

    :param base: a causal language model of transformers.
    """
    head = base.get_output_embeddings()
    # Some models do not say which part of them is below the head.
    whole = base.base_model is base
    if whole or type(head) is not nn.Linear or any(one.requires_grad for one in head.parameters()):
        return None
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    with hook, evaluating(base):
        scores = base(input_ids=torch.arange(TOKENS)[None], use_cache=False).logits
        states = base.base_model(input_ids=torch.arange(TOKENS)[None], use_cache=False).last_hidden_state
    plain = torch.equal(seen[0], states) and torch.equal(seen[1].float(), scores.float())
    return head if plain else None
