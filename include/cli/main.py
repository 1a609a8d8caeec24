"""The command line of `python -m include.cli`: which verb does what, and how it ends.

For people and CI. It must never import Airflow, and imports what a verb needs (such as a Kubernetes client) only when
that verb runs. Plans are made by whoever passes `planner`: planning stands on a higher floor.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TextIO

from include.cli.arguments import COMPLETE, DELEGATED, parser
from include.cli.report import FINE, UNREADABLE

if TYPE_CHECKING:
    from include.cli.checking import Planner

CRD_FILE = "presets/crds/kaito.sh_workspaces.yaml"
CRD_HEADER = "# Written by `python -m include.cli crd`; a test compares. Do not edit.\n"


def main(
    arguments: Sequence[str] | None = None, out: TextIO | None = None, planner: Planner | None = None
) -> int:
    """Runs one verb and gives the exit code: 0 fine, 1 a Workspace has faults, 2 something could not be read."""
    out = out or sys.stdout
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in DELEGATED:
        module, function = DELEGATED[words[0]].main.split(":")
        return int(getattr(import_module(module), function)(words[1:]))
    if words and words[0] == COMPLETE:
        from include.cli.completing import candidates

        out.writelines(f"{one}\n" for one in candidates(words[1:]))
        return FINE
    options = parser().parse_args(words)
    if options.verb == "check":
        return _check(options, out, planner)
    if options.verb == "convert":
        return _convert(options, out)
    if options.verb in ("models", "machines", "rules"):
        return _list(options, out)
    if options.verb == "crd":
        out.write(crd_text())
        return FINE
    from include.workspace.api.models import Workspace

    out.write(json.dumps(Workspace.model_json_schema(by_alias=True), indent=2) + "\n")
    return FINE


def crd_text() -> str:
    """The CRD manifest as it is committed."""
    import yaml

    from include.workspace.api.crd import workspace_crd

    return CRD_HEADER + yaml.safe_dump(workspace_crd(), sort_keys=False, width=110)


def _check(options: argparse.Namespace, out: TextIO, planner: Planner | None) -> int:
    from include.cli import machine_readable, text
    from include.cli.checking import check
    from include.cli.hub_models import from_the_hub
    from include.cli.sources import read_sources
    from include.contracts.redaction import redact
    from include.workspace.validation.rules import Policy

    policy = Policy(
        allowed_networks=tuple(options.allow_network),
        insecure_registries=tuple(options.insecure_registry),
        byo=options.byo,
        local_weights=options.local_weights,
        mig="mig" in options.gate,
        accelerator="accelerator" in options.gate,
        model_streaming="model-streaming" in options.gate,
    )
    report = check(read_sources(options.files), policy, planner, from_the_hub if options.hub else None)
    if options.format == "json":
        out.write(machine_readable.as_json(report) + "\n")
    elif options.format == "github":
        out.writelines(line + "\n" for line in machine_readable.as_annotations(report))
    else:
        out.writelines(redact(line) + "\n" for line in text.lines(report, text.Style.of(out), options.quiet))
    return report.exit_code


def _convert(options: argparse.Namespace, out: TextIO) -> int:
    from include.cli.converting import convert_text
    from include.cli.sources import read_sources

    code = FINE
    for source in read_sources([options.file]):
        written, problems = ("", [source.error]) if source.error else convert_text(source.data, options.to)
        out.write(written)
        for problem in problems:
            sys.stderr.write(f"{source.name}: {problem}\n")
            code = UNREADABLE
    return code


def _list(options: argparse.Namespace, out: TextIO) -> int:
    from include.cli import listing

    columns, rows = listing.of(options.verb, options.part)
    if options.json:
        out.write(json.dumps(rows, indent=2) + "\n")
    elif rows:
        out.writelines(line + "\n" for line in listing.table(columns, rows))
    else:
        out.write(f"None of the {options.verb} holds {options.part!r}.\n")
    return FINE
