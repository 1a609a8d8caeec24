"""`python -m tests.bench.adapter_push`: pushing an adapter of 200 MB against `skopeo copy` of the same image, in pairs.

Both push to the same real registry, which has nothing of it before. Ours makes the image as well (hashes it) and starts
an interpreter; skopeo copies an image layout that is ready on the disk. Needs the Debian packages docker-registry and
skopeo.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.adapters import TENSOR, write_adapter
from tests.support.real_registry import RealRegistry, running

MEGABYTES, PAIRS = 200, 5
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Print the seconds of both, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="adapter-push-") as name:
        folder = Path(name)
        with running(folder, password=False) as registry:
            pairs = [pair(registry, folder, number) for number in range(PAIRS)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{MEGABYTES} MB, medians of {PAIRS}: ours {ours:.2f} s, skopeo {theirs:.2f} s: {theirs / ours:.2f}x"
    )


def pair(registry: RealRegistry, folder: Path, number: int) -> tuple[float, float]:
    """Seconds of one push of ours and of one of skopeo, of the same new content."""
    adapter = write_adapter(folder / "adapter")
    values = np.random.default_rng(number).normal(size=MEGABYTES * 250_000).astype(np.float32)
    save_file({TENSOR: values.reshape(4, -1)}, adapter / "adapter_model.safetensors")
    image = f"{registry.host}/bench/ours:{number}"
    env = {
        **os.environ,
        "INSECURE_REGISTRIES": registry.host,
        "ADAPTER_DIR": str(adapter),
        "ADAPTER_IMAGE": image,
        "TERMINATION_LOG": str(folder / "result.json"),
    }
    ours = seconds([sys.executable, "-m", "include.workloads.adapter", "push"], env)
    layout = folder / f"layout-{number}"
    copy = ["skopeo", "copy", "-q", "--insecure-policy"]
    from_registry = ["--src-tls-verify=false", f"docker://{image}", f"oci:{layout}:x"]
    subprocess.run([*copy, *from_registry], check=True)
    shutil.rmtree(registry.root / "storage")  # else the layer is there already, and nothing is sent
    to_registry = ["--dest-tls-verify=false", f"oci:{layout}:x"]
    theirs = seconds([*copy, *to_registry, f"docker://{registry.host}/bench/theirs:{number}"], {**os.environ})
    shutil.rmtree(layout)
    shutil.rmtree(registry.root / "storage")
    return ours, theirs


def seconds(command: list[str], env: dict[str, str]) -> float:
    """How long a command takes; its failure ends the bench."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
