"""Which programs of this machine stand in for a container image (images.yaml).

It must never guess: an image without a profile is refused with a sentence that says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(
    r"^(?P<repository>[a-zA-Z0-9][a-zA-Z0-9._/:-]*?)(:(?P<tag>[\w][\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?$"
)


class ImageProblem(Exception):
    """The image cannot be had; `reason` is the kubelet's word for it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Image:
    """What a real image would bring: how it starts, its environment, its user."""

    reference: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: dict[str, str]
    working_dir: str
    user: int

    @property
    def id(self) -> str:
        digest = hashlib.sha256(self.reference.encode()).hexdigest()
        return f"sandbox.local/{self.reference.split('@')[0]}@sha256:{digest}"


@cache
def _profiles() -> list[dict[str, Any]]:
    loaded = yaml.safe_load(Path(__file__).with_name("images.yaml").read_text())
    return list(loaded["profiles"])


def _filled(text: str) -> str:
    # Not `resolve`: the venv's own python, through whose folder it finds its packages.
    python, vllm = Path(sys.executable), vllm_python()
    return (
        text.replace("{bin}", str(python.parent))
        .replace("{vllm_bin}", str(vllm.parent))
        .replace("{vllm_python}", str(vllm))
        .replace("{python}", str(python))
        .replace("{project}", str(PROJECT))
        .replace("{pod_cpus}", str(pod_cpus()))
    )


def vllm_python() -> Path:
    """The interpreter of vLLM's own environment (`make vllm`), which may be absent."""
    return PROJECT / ".venv-vllm" / "bin" / "python"


def pod_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs for one pod's threads: all but one, which the control plane on this same machine keeps busy.

    Threads that meet at a barrier are as slow as the one that has to wait for a CPU: tuning SmolLM2-135M on two cores
    beside Airflow was 1.7 times faster with one thread than with two. So in a container with a CPU limit, where the
    affinity mask still shows every CPU, the limit counts.
    """
    return max(1, min(len(os.sched_getaffinity(0)), _cpu_limit(cgroup)) - 1)


def _cpu_limit(cgroup: Path) -> int:
    """Whole CPUs of the limit of this container; very many where it has none."""
    for names in (
        ["cpu.max"],
        ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"],
    ):  # cgroups version 2, version 1
        files = [cgroup / name for name in names]
        numbers = " ".join(file.read_text() for file in files if file.is_file()).split()
        if len(numbers) == 2 and numbers[0].isdecimal():
            return int(numbers[0]) // int(numbers[1])
    return sys.maxsize


def _matches(repository: str, pattern: str) -> bool:
    return fnmatchcase(repository, pattern) or fnmatchcase(repository, f"*/{pattern}")


def find_image(reference: str) -> Image:
    """The image's profile; raises ImageProblem when there is none."""
    match = _REFERENCE.match(reference)
    if match is None:
        message = f'couldn\'t parse image name "{reference}": invalid reference format'
        raise ImageProblem("InvalidImageName", message)
    repository = match["repository"]
    for profile in _profiles():
        if _matches(repository, profile["repository"]):
            if "needs" in profile and not Path(_filled(profile["needs"])).exists():
                raise ImageProblem("ErrImagePull", f'the image "{reference}" is not here yet: run make vllm')
            env = {name: _filled(value) for name, value in (profile.get("env") or {}).items()}
            return Image(
                reference=reference,
                entrypoint=tuple(map(_filled, profile.get("entrypoint") or ())),
                command=tuple(map(_filled, profile.get("command") or ())),
                env={"PATH": DEFAULT_PATH, **env},
                working_dir=_filled(profile.get("working_dir") or "/"),
                user=int(profile.get("user", 0)),
            )
    known = ", ".join(profile["repository"] for profile in _profiles())
    raise ImageProblem(
        "ErrImagePull",
        f'the sandbox has no image "{reference}": it pulls nothing and runs only images with a profile in '
        f"sandbox/node/images.yaml ({known})",
    )


def arguments(image: Image, container: dict[str, Any]) -> list[str]:
    """`command` and `args` over the image's entrypoint and command, as Kubernetes combines them."""
    command, args = container.get("command"), container.get("args")
    if command:
        return [*command, *(args or [])]
    return [*image.entrypoint, *(args if args else image.command)]
