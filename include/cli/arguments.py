"""The words of the command line: verbs, switches, and help that a newcomer understands.

It must stay free of heavy imports: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple, TypeAlias

from include.contracts.addresses import parse_networks

#: How the user called this: the help shows its examples so.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
MODULE = "python -m include.cli"
PROGRAM = (
    "kubectl kaito"
    if os.environ.get("KAITO_PROGRAM") or Path(sys.argv[0]).name == "kubectl-kaito"
    else MODULE
)
#: Gates of admission, as the fields of `Policy` are called.
GATES = ("mig", "accelerator", "model-streaming")
FILES = "a YAML or JSON file, a folder (all *.yaml, *.yml, *.json below it), or - for standard input"

DESCRIPTION = """\
Checks and explains KAITO Workspaces on this machine, before anything costs money; status, logs, chat, cost and trace
ask the cluster that kubectl talks to.
"""
EXAMPLES = f"""\
examples:
  {PROGRAM} check workspace.yaml        is it right? what machine, memory and money does it take?
  {PROGRAM} check deploy/               every Workspace below a folder
  {PROGRAM} models phi                  presets whose name holds "phi"
  {PROGRAM} machines A100               machine types with that GPU
  {PROGRAM} crd | kubectl apply -f -    teach a cluster what a Workspace is

"VERB --help" says more about each.
"""
CHECK = """\
Checks every Workspace of the files and says OK, with the plan (machines, memory, time, cost), or everything that is
wrong with it, one line a fault:

  workspace.yaml:16:3: tuning.output.imagePushSecret: is required to push output.image [U10]

File, line and column are those of the field, or of the nearest field around one that is missing; the id in brackets is
the rule ("rules U10" explains it). ConfigMaps in the same files that a Workspace uses are checked with it. Other kinds
are passed over.
"""
CHECK_EXAMPLES = f"""\
exit code: 0 all fine; 1 a Workspace has faults; 2 a file cannot be read or is not YAML (all others are still checked)

examples:
  {PROGRAM} check workspace.yaml
  kubectl get workspaces -A -o yaml | {PROGRAM} check -
  {PROGRAM} check --quiet deploy/                 only what is wrong; nothing when all is fine
  {PROGRAM} check --format json deploy/           for programs (--json is short for it)
  {PROGRAM} check --format github deploy/         annotations in a GitHub workflow
  {PROGRAM} check --byo --gate mig slices.yaml    for a cluster that is set up so
  {PROGRAM} check --hub my-model.yaml             preset.name may be any org/model of the hub
