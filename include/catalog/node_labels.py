"""The machine that a node is, by the labels that NVIDIA's GPU feature discovery puts on it: bring-your-own nodes.

A node that somebody brings has no entry in presets/skus, and its instance-type label may say anything; what its GPUs
are, the labels say. It must never compare nodes with each other: that they are alike is a rule of the Workspace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from include.catalog.machines import BYO, Machine

PRODUCT, COUNT, MEMORY = "nvidia.com/gpu.product", "nvidia.com/gpu.count", "nvidia.com/gpu.memory"
# GPU feature discovery writes the first pair; KAITO also reads the second, of older releases.
COMPUTE = (
    ("nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor"),
    ("nvidia.com/cuda.compute.major", "nvidia.com/cuda.compute.minor"),
)
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
MIB_PER_GIB = 1024
# By a word of the product's name, for nodes that say no capability (developer.nvidia.com/cuda-gpus); the first wins.
CAPABILITIES = {
    "B200": "10.0",
    "GB200": "10.0",
    "H200": "9.0",
    "H100": "9.0",
    "GH200": "9.0",
    "L40S": "8.9",
    "L40": "8.9",
    "L4": "8.9",
    "A100": "8.0",
    "A30": "8.0",
    "A40": "8.6",
    "A16": "8.6",
    "A10G": "8.6",
    "A10": "8.6",
    "A2": "8.6",
    "T4": "7.5",
    "V100": "7.0",
    "P100": "6.0",
    "P40": "6.1",
    "M60": "5.2",
    "K80": "3.7",
}


class NodeLabelsIncomplete(ValueError):
    """A node whose labels do not say what GPUs it has; the text names every label that is missing or wrong."""


def machine_from_labels(labels: Mapping[str, str]) -> Machine:
    """The machine that these node labels describe, with cloud "byo" and without a price.

    `nvidia.com/gpu.memory` is the memory of one GPU in MiB, rounded to whole GiB as KAITO does (kaito-api.md#rules,
    R10). With MIG in the strategy "single" the labels describe slices, and so does the machine.
    Raises NodeLabelsIncomplete naming all labels that are missing or wrong.
    """
    faults: list[str] = []
    product = labels.get(PRODUCT, "").strip()
    if not product:
        faults.append(f"{PRODUCT} is missing")
    count, memory = _whole(labels, COUNT, faults), _whole(labels, MEMORY, faults)
    capability = _capability(labels, product, faults)
    if faults:
        raise NodeLabelsIncomplete(
            f"the node's labels do not say what GPUs it has: {'; '.join(faults)} "
            "(NVIDIA's GPU feature discovery sets them)"
        )
    return Machine(
        name=labels.get(INSTANCE_TYPE) or product,
        cloud=BYO,
        gpu=_spaced(product),
        gpus=count,
        gpu_memory_gib=max(1, round(memory / MIB_PER_GIB)),
        compute_capability=capability,
    )


def _whole(labels: Mapping[str, str], key: str, faults: list[str]) -> int:
    text = labels.get(key)
    if text is None:
        faults.append(f"{key} is missing")
    elif not re.fullmatch(r"[1-9]\d{0,8}", text.strip(), re.ASCII):
        faults.append(f"{key} is {text!r}, not a number above 0")
    else:
        return int(text)
    return 0


def _capability(labels: Mapping[str, str], product: str, faults: list[str]) -> str:
    for major, minor in COMPUTE:
        if major in labels:
            message = f"{labels[major]}.{labels.get(minor, '0')}"
            if not re.fullmatch(r"[1-9]\d?\.\d", message, re.ASCII):
                faults.append(f"{major} and {minor} are {message!r}, not a compute capability")
            return message
    words = re.split(r"[^A-Z0-9]+", product.upper())
    known = next((CAPABILITIES[word] for word in words if word in CAPABILITIES), None)
    if known is None and product:
        faults.append(f"{COMPUTE[0][0]} is missing, and the compute capability of {product} is not known")
    return known or ""


def _spaced(product: str) -> str:
    """A label's value as people write it: NVIDIA-A100-SXM4-80GB -> NVIDIA A100-SXM4-80GB, Tesla-T4 -> NVIDIA T4."""
    for brand in ("NVIDIA-", "Tesla-"):
        product = product.removeprefix(brand)
    return f"NVIDIA {product}"
