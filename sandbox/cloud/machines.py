"""What a machine type offers its Node: GPU machines from the project's machine table, others by Azure's naming rule.

The GPUs are the table's; the other sizes are plausible, not real. A GPU size that is not in the table does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from include.catalog import load_catalog

CORES_PER_GPU, MEMORY_GIB_PER_GPU, DISK_GIB = 12, 110, 1024
MEMORY_GIB_PER_CORE = 4
#: Azure's general sizes, as in Standard_D8s_v5; all sizes with GPUs start with N.
CPU_SIZE = re.compile(r"Standard_[ABDEFLM][A-Z]*(?P<cores>\d+)(-\d+)?[a-z]*(_v\d+)?", re.IGNORECASE)
GPU_RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "AWS": "aws.amazon.com/neuron"}


class UnknownMachine(Exception):
    """The cloud has no such machine type; the message says so in a sentence."""


@dataclass(frozen=True)
class MachineType:
    """A machine type as its Node shows it: the cloud's spelling, the GPUs' resource name and number."""

    name: str
    resource: str
    gpus: int
    cores: int = 0

    @property
    def capacity_without_gpus(self) -> dict[str, str]:
        return {
            "cpu": str(self.cores or CORES_PER_GPU * max(1, self.gpus)),
            "memory": f"{self.cores * MEMORY_GIB_PER_CORE or MEMORY_GIB_PER_GPU * max(1, self.gpus)}Gi",
            "ephemeral-storage": f"{DISK_GIB}Gi",
            "pods": "110",
        }

    @property
    def capacity(self) -> dict[str, str]:
        gpus = {self.resource: str(self.gpus)} if self.gpus else {}
        return {**self.capacity_without_gpus, **gpus}


def find_machine_type(name: str) -> MachineType:
    """The machine type of this name, in any letter case. Raises UnknownMachine."""
    if cpu := CPU_SIZE.fullmatch(name):
        return MachineType(name, "", 0, int(cpu["cores"]))
    try:
        machine = load_catalog().machine(name)
    except KeyError as error:
        hint = str(error.args[0]).rstrip(".") if error.args else ""
        raise UnknownMachine(f"The requested VM size is not known to this cloud: {hint or name}.") from None
    return MachineType(
        machine.name, GPU_RESOURCES.get(machine.gpu.split()[0], "nvidia.com/gpu"), machine.gpu_count
    )
