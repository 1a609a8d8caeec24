"""`python -m include.workloads.serving.vllm FLAGS [-- USER'S FLAGS]`: starts upstream's `vllm serve` in this pod.

The plan's flags come from outside; here is added what only the pod knows: where weights and adapters lie, ranks of the
adapters, the address, the device, the place in a group of pods. Nothing of vLLM is imported or changed; a single pod
becomes `vllm serve`, a pod of a group stands guard over it (group.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from include.contracts.adapter_keys import NOT_ON_VLLM
from include.workloads import contract
from include.workloads.contract import UserConfigError
from include.workloads.serving import benchmark
from include.workloads.serving.adapters import Adapter, base_names, check_base, find_adapters
from include.workloads.serving.streaming import streamed

MIDDLEWARE = "include.workloads.serving.vllm_middleware.KaitoMiddleware"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's kernels are built for
MASTER_PORT = 29500
CPU_CACHE_GIB = 2
# A processor has one device: what splits a model over the GPUs of a machine has no meaning there.
GPU_ONLY = (
    "gpu-memory-utilization",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "api-server-count",
    "dtype",
    "performance-mode",
)


@dataclass(frozen=True)
class Pod:
    """What the pod was given."""

    weights: Path
    adapters: Path
    templates: Path
    host: str
    port: int
    address: str
    leader: str
    rank: int
    drain_seconds: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Pod:
        get = environment.get
        return cls(
            weights=Path(get("WEIGHTS_PATH", "/workspace/weights")),
            adapters=Path(get("ADAPTERS_DIR", "/mnt/adapter")),
            templates=Path(get("CHAT_TEMPLATES", "/workspace/chat_templates")),
            host=get("HOST", "0.0.0.0"),  # noqa: S104 - a pod listens on its own address
            port=int(get("PORT", "5000")),
            address=get("POD_IP", ""),
            leader=get("LEADER_ADDRESS", ""),
            rank=rank_of(get("POD_NAME", "")),
            drain_seconds=int(get("DRAIN_SECONDS", "25")),
        )


def rank_of(pod: str) -> int:
    """A StatefulSet's pod says its place at the end of its name; 0 for any other pod."""
    end = pod.rpartition("-")[2]
    return int(end) if end.isascii() and end.isdigit() else 0


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plan's flags and the user's, which stand after `--`."""
    given = list(arguments)
    if "--" not in given:
        return given, []
    place = given.index("--")
    return given[:place], given[place + 1 :]


def value_of(flags: Sequence[str], name: str) -> str | None:
    """The value of the last --name=value."""
    start = f"--{name}="
    return next((flag[len(start) :] for flag in reversed(flags) if flag.startswith(start)), None)


def without(flags: Sequence[str], *names: str) -> list[str]:
    """The flags but for these."""
    return [flag for flag in flags if flag.partition("=")[0] not in {f"--{name}" for name in names}]


def command(arguments: Sequence[str], pod: Pod, *, cpu: bool, bfloat16: bool = True) -> list[str]:
    """The whole command line of `vllm serve`. Raises UserConfigError for adapters that cannot be served.

    `cpu` says that this vLLM computes on processors, `bfloat16` that they have units for it.
    """
    ours, theirs = split(arguments)
    nodes = int(value_of([*ours, *theirs], "nnodes") or 1)
    if cpu:
        ours = _on_processors(ours, nodes, bfloat16)
    ours = _readable(_chat_template(ours, pod.templates), pod.weights)
    theirs = _user_s_template(theirs, pod.templates)
    served = [
        "vllm",
        "serve",
        str(pod.weights),
        f"--host={pod.host}",
        f"--port={pod.port}",
        f"--middleware={MIDDLEWARE}",
        f"--shutdown-timeout={pod.drain_seconds}",
        "--disable-uvicorn-access-log",
    ]
    reading = [] if cpu else streamed([*ours, *theirs], pod.weights)
    lora = _lora(ours, theirs, find_adapters(pod.adapters))
    return [*served, *ours, *reading, *lora, *_place(pod, nodes), *theirs]


def _on_processors(flags: Sequence[str], nodes: int, bfloat16: bool) -> list[str]:
    """The same service on processors: one part a pod (vLLM has no pipeline there), in a format that they compute in."""
    kept = without(flags, *GPU_ONLY)
    dtype = "bfloat16" if bfloat16 else "float32"
    return [*kept, f"--dtype={dtype}", *([f"--tensor-parallel-size={nodes}"] if nodes > 1 else [])]


def _chat_template(flags: Sequence[str], folder: Path) -> list[str]:
    """The preset's chat template by its path; where the image lacks it, the model's own is used."""
    name = value_of(flags, "chat-template")
    if name is None:
        return list(flags)
    kept = without(flags, "chat-template")
    if path := _template(name, folder):
        return [*kept, f"--chat-template={path}"]
    contract.log.warning("There is no chat template %s in %s: the model's own is used.", name, folder)
    return kept


def _user_s_template(flags: Sequence[str], folder: Path) -> list[str]:
    """The user's flags with a template of KAITO's image by its path here; other templates stay as they are."""
    name = value_of(flags, "chat-template")
    if name is None or "{" in name or Path(name).is_file() or not (path := _template(name, folder)):
        return list(flags)
    return [*without(flags, "chat-template"), f"--chat-template={path}"]


def _template(name: str, folder: Path) -> Path | None:
    """A chat template under KAITO's name for it, or the name that it has among vLLM's examples."""
    kaito_s = Path(name).name
    vllm_s = kaito_s.replace("tool-chat-", "tool_chat_template_").replace("-", "_")
    found = (path for path in sorted(folder.rglob("*.jinja")) if path.name in (kaito_s, vllm_s))
    return next(found, None)


def _readable(flags: Sequence[str], weights: Path) -> list[str]:
    """Without Mistral's own format where a mirror or the node holds the hub's usual files only."""
    if value_of(flags, "load-format") != "mistral" or any(weights.glob("consolidated*.safetensors")):
        return list(flags)
    if not any(weights.glob("*.safetensors")):
        return list(flags)
    contract.log.warning(
        "%s holds no consolidated*.safetensors: its other safetensors files are read.", weights
    )
    return without(flags, "load-format", "config-format", "tokenizer-mode")


def _lora(ours: Sequence[str], theirs: Sequence[str], adapters: Sequence[Adapter]) -> list[str]:
    """The adapters by name and folder, and the smallest rank of vLLM's that holds them all."""
    if not adapters or "--enable-lora" not in [*ours, *theirs]:
        return []
    for warning in check_base(list(adapters), base_names(value_of(ours, "served-model-name") or "")):
        contract.log.warning("%s", warning)
    if foreign := [adapter.name for adapter in adapters if adapter.dora]:
        raise UserConfigError(f"{', '.join(foreign)}: {NOT_ON_VLLM}.")
    largest = max(adapter.rank for adapter in adapters)
    found = next((one for one in RANKS if one >= largest), None)
    if found is None:
        raise UserConfigError(f"An adapter has rank {largest}; vLLM serves ranks up to {RANKS[-1]}.")
    given = [] if value_of(theirs, "max-lora-rank") else [f"--max-lora-rank={found}"]
    return [*given, "--lora-modules", *(f"{adapter.name}={adapter.path}" for adapter in adapters)]


