"""Whether vLLM reads a folder of weights by Run:ai's model streamer: many files at once, straight into its buffers.

vLLM's own image brings the streamer; another may not, and then vLLM reads the files one by one as ever. The streamer
reads every *.safetensors file that it finds, so a folder that holds weights twice is not for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from include.workloads import contract
from include.workloads.contract import UserDataError
from include.workloads.safetensors_header import read_header

PACKAGE = "runai_model_streamer"
BUFFER_BYTES = 4 << 30  # of each process; the streamer's own 40 GB are more than many a machine has
SAYS_HOW = ("--load-format", "--model-loader-extra-config", "--quantization=bitsandbytes")


def streamed(flags: Sequence[str], weights: Path) -> list[str]:
    """vLLM's flags that make it stream these weights; none where it cannot, or where `flags` say how they are read.

    :param flags: the plan's and the user's; `load-format: auto` in an inference_config.yaml is vLLM's own way.
    """
    if any(flag.startswith(SAYS_HOW) for flag in flags) or find_spec(PACKAGE) is None:
        return []
    try:
        files = _files(weights)
        largest = max(
            (tensor.end - tensor.begin for file in files for tensor in read_header(file)), default=0
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserDataError) as error:
        contract.log.info("The weights are not streamed, because they cannot be looked through: %s", error)
        return []
    if not largest:
        return []
    buffer = json.dumps({"memory_limit": max(BUFFER_BYTES, largest)}, separators=(",", ":"))
    return ["--load-format=runai_streamer", f"--model-loader-extra-config={buffer}"]


def _files(weights: Path) -> list[Path]:
    """The model's files where the folder holds each of its weights once; none for formats that vLLM reads itself."""
    found = sorted(weights.rglob("*.safetensors"))
    index = weights / "model.safetensors.index.json"
    wanted = {"model.safetensors"}
    if index.is_file():
        wanted = set(json.loads(index.read_text())["weight_map"].values())
    config = json.loads((weights / "config.json").read_text())
    method = (config.get("quantization_config") or {}).get("quant_method")
    whole = {str(file.relative_to(weights)) for file in found} == wanted
    return found if whole and method != "bitsandbytes" else []
