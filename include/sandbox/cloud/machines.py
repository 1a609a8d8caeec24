"""What a machine type offers its Node, from the project's machine table.

The GPUs are the table's; the other sizes are plausible, not real.
"""

from __future__ import annotations

from dataclasses import dataclass

from include.catalog import load_catalog

CORES_PER_GPU, MEMORY_GIB_PER_GPU, DISK_GIB = 12, 110, 1024
GPU_RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "AWS": "aws.amazon.com/neuron"}


class UnknownMachine(Exception):
    """The cloud has no such machine type; the message says so in a sentence."""


@dataclass(frozen=True)
class MachineType:
    """A machine type as its Node shows it: the cloud's spelling, the GPUs' resource name and number."""

    name: str
    resource: str
    gpus: int

    @property
    def capacity_without_gpus(self) -> dict[str, str]:
        return {
            "cpu": str(CORES_PER_GPU * max(1, self.gpus)),
            "memory": f"{MEMORY_GIB_PER_GPU * max(1, self.gpus)}Gi",
            "ephemeral-storage": f"{DISK_GIB}Gi",
            "pods": "110",
        }

    @property
    def capacity(self) -> dict[str, str]:
        return {**self.capacity_without_gpus, self.resource: str(self.gpus)}


def find_machine_type(name: str) -> MachineType:
    """The machine type of this name, in any letter case. Raises UnknownMachine."""
    try:
        machine = load_catalog().machine(name)
    except KeyError as error:
        hint = str(error.args[0]).rstrip(".") if error.args else ""
        raise UnknownMachine(f"The requested VM size is not known to this cloud: {hint or name}.") from None
    return MachineType(
        machine.name, GPU_RESOURCES.get(machine.gpu.split()[0], "nvidia.com/gpu"), machine.gpu_count
    )