def _place(pod: Pod, nodes: int) -> list[str]:
    """Where this pod stands in a group; the first answers requests, the others only compute."""
    if nodes <= 1:
        return []
    if not pod.leader:
        raise UserConfigError("LEADER_ADDRESS is not set; a pod of a group must know where the first one is.")
    place = [f"--node-rank={pod.rank}", f"--master-addr={pod.leader}", f"--master-port={MASTER_PORT}"]
    return [*place, "--headless"] if pod.rank else place


def environment_of(pod: Pod, *, cpu: bool, lora: bool) -> dict[str, str]:
    """What vLLM is told by its environment, where the pod's own does not say it already."""
    found = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if pod.address:
        found["VLLM_HOST_IP"] = pod.address
    if cpu:
        found["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_CACHE_GIB)
    if lora:  # the gateway lets only this pod's own sidecar use it
        found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    return {name: value for name, value in found.items() if name not in os.environ}


def computes_on_processors() -> bool:
    """Whether the vLLM here is a build for processors. Raises UserConfigError when there is none."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        raise UserConfigError(
            "This image has no vLLM; set kaito.sh/runtime: transformers, or use an image that has it."
        ) from None


def have_bfloat16() -> bool:
    """Whether the processors multiply bfloat16 matrices."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _measure_once(cpu: bool, rank: int) -> subprocess.Popen[bytes] | None:
    """Start the benchmark beside the server, in a group's first pod; not again when the container is restarted.

    On processors it says nothing worth a minute of them, unless it is asked for by its seconds.
    """
    file = os.environ.get(benchmark.FILE)
    if not file or rank or (cpu and benchmark.SECONDS not in os.environ):
        os.environ.pop(benchmark.FILE, None)
        return None
    if Path(file).exists():
        return None
    return subprocess.Popen([sys.executable, "-m", "include.workloads.serving.benchmark"])


def main() -> None:
    """Become `vllm serve`, or stand guard over it as one of a group."""
    pod, cpu = Pod.read(os.environ), computes_on_processors()
    line = command(sys.argv[1:], pod, cpu=cpu, bfloat16=cpu and have_bfloat16())
    os.environ.update(environment_of(pod, cpu=cpu, lora="--enable-lora" in line))
    program = shutil.which(
        "vllm", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        raise UserConfigError("The program vllm is not on this image's PATH.")
    contract.log.info("%s", " ".join(line))
    nodes = int(value_of(line, "nnodes") or 1)
    sys.stdout.flush()
    measuring = _measure_once(cpu, pod.rank if nodes > 1 else 0)
    if nodes > 1:
        from include.workloads.serving.group import Member

        member = Member(
            rank=pod.rank,
            size=nodes,
            leader=pod.leader,
            address=pod.address or pod.host,
            health_port=pod.port,
            drain_seconds=pod.drain_seconds,
        )
        try:
            member.run([program, *line[1:]])
        finally:
            if measuring is not None:  # a group that has died must not wait for it before it starts again
                measuring.kill()
    os.execv(program, line)  # noqa: S606 - this process becomes the server: no shell between


if __name__ == "__main__":
    contract.run(main)
