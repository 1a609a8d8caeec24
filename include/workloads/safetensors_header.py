"""Reads a safetensors file's header and proves that it describes the file, without loading a tensor.

Weights and adapters are taken in this format only, because it cannot carry code; a truncated or forged file must
be found before a GPU waits for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from include.workloads.contract import UserDataError

# The format's own bound on its header (https://github.com/huggingface/safetensors, "Format").
MAX_HEADER_BYTES = 100_000_000
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One entry of the header; `begin` and `end` are byte offsets behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a file in the order of their bytes. UserDataError when header and file disagree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise UserDataError(f"{path.name} is not a safetensors file, or it is cut short.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = [_tensor(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserDataError(f"{path.name} is not a safetensors file: its header cannot be read.") from None
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_bounds(path.name, tensors, size - 8 - length)
    return tensors


def _tensor(name: str, entry: dict[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError(name)
    return Tensor(name, str(entry["dtype"]), shape, begin, end)


def _check_bounds(name: str, tensors: list[Tensor], data_bytes: int) -> None:
    if not tensors:
        raise UserDataError(f"{name} holds no tensors.")
    position = 0
    for tensor in tensors:
        bits = ITEM_BITS.get(tensor.dtype)
        if bits is None:
            raise UserDataError(f"{name}: tensor {tensor.name} has the unknown type {tensor.dtype!r}.")
        fits = (tensor.end - tensor.begin) * 8 == prod(tensor.shape) * bits
        if tensor.begin != position or not fits:
            raise UserDataError(f"{name}: the header's offsets of tensor {tensor.name} are wrong.")
        position = tensor.end
    if position != data_bytes:
        raise UserDataError(
            f"{name} is cut short or has foreign bytes at its end: its header describes {position} bytes of "
            f"tensors and {data_bytes} are there."
        )
