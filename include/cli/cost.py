"""`cost`: what GPU machines have cost, by run, Workspace, namespace or machine type."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from include.cli.arguments import command
from include.ledger import report, sources
from include.ledger.books import Book, entries, within

DESCRIPTION = """\
What GPU machines have cost at list prices: from the Workspaces of the cluster that kubectl talks to, and from Airflow,
which also remembers Workspaces that were deleted. USEFUL is the share of the time in which a tuning that came to
something ran or a service was ready; the rest (boot, waiting, failed runs) is wasted.
"""
EPILOG = f"""\
{sources.TOKEN}, or {sources.USERNAME} and {sources.PASSWORD}, in the environment say who asks Airflow.

exit code: 0 all of it; 1 a source could not be read; 2 the command line is wrong

examples:
  python -m include.cli cost --airflow http://localhost:8080
  python -m include.cli cost --by namespace --since 2026-11-01 --until 2026-12-01 --format csv
"""


def moment(text: str) -> datetime:
    """A day or a moment of ISO 8601; UTC where it names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day and no moment: write 2026-11-23 or 2026-11-23T14:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def parser() -> argparse.ArgumentParser:
    root = command("cost", DESCRIPTION, EPILOG)
    root.add_argument(
        "--by", choices=list(report.GROUPINGS), default="run", help="one row for each (default: run)"
    )
    root.add_argument("--since", type=moment, metavar="WHEN", help="count from this day or moment on")
    root.add_argument(
        "--until", type=moment, metavar="WHEN", help="count up to this day or moment, not beyond"
    )
    root.add_argument("--namespace", "-n", help="only Workspaces of this namespace")
    root.add_argument("--format", "-o", choices=list(report.FORMATS), default="table", help="default: table")
    root.add_argument(
        "--airflow",
        metavar="URL",
        default=os.environ.get("AIRFLOW_URL"),
        help="Airflow's address ($AIRFLOW_URL)",
    )
    root.add_argument("--context", help="context of the kubeconfig (default: the current one)")
    root.add_argument("--no-cluster", action="store_true", help="do not ask a cluster")
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; the report goes to standard output, what is missing in it to standard error."""
    root = parser()
    asked = root.parse_args(argv)
    if asked.since and asked.until and asked.since >= asked.until:
        root.error("--since must be before --until")
    if asked.no_cluster and not asked.airflow:
        root.error("with --no-cluster, --airflow says whom to ask")
    found, faults = _books(asked)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults and not found:
        return 1
    wanted = [book for book in found if asked.namespace in (None, book.namespace)]
    counted = within(every := entries(wanted), asked.since, asked.until)
    sys.stdout.write(report.FORMATS[asked.format](counted, asked.by, asked.since, asked.until))
    _remarks(asked, any(entry.since is None for entry in every))
    return 1 if faults else 0


def _books(asked: argparse.Namespace) -> tuple[list[Book], list[str]]:
    result: list[Book] = []
    faults: list[str] = []
    if not asked.no_cluster:
        try:
            result += sources.of_cluster(asked.context)
        except sources.SourceError as error:
            faults.append(str(error))
    if asked.airflow:
        try:
            result += sources.of_airflow(asked.airflow)
        except sources.SourceError as error:
            faults.append(str(error))
    return result, faults


def _remarks(asked: argparse.Namespace, sums: bool) -> None:
    if not asked.airflow:
        print("Deleted Workspaces are not in it: --airflow URL names who remembers them.", file=sys.stderr)
    if sums and (asked.since or asked.until):
        print("Old runs that are known only as a sum have no time and are left out.", file=sys.stderr)
