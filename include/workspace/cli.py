"""The verbs of `python -m include.workspace`: check Workspaces, print the CRD or the schema.

For people and CI, before anything is applied. It must never import Airflow or a Kubernetes client: it starts in half a
second and needs no cluster. Plans are printed by whoever passes `explain`, since planning stands on a higher floor.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from include.catalog import load_catalog
from include.workspace import documents
from include.workspace.crd import workspace_crd
from include.workspace.faults import Fault
from include.workspace.models import Workspace
from include.workspace.names import GROUP, KIND
from include.workspace.notices import notices
from include.workspace.parse import examine_workspace
from include.workspace.rules import Policy

OK, FAULTY, UNREADABLE = 0, 1, 2
CRD_FILE = "presets/crds/kaito.sh_workspaces.yaml"
CRD_HEADER = "# Written by `python -m include.workspace crd`; a test compares. Do not edit.\n"

Explain = Callable[[Workspace], list[str]]


def main(
    arguments: Sequence[str] | None = None, out: TextIO = sys.stdout, explain: Explain | None = None
) -> int:
    """Runs one verb and gives the exit code: 0 fine, 1 a Workspace has faults, 2 something could not be read."""
    options = _parser().parse_args(arguments)
    if options.verb == "crd":
        out.write(crd_text())
    elif options.verb == "schema":
        json.dump(Workspace.model_json_schema(by_alias=True), out, indent=2)
        out.write("\n")
    else:
        return _check(options, out, explain)
    return OK


def crd_text() -> str:
    """The CRD manifest as it is committed."""
    return CRD_HEADER + yaml.safe_dump(workspace_crd(), sort_keys=False, width=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m include.workspace",
        description="Checks and describes KAITO Workspaces without a cluster.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="say what is wrong with Workspaces, all faults at once",
        description="Checks every Workspace of the files (YAML, several documents allowed). "
        "Exit code 0: all fine; 1: some have faults; 2: a file could not be read.",
    )
    check.add_argument("files", nargs="+", metavar="FILE", help="a YAML file, or - for standard input")
    check.add_argument(
        "--allow-network",
        action="append",
        default=[],
        metavar="CIDR",
        help="private addresses that dataset URLs may name, such as 10.0.0.0/8 (may be repeated)",
    )
    verbs.add_parser("crd", help=f"print the CustomResourceDefinition (committed as {CRD_FILE})")
    verbs.add_parser("schema", help="print the JSON schema of a Workspace")
    return parser


def _check(options: argparse.Namespace, out: TextIO, explain: Explain | None) -> int:
    policy = Policy(allowed_networks=tuple(options.allow_network))
    worst = OK
    for name in options.files:
        try:
            raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            out.write(f"{name}: cannot be read: {error.strerror}\n")
            worst = UNREADABLE
            continue
        for line, code in _examine(name, raw, policy, explain):
            out.write(line + "\n")
            worst = max(worst, code)
    return worst


def _examine(name: str, raw: bytes, policy: Policy, explain: Explain | None) -> Iterator[tuple[str, int]]:
    """The lines for one file, each with the exit code that it stands for."""
    try:
        found = list(documents.load_all(raw))
    except documents.BadDocument as error:
        yield f"{name}: {error}", FAULTY
        return
    if not found:
        yield f"{name}: holds no document", FAULTY
    for document in found:
        if not _is_workspace(document):
            kind = document.get("kind") if isinstance(document, Mapping) else None
            yield f"{name}: passed over {kind or 'a document that is no object'}", OK
            continue
        workspace, faults = examine_workspace(document, load_catalog(), policy)
        yield from _report(f"{name}: {_title(document)}", workspace, faults, explain)


def _report(
    title: str, workspace: Workspace | None, faults: Sequence[Fault], explain: Explain | None
) -> Iterator[tuple[str, int]]:
    if faults or workspace is None:
        yield f"{title}: {len(faults)} fault{'s' if len(faults) != 1 else ''}", FAULTY
        for fault in faults:
            yield f"  {fault}", FAULTY
        return
    yield f"{title}: OK", OK
    for sentence in explain(workspace) if explain else notices(workspace, load_catalog()):
        yield f"  {sentence}", OK


def _is_workspace(document: Any) -> bool:
    """Whether a document means to be a Workspace; a misspelt group or kind is the author's fault, not another kind."""
    if not isinstance(document, Mapping):
        return False
    return document.get("kind") == KIND or str(document.get("apiVersion") or "").startswith(f"{GROUP}/")


def _title(document: Mapping[str, Any]) -> str:
    meta = document.get("metadata")
    name = meta.get("name") if isinstance(meta, Mapping) else None
    return f"Workspace {name or '(no name)'}"
