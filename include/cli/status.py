"""`status`: how Workspaces stand, for a terminal: what Airflow's page shows, and `--watch` to follow one to its end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO

from include.cli.arguments import command
from include.cli.cluster import Cluster
from include.ledger.sources import SourceError
from include.views import fleet
from include.views.page import Page, page
from include.views.words import duration

DESCRIPTION = """\
How Workspaces stand in the cluster that kubectl talks to: all of them, or one with its conditions, Events, machines and
cost. With --watch the view is drawn anew until the Workspace serves, is done, or has failed.
"""
EPILOG = """\
exit code: 0 it is read, or with --watch: it serves or is done; 1 with --watch: it has failed; 2 it cannot be read

examples:
  python -m include.cli status
  python -m include.cli status workspace-tuning-phi-3 -n team --watch
"""
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
#: Words after which nothing moves by itself.
ENDS = {"Serving": 0, "Done": 0, "At zero": 0, "Failed": 1, "Over budget": 1}
CLEAR = "\x1b[H\x1b[2J"


def table(rows: Sequence[fleet.Row], now: datetime) -> list[str]:
    """The lines of the table of all Workspaces."""
    lines = [("NAMESPACE", "NAME", "MODEL", "STATE", "PROGRESS", "SERVED", "COST", "PER HOUR", "WHY")]
    for row in rows:
        cells = fleet.cells(row, now)
        why = row.reason if len(row.reason) < 60 else f"{row.reason[:57]}..."
        progress = f"{row.progress.percent}%" if row.progress else ""
        served = cells["served"].removesuffix(" ago") if row.served_since else ""
        told = (
            row.namespace,
            row.name,
            row.model,
            row.state,
            progress,
            served,
            cells["cost"],
            cells["rate"],
            why,
        )
        lines.append(told)
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def lines(seen: Page, losses: Sequence[float], now: datetime) -> Iterator[str]:
    """The view of one Workspace. `losses` are those that were seen while it was watched."""
    row = seen.row
    yield f"{row.namespace}/{row.name}: {row.state}"
    if row.reason:
        yield f"  {row.reason}"
    if row.progress:
        done = round(WIDTH * row.progress.percent / 100)
        left = f", {duration(row.progress.eta_seconds)} left" if row.progress.eta_seconds is not None else ""
        count = row.progress.words if row.progress.stage else f"{row.progress.step}/{row.progress.total}"
        yield f"  {'█' * done}{'░' * (WIDTH - done)} {count}{left}"
    if len(losses) > 1:
        yield f"  loss {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}"
    yield ""
    run = " ".join(seen.run[key] for key in ("dag", "id", "state") if key in seen.run)
    facts = [*seen.facts, *([("Run", run)] if run else [])]
    width = max((len(label) for label, _ in facts), default=0) + 2
    for label, text in facts:
        yield f"  {label + ':':{width}}{text}"
    for title, found in (("Conditions", seen.conditions), ("Events", seen.events[-8:])):
        if found:
            yield ""
            yield title
        width = max((len(one.what) for one in found), default=0)
        for one in found:
            at = one.at.astimezone(UTC).strftime("%H:%M:%S") if one.at else "        "
            mark = "!" if one.bad else " "
            yield f" {mark}{at}  {one.what:{width}}  {one.status:7} {one.message or one.reason}"


def sparkline(values: Sequence[float]) -> str:
    """Values as a line of bars, at most `WIDTH` of them: the last ones."""
    shown = values[-WIDTH:]
    low, high = min(shown), max(shown)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((value - low) / step)] for value in shown)


def parser() -> argparse.ArgumentParser:
    root = command("status", DESCRIPTION, EPILOG)
    root.add_argument("name", nargs="?", help="one Workspace (default: all)")
    root.add_argument(
        "--namespace", "-n", help="of the Workspace (default: default), or only Workspaces of it"
    )
    root.add_argument(
        "--search", "-s", default="", metavar="WORDS", help="only Workspaces that hold these words"
    )
    root.add_argument(
        "--watch", "-w", action="store_true", help="draw it anew until it serves, is done or failed"
    )
    root.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="between two looks (default: 2)"
    )
    root.add_argument(
        "--output", "-o", choices=["text", "yaml", "json"], default="text", help="default: text"
    )
    root.add_argument("--context", help="context of the kubeconfig (default: the current one)")
    return root


def main(
    argv: Sequence[str] | None = None,
    out: TextIO | None = None,
    connect: Callable[[str | None], Cluster] = Cluster,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """The exit code. `connect` gives the cluster for a context; tests give their own."""
    asked, out = parser().parse_args(argv), out or sys.stdout
    try:
        cluster = connect(asked.context)
        if not asked.name:
            return _all(cluster, asked, out)
        return _one(cluster, asked, out, sleep)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2


def _all(cluster: Cluster, asked: argparse.Namespace, out: TextIO) -> int:
    now = datetime.now(UTC)
    rows = fleet.arranged((fleet.row(one, now) for one in cluster.workspaces(asked.namespace)), asked.search)
    if asked.output == "json":
        out.write(json.dumps([one.to_dict() for one in rows], indent=2) + "\n")
        return 0
    out.writelines(line + "\n" for line in (table(rows, now) if rows else ["There are no such Workspaces."]))
    return 0


def _one(cluster: Cluster, asked: argparse.Namespace, out: TextIO, sleep: Callable[[float], None]) -> int:
    namespace = asked.namespace or "default"
    losses: list[float] = []
    while True:
        now = datetime.now(UTC)
        live = cluster.workspace(namespace, asked.name)
        seen = page(live, cluster.events(namespace, asked.name), now)
        loss = ((live.get("status") or {}).get("progress") or {}).get("loss")
        if seen.row.progress and loss is not None and losses[-1:] != [loss]:
            losses.append(float(loss))
        if asked.output == "json":
            out.write(json.dumps(seen.row.to_dict(), indent=2 if not asked.watch else None) + "\n")
        elif asked.output == "yaml":
            out.write(seen.yaml)
        else:
            out.write(CLEAR if asked.watch and out.isatty() else "")
            out.writelines(line + "\n" for line in lines(seen, losses, now))
        out.flush()
        if not asked.watch:
            return 0
        if seen.row.state in ENDS:
            return ENDS[seen.row.state]
        sleep(max(0.2, asked.every))
