"""Says a plan in sentences: what, where, why so many machines, memory, precision, context, time, cost, warnings.

It must never decide anything; figures that are estimates are called so.
"""

from __future__ import annotations

from include.catalog import sizing
from include.catalog.models import GIB
from include.catalog.training_shape import TrainingShape
from include.contracts.methods import Objective
from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.planning.estimate import dollars, duration
from include.planning.pool_plan import Plan

MILLION = 1_000_000
SHOWN = GIB // 20  # smaller terms would read 0.0 GiB


def sentences(plan: Plan) -> list[str]:
    """The plan in words, warnings last."""
    found = [_what(plan), plan.why, _memory(plan), _settings(plan), _context(plan), _source(plan)]
    found += [_price(plan), _time(plan)]
    return [sentence for sentence in found if sentence] + [f"Warning: {text}" for text in plan.warnings]


def _what(plan: Plan) -> str:
    nodes = (
        f"{plan.node_count} x {plan.instance_type}" if plan.instance_type else plural(plan.node_count, "node")
    )
    work = (
        f"tune {plan.model} with {plan.method}" if plan.purpose == Purpose.TUNING else f"serve {plan.model}"
    )
    if plan.pooling:
        work += " (which embeds, ranks or scores texts and writes none)"
    each = f" ({plan.gpus_per_node} {plan.gpu or 'GPU'} each)" if plan.gpus_per_node else ""
    server = f", by {plan.runtime}," if plan.runtime else ""
    return f"The plan is to {work}{server} on {nodes}{each} in {plan.dtype}."


def _memory(plan: Plan) -> str:
    if not plan.memory:
        return ""
    largest = sorted(plan.memory, key=lambda term: -term[1])
    terms = [f"{term} {sizing.gib(size)}" for term, size in largest if size >= SHOWN]
    return (
        f"It needs about {sizing.gib(plan.memory_bytes)} of the {sizing.gib(plan.gpu_memory_bytes)} of each GPU: "
        f"{', '.join(terms)}."
    )


def _settings(plan: Plan) -> str:
    training = plan.training
    if training is None:
        return ""
    again = "computed again in the backward pass" if training.gradient_checkpointing else "kept"
    each = f" in each of {training.processes} processes" if training.processes > 1 else ""
    return (
        f"That is for sequences of {training.sequence_length:,} tokens, {_at_a_time(training)}{each}, an "
        f"adapter of rank {training.rank}, optimizer {training.optimizer} and activations that are {again}."
    )


def _context(plan: Plan) -> str:
    if not plan.max_model_len:
        return ""
    if not plan.kv_cache_tokens:
        return f"A text may be up to {plan.max_model_len:,} tokens long; nothing of it is kept in a cache."
    whole = plan.kv_cache_tokens // plan.max_model_len
    many = f"{whole} requests of that length" if whole > 1 else "one request of that length"
    return (
        f"A request may be up to {plan.max_model_len:,} tokens long; the memory left holds {many} at a time, or "
        f"{plan.kv_cache_tokens:,} tokens in all."
    )


def _source(plan: Plan) -> str:
    if not plan.model_image:
        return ""
    mounted = ", which nodes mount" if plan.image_volume else ""
    return f"The model's files come from the image {plan.model_image}{mounted}."


def _price(plan: Plan) -> str:
    if plan.estimate_usd_per_hour is None:
        return "The price of this machine type is not known."
    return f"The machines cost about {plan.estimate_usd_per_hour:.2f} USD an hour (list price of {plan.price_as_of})."


def _time(plan: Plan) -> str:
    if not plan.model_id:
        return ""  # a template's image and weights are not known
    start = sum(seconds for phase, seconds in plan.estimate(0).phases if phase not in ("training", "release"))
    if plan.purpose == Purpose.SERVING:
        return f"Its first answer is to be expected some {duration(start)} after the start, by estimate."
    if not plan.tokens_per_second:
        return ""
    million = MILLION / plan.tokens_per_second
    usd = plan.estimate_usd_per_hour
    price = "" if usd is None else f" and {dollars(usd * million / 3600)}"
    return (
        f"By estimate, within a factor of two, a million training tokens take {duration(million)}{price}, after "
        f"{duration(start)} for machines, image and weights."
    )


def _at_a_time(training: TrainingShape) -> str:
    """Such as `2 at a time`; a row of compared answers may be two sequences."""
    if training.objective == Objective.DPO:
        return f"{plural(training.batch_size, 'pair')} of a better and a worse answer at a time"
    return f"{training.batch_size} at a time"
