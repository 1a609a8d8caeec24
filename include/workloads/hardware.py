"""What this machine computes well: device, number format, threads.

The plan's DTYPE is a wish. A V100 has no bfloat16, and a CPU without AVX512-BF16 or AMX multiplies bfloat16 some
seventy times slower than float32, so tuning and serving ask here and say in one sentence what they chose and why.
Decisions are pure functions of `Hardware`; only `detect` looks at the machine.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPU_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


@dataclass(frozen=True)
class Hardware:
    """The facts that decisions are made from; `memory_bytes` is of one GPU, or of the whole pod on a CPU."""

    device: str  # "cuda" or "cpu"
    name: str
    gpus: int
    memory_bytes: int
    bf16: bool
    cpu_threads: int

    @property
    def tf32(self) -> bool:
        """Whether it has TensorFloat-32 units: NVIDIA's GPUs have had them since they have bfloat16's."""
        return self.device == "cuda" and self.bf16


@dataclass(frozen=True)
class Precision:
    """A number format (`bfloat16`, `float16` or `float32`) and the sentence that explains it."""

    dtype: str
    sentence: str


def choose_precision(hardware: Hardware, planned: str | None) -> Precision:
    """The format to compute in: the planned one where the machine has it, else the nearest that it has."""
    wanted = (planned or "bfloat16").removeprefix("torch.")
    if wanted in ("auto", "bfloat16", "float16") and hardware.device == "cpu":
        if hardware.bf16:
            return Precision("bfloat16", f"Computing in bfloat16: {hardware.name} has instructions for it.")
        return Precision(
            "float32",
            f"Computing in float32 although {wanted} was planned: {hardware.name} is a CPU without 16-bit "
            "matrix instructions.",
        )
    if wanted in ("auto", "bfloat16"):
        if hardware.bf16:
            return Precision("bfloat16", f"Computing in bfloat16 on {hardware.name}.")
        return Precision(
            "float16", f"Computing in float16 although {wanted} was planned: {hardware.name} has no bfloat16."
        )
    return Precision(wanted, f"Computing in {wanted} on {hardware.name}, as planned.")


def detect() -> Hardware:
    """Look at the machine: CUDA when torch sees a GPU, else the CPU share that this pod may use."""
    import torch

    threads = cpu_threads()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Hardware(
            device="cuda",
            name=properties.name,
            gpus=torch.cuda.device_count(),
            memory_bytes=properties.total_memory,
            bf16=torch.cuda.is_bf16_supported(including_emulation=False),
            cpu_threads=threads,
        )
    name, flags = _cpu_info()
    return Hardware("cpu", name, 0, memory_limit(), bool(flags & CPU_BF16_FLAGS), threads)


def prepare_environment() -> None:
    """Settings that torch reads while it is imported, so this must come first; what the pod sets wins.

    Waiting threads spin for a moment and then sleep. Spinning for long made matrix products five times slower beside
    a busy neighbour (two threads, two cores); never spinning halved a small model's tuning on a quiet machine, 48
    against 98 tokens/s. Progress bars are noise in a pod's log.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # GNU's OpenMP, which torch brings on Linux
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all inputs are in the pod
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' own, about each other


def use_threads(hardware: Hardware) -> str:
    """Give torch as many threads as this pod has CPUs, and return the sentence that says so.

    More would only fight for them, and threads that meet at a barrier are as slow as the one that waits for a CPU.
    OMP_NUM_THREADS wins: torch has read it by itself.
    """
    import torch

    if asked := os.environ.get("OMP_NUM_THREADS"):
        return f"Computing with {torch.get_num_threads()} threads, as OMP_NUM_THREADS={asked} says."
    torch.set_num_threads(hardware.cpu_threads)
    return (
        f"Computing with {hardware.cpu_threads} threads, which is what this pod may use of the machine's "
        f"{os.cpu_count()} CPUs (its affinity, and the quota of its CPU limit)."
    )


def cpu_threads(cgroup: Path = CGROUP) -> int:
    """CPUs of this pod: the affinity mask, cut by the cgroup's quota.

    :param cgroup: where cgroups are mounted: version 2 has quota and period in `cpu.max`, version 1 in two files.
    """
    available = len(os.sched_getaffinity(0))
    told = _read(cgroup / "cpu.max") or " ".join(
        _read(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")
    )
    try:
        quota, period = map(int, told.split())  # "max" stands for no limit in version 2, -1 in version 1
    except ValueError:
        return available
    if quota <= 0 or period <= 0:
        return available
    return max(1, min(available, math.ceil(quota / period)))


def memory_limit(cgroup: Path = CGROUP) -> int:
    """Bytes that this pod may use: the machine's memory, cut by the cgroup's limit (version 2, then version 1)."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = _read(cgroup / "memory.max") or _read(cgroup / "memory" / "memory.limit_in_bytes")
    return min(physical, int(told)) if told.isdecimal() else physical


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cpu_info() -> tuple[str, frozenset[str]]:
    name, flags = "this CPU", frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            name = value
        elif key in ("flags", "Features"):
            flags = frozenset(value.split())
            break
    return name, flags
