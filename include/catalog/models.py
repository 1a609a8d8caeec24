"""What the project knows about a base model, one record per preset of presets/models/*.yaml.

A record holds facts of the published weights (size, KV cache, context, revision) and what this project can do with
them. It must never hold a figure that depends on a machine: that is include.catalog.sizing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Status = Literal["current", "deprecated"]
Attention = Literal["MHA", "GQA", "MQA", "MLA"]
Dtype = Literal["bfloat16", "float16", "auto"]

STRICT: Mapping[str, Any] = {"extra": "forbid", "strict": True}  # how include.catalog.checking reads a record
GIB = 1024**3
PINNED_LENGTH = 40  # hex digits of a hub commit


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of the architecture that memory estimates need, from the model's config.json."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of 16-bit KV cache a token: keys and values of every layer."""
        return 2 * self.kv_heads * self.head_dim * self.layers * 2


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a preset is tuned: the linear layers that LoRA reaches, by their names in transformers."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    supported: bool = False
    target_modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """One preset. `weights_gib` is the size of the weight files in GiB, `context` is in tokens.

    `image` is a container image with the model's files, "" for those of the hub.
    `load_format`, `tokenizer_mode` and `vllm_args` are for KAITO's vLLM server: the first two name a format of files
    ("auto" or "mistral"), the last holds flags without their dashes, a bare flag with the value "". `remote_code` says
    that nothing but Python code of its repository can load the model. `pooling` says that it embeds, ranks or scores
    texts and writes none, `kv_bytes_per_token` is 0 where such a model keeps no KV cache.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: str
    hf_id: str
    revision: str
    status: Status
    architecture: str
    weights_gib: float
    context: int
    attention: Attention
    kv_bytes_per_token: int
    dtype: Dtype
    aliases: tuple[str, ...] = ()
    parameters: str | None = None
    quantization: str | None = None
    licence: str | None = None
    gated: bool = False
    image: str = ""
    chat_template: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    load_format: Literal["auto", "mistral"] = "auto"
    tokenizer_mode: str = "auto"
    remote_code: bool = False
    pooling: bool = False
    vllm_args: Mapping[str, str] = field(default_factory=dict, hash=False)
    last_release: str | None = None
    shape: ModelShape | None = None
    tuning: Tuning = Tuning()

    @property
    def weights_bytes(self) -> int:
        return round(self.weights_gib * GIB)

    @property
    def deprecated(self) -> bool:
        return self.status == "deprecated"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit rather than a moving branch."""
        return len(self.revision) == PINNED_LENGTH

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name that a Workspace may use for this preset: short name, other short names, hub id."""
        return (self.name, *self.aliases, self.hf_id)
