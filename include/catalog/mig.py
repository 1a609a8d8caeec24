"""MIG: the slices that one GPU can be cut into, and the machine that a pod with one slice sees.

The profiles are NVIDIA's (MIG user guide, "Supported MIG profiles"), the set is KAITO's (pkg/utils/mig): those with
media extensions (`+me`) and the half-sized `1g.5gb+gfx` are not for models. It must never know a Workspace; that MIG is
for inference on BYO nodes is a rule there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from include.catalog.machines import Machine

SYNTAX = re.compile(r"(?P<compute>[1-7])g\.(?P<memory>[1-9]\d{0,2})gb", re.ASCII)

# By product and the whole GPU's memory in GB, as NVIDIA names both.
PROFILES: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("A30", 24): ("1g.6gb", "2g.12gb", "4g.24gb"),
    ("A100", 40): ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
    ("A100", 80): ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    ("H100", 80): ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    ("H100", 94): ("1g.12gb", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb"),
    ("H100", 96): ("1g.12gb", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb"),
    ("GH200", 96): ("1g.12gb", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb"),
    ("H200", 141): ("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"),
    ("B200", 180): ("1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"),
}
KNOWN: frozenset[str] = frozenset(profile for profiles in PROFILES.values() for profile in profiles)


class UnknownProfile(ValueError):
    """A text that is no MIG profile, or not one of this GPU; the sentence says which there are."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One slice: `compute` sevenths of the GPU's processors and `memory_gib` of its memory.

    NVIDIA writes GB for what is nearly GiB; the figure is taken as GiB, as KAITO does, and the server leaves a share of
    it free anyway.
    """

    name: str
    compute: int
    memory_gib: int

    @property
    def resource(self) -> str:
        """What a pod requests for one such slice."""
        return f"nvidia.com/mig-{self.name}"


def parse_profile(text: str) -> Profile:
    """The profile of a text like `1g.10gb`. Raises UnknownProfile when it is malformed or NVIDIA has no such slice."""
    match = SYNTAX.fullmatch(text)
    if match is None:
        raise UnknownProfile(
            f"{text!r} is not a MIG profile: it must be like 1g.10gb, in lower case, without spaces or +me"
        )
    if text not in KNOWN:
        raise UnknownProfile(
            f"{text} is not a MIG profile of any known GPU; there are {', '.join(_sorted(KNOWN))}"
        )
    return Profile(text, int(match["compute"]), int(match["memory"]))


def profiles_of(machine: Machine) -> tuple[str, ...]:
    """The profiles that this machine's GPUs can be cut into; empty when the GPU has no MIG or is not known."""
    words = re.split(r"[^A-Z0-9]+", machine.gpu.upper())
    fitting = [
        (abs(size - machine.gpu_memory_gib), profiles)
        for (product, size), profiles in PROFILES.items()
        if product in words and abs(size - machine.gpu_memory_gib) <= size * 0.08
    ]
    return min(fitting)[1] if fitting else ()


def slice_of(machine: Machine, text: str) -> Machine:
    """The machine as a pod with one slice sees it: one GPU with the slice's memory, at the whole machine's price.

    Raises UnknownProfile when the text is no profile, or none of this machine's GPU.
    """
    profile = parse_profile(text)
    possible = profiles_of(machine)
    if text not in possible:
        there_are = f"it has {', '.join(possible)}" if possible else "it has no MIG"
        raise UnknownProfile(
            f"{machine.gpu} of {machine.gpu_memory_gib:g} GiB has no MIG profile {text}; {there_are}"
        )
    return replace(machine, gpu=f"{machine.gpu} MIG {text}", gpus=1, gpu_memory_gib=float(profile.memory_gib))


def _sorted(profiles: frozenset[str]) -> list[str]:
    def size(name: str) -> tuple[int, int]:
        compute, _, memory = name.partition("g.")
        return int(memory.removesuffix("gb")), int(compute)

    return sorted(profiles, key=size)
