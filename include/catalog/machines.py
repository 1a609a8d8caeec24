"""What the project knows about a GPU machine type, one record per line of presets/skus/*.yaml.

Names are looked up in any letter case and always given back as the cloud spells them: nodes carry that spelling in
`node.kubernetes.io/instance-type`, and KAITO's case-sensitive comparison there never becomes ready. It must never ask
a cloud for anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from include.catalog.models import GIB, STRICT, Status

# KAITO v0.12 admits any Azure size of these series, of the table or not; whatever a pod template runs decides.
_ADMITTED = re.compile(r"standard_[nd][a-z0-9]+(?:-[0-9]+)?(?:_[a-z0-9]+)*", re.IGNORECASE)
_WITHOUT_GPU = re.compile(r"standard_d", re.IGNORECASE)
BYO = "byo"  # the cloud of nodes that somebody brings along
BF16_SINCE = (8, 0)  # Ampere; KAITO's rule too (kaito pkg/sku: compute capability >= 8.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine type. `gpu_memory_gib` is the memory of one GPU in GiB.

    `usd_per_hour` is the list price, or None when it is not known; `price_as_of` (year and month) and `price_region`
    say when and where it was valid. `cloud` is "byo" for nodes that somebody brings along.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    name: str
    cloud: str
    gpu: str
    gpus: int
    gpu_memory_gib: float
    compute_capability: str | None = None
    nvme: bool = False
    usd_per_hour: float | None = None
    price_as_of: str | None = None
    price_region: str | None = None
    status: Status = "current"
    last_release: str | None = None

    @property
    def gpu_count(self) -> int:
        """GPUs of one machine, the `nvidia.com/gpu` that its node offers."""
        return self.gpus

    @property
    def gpu_memory_bytes(self) -> int:
        """Memory of one GPU in bytes."""
        return round(self.gpu_memory_gib * GIB)

    @property
    def capability(self) -> tuple[int, int]:
        """CUDA compute capability as (major, minor); (0, 0) for machines without NVIDIA GPUs."""
        if self.compute_capability is None:
            return (0, 0)
        major, _, minor = self.compute_capability.partition(".")
        return int(major), int(minor or 0)

    @property
    def nvidia(self) -> bool:
        return self.compute_capability is not None

    @property
    def bf16(self) -> bool:
        return self.capability >= BF16_SINCE

    @property
    def deprecated(self) -> bool:
        return self.status == "deprecated"


def unlisted(name: str) -> Machine | None:
    """A machine type that no file lists, for a pod template, which says itself what it needs; None for other names.

    Nothing is known of it but its cloud: neither its GPUs nor its price.
    """
    given = name.strip()
    return (
        Machine(name=given, cloud="azure", gpu="", gpus=0, gpu_memory_gib=0)
        if _ADMITTED.fullmatch(given)
        else None
    )


def without_gpu(name: str) -> bool:
    """Whether a machine type is one that has no GPU by its name, so that its node never offers one."""
    return _WITHOUT_GPU.match(name) is not None
