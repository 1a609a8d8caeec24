"""Lets TRL's losses see the scores that the model itself makes, where TRL's own way to them leaves something out.

TRL never makes all scores of a batch (`add_fused_lm_head`): it multiplies what is below the head by the head's weights,
and scales or caps the products as those keys of the configuration say that it knows. RecurrentGemma's and xLSTM's caps
and a LoRA on the head are not among that, so another model would be trained than is served, without a word. Here the
model is asked, and where TRL comes to other numbers its forward pass is the model's own: right for each model, at the
price of the memory that all scores take.
"""

from __future__ import annotations

import functools
import logging
import types
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from trl.trainer.utils import FusedCausalLMOutput

from include.workloads.tuning.evaluating import evaluating
from include.workloads.tuning.rows import IGNORE

log = logging.getLogger("workload")

TOKENS = 9  # that a model is tried with
#: What the largest score is made in the trial, where any cap is felt; and by how much the results may differ.
LARGE, ROUNDING = 100.0, 0.02


def settle(model: Any) -> bool:
    """Take the model's own scores where TRL's head comes to others; whether that is so.

    Every process must call this of a sharded model.

    :param model: PEFT's, of a causal language model that a trainer of TRL has given its head.
    """
    base = model.get_base_model()
    if base.base_model is base and isinstance(getattr(base, "model", None), nn.Module):
        base.base_model_prefix = "model"  # Llama 4's text model names a part that it does not have
    if _agree(model, base):
        return False
    base.forward = types.MethodType(_own(base.forward), base)
    log.info(
        "The loss is computed from all scores of the model: TRL's shorter way leaves something of its head out."
    )
    return True


def _agree(model: Any, base: Any) -> bool:
    """Whether TRL scores a few tokens as the model does, whose states are made large for it."""
    head = base.get_output_embeddings()
    # What else PEFT makes of a head does nothing at the beginning, so numbers would not tell.
    if base.base_model is base or not isinstance(head, nn.Linear | ModulesToSaveWrapper):
        return False
    ids = torch.arange(TOKENS, device=base.device)[None]
    with evaluating(model):
        largest = float(model(input_ids=ids, use_cache=False).logits.abs().max())
        factor = LARGE / max(largest, torch.finfo(torch.float32).tiny)
        with head.register_forward_pre_hook(lambda _, given: tuple(one * factor for one in given)):
            logits = model(input_ids=ids, use_cache=False).logits
        with base.base_model.register_forward_hook(functools.partial(_enlarge, factor)):
            theirs = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
    own = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return bool((own - theirs).norm() <= ROUNDING * own.norm())


def _enlarge(factor: float, _: nn.Module, given: Any, made: Any) -> Any:
    made.last_hidden_state = made.last_hidden_state * factor
    return made


def _own(former: Any) -> Any:
    """The forward pass with TRL's argument `fused_lm_head`, which gives what TRL's does, of all scores."""

    @functools.wraps(former)
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        told = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
        if not fused_lm_head:
            return former(*args, **{key: value for key, value in told.items() if value is not None}, **kwargs)
        logits = former(*args, **{**kwargs, "use_cache": False}).logits
        if shift_labels is None:
            if labels is None:
                raise ValueError("Scores are compared with labels.")
            logits, shift_labels = logits[:, :-1], labels[:, 1:]
        return _scored(logits, shift_labels.to(logits.device), num_items_in_batch)

    return forward


def _scored(logits: torch.Tensor, labels: torch.Tensor, count: Any) -> FusedCausalLMOutput:
    """What TRL's losses and metrics read of a batch.

    :param logits: batch x tokens x words.
    :param labels: batch x tokens, `IGNORE` where nothing is learnt.
    :param count: of what is learnt, if not of this batch alone.
    """
    mask = labels != IGNORE
    scores, wanted = logits[mask].float(), labels[mask]
    all_of = scores.log_softmax(-1)
    found = {"log_probs": all_of.gather(-1, wanted[:, None])[:, 0]}
    with torch.no_grad():
        found["entropy"] = -(all_of.exp() * all_of).sum(-1)
        found["log_sum_sq_probs"] = (2 * all_of).logsumexp(-1)
        found["mean_logits"] = scores.mean(-1)
        found["is_top1"] = scores.argmax(-1) == wanted
    placed = {name: one.new_zeros(mask.shape).masked_scatter(mask, one) for name, one in found.items()}
    loss = -placed["log_probs"].sum() / (mask.sum().clamp(min=1) if count is None else count)
    return FusedCausalLMOutput(loss=loss, label_mask=mask, **placed)