"""
CONVERT = """\
Prints the documents of a file with each Workspace in the other version of the API. Everything else is printed as it
stands. A Workspace keeps its meaning: what the other version has no field for is kept in an annotation.
"""


class Delegated(NamedTuple):
    """A verb with a grammar of its own: where its main function and its parser are ("module:name"), and its help."""

    main: str
    parser: str
    help: str


DELEGATED = {
    "status": Delegated(
        "include.cli.status:main",
        "include.cli.status:parser",
        "say how Workspaces stand in the cluster, and follow one to its end (--watch)",
    ),
    "logs": Delegated(
        "include.cli.logs:main", "include.cli.logs:parser", "print the logs of a Workspace's pods"
    ),
    "chat": Delegated("include.cli.chat:main", "include.cli.chat:parser", "talk to a Workspace's service"),
    "cost": Delegated(
        "include.cli.cost:main",
        "include.cli.cost:parser",
        "say what GPU machines have cost, by run, Workspace, namespace or machine",
    ),
    "trace": Delegated(
        "include.cli.tracing:main",
        "include.cli.tracing:parser",
        "say which data is behind a service, and what stands on a dataset",
    ),
    "presets": Delegated(
        "include.cli.presets:check_presets",
        "include.cli.presets:presets_parser",
        "say whether presets folders are sound",
    ),
    "resolve": Delegated(
        "include.cli.presets:resolve_model",
        "include.cli.presets:resolve_parser",
        "print a presets record of a model of the hub",
    ),
}
#: The verb that kubectl's completion asks (bin/kubectl_complete-kaito); help does not list it.
COMPLETE = "__complete"


def command(verb: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """The parser of a verb with a grammar of its own."""
    return argparse.ArgumentParser(
        prog=f"{PROGRAM} {verb}",
        description=description,
        epilog=epilog.replace(MODULE, PROGRAM),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parser() -> argparse.ArgumentParser:
    """The whole grammar; `verb` of the result says what to do."""
    root = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")
    _check(verbs)
    _convert(verbs)
    _listings(verbs)
    _verb(verbs, "crd", "print the CustomResourceDefinition, for kubectl apply")
    _verb(verbs, "schema", "print the JSON schema of a Workspace, for editors")
    for name, verb in DELEGATED.items():
        verbs.add_parser(name, help=verb.help, add_help=False)
    return root


def _verb(
    verbs: Verbs, name: str, help_text: str, description: str = "", epilog: str = ""
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=help_text,
        description=description or help_text[0].upper() + help_text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _check(verbs: Verbs) -> None:
    check = _verb(
        verbs, "check", "say what is wrong with Workspaces, or what they need", CHECK, CHECK_EXAMPLES
    )
    check.add_argument("files", nargs="+", metavar="FILE", help=FILES)
    shape = check.add_mutually_exclusive_group()
    shape.add_argument(
        "--format", choices=("text", "json", "github"), default="text", help="how to print what is found"
    )
    shape.add_argument(
        "--json", action="store_const", const="json", dest="format", help="same as --format json"
    )
    shape.add_argument("-q", "--quiet", action="store_true", help="print faults only")
    check.add_argument(
        "--byo",
        action="store_true",
        help="check for a cluster that makes no machines: nodes are BYO (bring your own), chosen by labelSelector",
    )
    check.add_argument(
        "--hub",
        action="store_true",
        help="ask the model hub about names like org/model (uses HF_TOKEN for gated ones, HF_ENDPOINT for a mirror)",
    )
    check.add_argument(
        "--local-weights",
        action="store_true",
        help="check for a cluster whose nodes hold the weights, so that gated models need no token",
    )
    check.add_argument(
        "--allow-network",
        action="append",
        default=[],
        metavar="CIDR",
        type=_network,
        help="private addresses that dataset URLs and images may name, such as 10.0.0.0/8 (may be repeated)",
    )
    check.add_argument(
        "--insecure-registry",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a registry without TLS that images may name wherever it is (may be repeated)",
    )
    check.add_argument(
        "--gate",
        action="append",
        default=[],
        choices=GATES,
        metavar="GATE",
        help=f"a feature gate that the cluster has on: {', '.join(GATES)} (may be repeated)",
    )


def _network(text: str) -> str:
    """A CIDR, as argparse wants it checked."""
    try:
        parse_networks([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _convert(verbs: Verbs) -> None:
    convert = _verb(verbs, "convert", "print Workspaces in the other version of the API", CONVERT)
    convert.add_argument("file", metavar="FILE", help="a YAML or JSON file, or - for standard input")
    convert.add_argument("--to", required=True, choices=("v1alpha1", "v1beta1"), help="the version to print")


def _listings(verbs: Verbs) -> None:
    for name, help_text, what in (
        ("models", "list the models that a Workspace can name", "name, alias or hub id"),
        ("machines", "list the GPU machine types that a Workspace can name", "name, GPU or cloud"),
        ("rules", "list the rules by the ids that faults carry", "id or sentence"),
    ):
        listing = _verb(verbs, name, help_text)
        listing.add_argument("part", nargs="?", default="", help=f"only those whose {what} holds this text")
        listing.add_argument("--json", action="store_true", help="print JSON")
