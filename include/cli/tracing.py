"""`trace`: which data is behind an adapter or a service, and which services stand on a dataset."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from include.cli.arguments import command
from include.contracts.yaml_documents.reader import BadDocument, read
from include.ledger import sources
from include.retraining.lineage import links, trace

DESCRIPTION = """\
Follows an adapter from its dataset to the service, and back: name a digest (of an adapter or of a dataset; twelve
digits of its beginning do), a Workspace or a version. Reads the Workspaces of the cluster that kubectl talks to.
"""
EPILOG = """\
exit code: 0 something is known; 1 nothing is; 2 the Workspaces could not be read

examples:
  python -m include.cli trace workspace-tuning-phi-3         which data is behind its answers
  python -m include.cli trace sha256:4486dd8f60a7            what this dataset or adapter is behind
  kubectl get workspaces -A -o yaml | python -m include.cli trace --file - sha256:4486dd8f60a7
"""
FINE, NOTHING, UNREADABLE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    root = command("trace", DESCRIPTION, EPILOG)
    root.add_argument("what", metavar="WHAT", help="a digest, a Workspace or a version")
    root.add_argument(
        "--file", metavar="FILE", help="read Workspaces from a YAML or JSON file, or - for standard input"
    )
    root.add_argument("--context", help="a context of the kubeconfig")
    root.add_argument("--json", action="store_true", help="print JSON")
    return root


def main(words: Sequence[str]) -> int:
    """Run the verb; returns its exit code."""
    options = parser().parse_args(list(words))
    try:
        known = _of_file(options.file) if options.file else sources.workspaces(options.context)
    except (OSError, BadDocument, sources.SourceError) as error:
        sys.stderr.write(f"{error}\n")
        return UNREADABLE
    found = trace(links(known), options.what)
    if options.json:
        sys.stdout.write(json.dumps([asdict(link) for link in found], indent=2) + "\n")
    elif found:
        sys.stdout.writelines(f"{link.sentence()}\n" for link in found)
    else:
        sys.stdout.write(f"Nothing that these Workspaces know of is called {options.what}.\n")
    return FINE if found else NOTHING


def _of_file(name: str) -> list[Mapping[str, Any]]:
    text = sys.stdin.read() if name == "-" else Path(name).read_text()
    result: list[Mapping[str, Any]] = []
    for document in read(text):
        if isinstance(document, BadDocument):
            raise document
        value = document.value if isinstance(document.value, Mapping) else {}
        items = value.get("items") if isinstance(value.get("items"), list) else [value]
        result += [
            item for item in items or () if isinstance(item, Mapping) and item.get("kind") == "Workspace"
        ]
    return result
