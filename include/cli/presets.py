"""`presets`: whether presets folders are sound; `resolve ORG/MODEL`: a record of a hub model for such a folder.

Exit codes: 0 sound, 1 faults, 2 a wrong command line or a hub that cannot be asked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from include.catalog import records
from include.cli.arguments import command
from include.contracts.plural import plural


def presets_parser() -> argparse.ArgumentParser:
    parser = command("presets", "Examine presets folders and print every fault.")
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        help=f"folders that override the project's own presets, later ones first; default: {records.EXTRA}",
    )
    parser.add_argument(
        "--hub", action="store_true", help="also ask the hub about every model (HF_TOKEN, HF_ENDPOINT)"
    )
    return parser


def check_presets(arguments: Sequence[str]) -> int:
    """Examines presets folders, prints every fault, and gives the exit code."""
    given = presets_parser().parse_args(arguments)
    return _check(given.folders, given.hub)


def resolve_parser() -> argparse.ArgumentParser:
    parser = command("resolve", "Ask the model hub for a model and print a record for a presets folder.")
    parser.add_argument("name", help="hub id, such as org/model")
    parser.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")
    return parser


def resolve_model(arguments: Sequence[str]) -> int:
    """Asks the hub for a model, prints a record for a presets folder, and gives the exit code."""
    given = resolve_parser().parse_args(arguments)
    return _resolve(given.name, given.revision)


def _check(folders: Sequence[Path], ask_hub: bool) -> int:
    from include.catalog.checking import check
    from include.catalog.loading import load_catalog

    places = (records.PRESETS, *folders) if folders else records.preset_folders()
    faults = check(places)
    if ask_hub and not faults:
        from include.catalog.hub_check import differences

        faults = [fault for model in load_catalog(*places).models for fault in differences(model, _token())]
    for fault in faults:
        print(fault)
    if faults:
        print(plural(len(faults), "fault"), file=sys.stderr)
        return 1
    catalog = load_catalog(*places)
    print(
        f"OK: {len(catalog.models)} models, {len(catalog.machines)} machines, {plural(len(catalog.images), 'image')} "
        f"in {', '.join(map(str, places))}"
    )
    return 0


def _resolve(name: str, revision: str) -> int:
    from include.catalog.hub import HubError, resolve
    from include.catalog.hub_check import as_yaml

    try:
        model = resolve(name, revision=revision, token=_token())
    except HubError as error:
        print(error, file=sys.stderr)
        return 2 if error.transient else 1
    print(as_yaml(model), end="")
    return 0


def _token() -> str | None:
    return os.environ.get("HF_TOKEN", "").strip() or None
