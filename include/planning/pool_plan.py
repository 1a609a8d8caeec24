"""The plan of one GPU pool as a value: which machine, how many, in which precision, with what memory, at what price.

It travels between tasks as a small dict; explain.py says it in words. It must never be edited after it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from include.catalog.training_shape import TrainingShape
from include.contracts.purpose import Purpose
from include.planning import estimate as timing
from include.workspace.api.offers import Offer

TEMPLATE = "template"  # plan.model of a Workspace with a pod template of its own


@dataclass(frozen=True)
class Plan:
    """What one pool needs. `memory` is (term, bytes) for one GPU, `gpu_memory_bytes` what that GPU has.

    `training` are the settings of a tuning that memory and time were computed for, `tokens_per_second` of all GPUs
    together. Of a serving plan `max_model_len` is the longest context in tokens that fits, and `kv_cache_tokens` what
    all requests together may hold. `own_nodes`: they are BYO, so nothing marks them as this Workspace's.
    `zone` and `capacity_type` ("spot", "on-demand") are what an alternative asks for, "" what the settings say.
    `runtime` ("vllm", "transformers") is the server of a serving plan, "" for a template and for tunings.
    `weights_format` is "mistral" where that server reads Mistral's own files rather than the hub's usual ones, and
    `pooling` says that it embeds, ranks or scores texts instead of writing them; `kv_cache_tokens` is then 0 where
    nothing of a text is kept.
    `model_image` is the container image that the model's files come from, "" for another source; `image_volume` says
    that nodes mount it, so that pods do not download it.
    """

    purpose: Purpose
    model: str
    model_id: str
    revision: str
    instance_type: str
    node_count: int
    gpus_per_node: int
    dtype: str
    gpu: str = ""
    method: str = ""
    target_modules: tuple[str, ...] = ()
    memory: tuple[tuple[str, int], ...] = ()
    gpu_memory_bytes: int = 0
    weights_bytes: int = 0
    training: TrainingShape | None = None
    tokens_per_second: float = 0.0
    max_model_len: int = 0
    kv_cache_tokens: int = 0
    estimate_usd_per_hour: float | None = None
    price_as_of: str | None = None
    why: str = ""
    warnings: tuple[str, ...] = field(default_factory=tuple)
    own_nodes: bool = False
    zone: str = ""
    capacity_type: str = ""
    runtime: str = ""
    weights_format: str = ""
    pooling: bool = False
    model_image: str = ""
    image_volume: bool = False

    @property
    def offer(self) -> str:
        """What the cloud is asked for, as one word (see include.workspace.api.offers)."""
        return str(Offer(self.instance_type, self.zone, self.capacity_type))

    @property
    def weights_parts(self) -> str:
        """Which of the model's files are taken, as WEIGHTS_PARTS says it; "" for the usual ones."""
        return self.weights_format or ("pooling" if self.pooling else "")

    @property
    def memory_bytes(self) -> int:
        """The whole estimate for one GPU."""
        return sum(size for _, size in self.memory)

    def estimate(self, tokens: int) -> timing.Estimate:
        """Time and cost of one run: `tokens` are rows x average length x epochs. 0 counts all but the training."""
        return timing.estimate(
            self.purpose, self.weights_bytes, tokens, self.tokens_per_second, self.estimate_usd_per_hour
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON for XCom, without what is at its default; `from_dict` gives the same plan back."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in _ALWAYS or (value != one.default and value != ()):
                found[one.name] = value
        found |= {key: list(found[key]) for key in ("warnings", "target_modules") if key in found}
        found["purpose"] = str(self.purpose)
        found["memory"] = [[term, size] for term, size in self.memory]
        if self.training is not None:
            found["training"] = self.training.to_dict()
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan of a dict that `to_dict` made; keys of another version are passed over."""
        known = {one.name for one in fields(cls)}
        found = {key: value for key, value in data.items() if key in known}
        found["memory"] = tuple((str(term), int(size)) for term, size in found.get("memory", ()))
        found["warnings"] = tuple(found.get("warnings", ()))
        found["target_modules"] = tuple(found.get("target_modules", ()))
        found["purpose"] = Purpose(found["purpose"])
        if found.get("training") is not None:
            found["training"] = TrainingShape.from_dict(found["training"])
        return cls(**found)


# Read by name in templates and by people, also where there is nothing to say.
_ALWAYS = ("estimate_usd_per_hour", "price_as_of", "warnings", "target_modules", "method", "gpu")
