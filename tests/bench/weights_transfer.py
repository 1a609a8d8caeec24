"""A model image to and from the real docker-registry on loopback, against `curl` of the same bytes.

    .venv/bin/python -m tests.bench.weights_transfer [MiB a file] [files] [rounds]

`curl` only downloads, one layer after the other, to a file; ours also makes the digest of every byte. Both write to the
same disk, by turns; before each turn its folder is deleted. Nothing is asserted: times are for people.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from include.workloads.oci.registry import RegistryClient
from include.workloads.weights.folder import PARTS
from include.workloads.weights.from_image import look_up, pull_files
from include.workloads.weights.layers import LayerFile
from include.workloads.weights.package import Request, package
from tests.support.real_registry import RealRegistry, running


def curl(registry: RealRegistry, repository: str, files: tuple[LayerFile, ...], target: Path) -> None:
    """Download the layers as files."""
    for file in files:
        url = f"http://{registry.host}/v2/{repository}/blobs/{file.digest}"
        subprocess.run(["curl", "-fsS", "-o", str(target / file.name), url], check=True)


def timed(act: Callable[[Path], None], root: Path) -> float:
    """Seconds that `act` takes to fill an empty folder."""
    target = root / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    os.sync()
    began = time.monotonic()
    act(target)
    return time.monotonic() - began


def write_shards(folder: Path, mib: int, count: int) -> None:
    """Files of random numbers; random bytes are as good as weights here."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    random = np.random.default_rng(1)
    for number in range(count):
        values = random.integers(0, 2**31, size=mib << 18, dtype=np.int32)
        save_file({f"w{number}": values}, folder / f"model-{number}.safetensors")


def main(mib: int, count: int, rounds: int) -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), password=False) as registry:
        root = Path(folder)
        os.environ["INSECURE_REGISTRIES"] = registry.host
        write_shards(root / "model", mib, count)
        made = Request(
            registry=registry.host, name="bench", tag="1", folder=str(root / "model"), licence="mit"
        )
        began = time.monotonic()
        size = package(made)["bytes"]
        print(
            f"package and push: {size / (1 << 20) / (time.monotonic() - began):.0f} MiB/s (digests, then the upload)"
        )
        client: RegistryClient
        client, _, files = look_up(f"{registry.host}/kaito-bench:1", PARTS[""])
        seconds: dict[str, list[float]] = {"curl": [], "ours": []}
        for _ in range(rounds):
            seconds["curl"].append(timed(lambda to: curl(registry, "kaito-bench", files, to), root))
            seconds["ours"].append(timed(lambda to: pull_files(client, files, to), root))
        rates = {who: size / (1 << 20) / statistics.median(times) for who, times in seconds.items()}
        for who, rate in rates.items():
            print(
                f"{who}: {rate:.0f} MiB/s (median of {rounds}: {', '.join(f'{s:.2f} s' for s in seconds[who])})"
            )
        print(f"{rates['ours'] / rates['curl']:.2f} x curl")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    main(*given, *(512, 4, 5)[len(given) :])
