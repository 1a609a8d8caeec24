"""`logs`: what the pods of a Workspace say: those of its steps, and of its service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from include.cli.arguments import command
from include.cli.cluster import Cluster
from include.contracts.redaction import redact
from include.ledger.sources import SourceError
from include.workspace.api import names

DESCRIPTION = """\
Prints the log of a Workspace's pods: of the newest one, or of the step that --step names. Steps are what their label
kaito.sh/component says: dataset, tuning, adapter, evaluation, serving. Pods of steps that are done are gone; Airflow
keeps their logs with the task.
"""
EPILOG = """\
exit code: 0 a log was printed; 1 there is no such pod; 2 the cluster cannot be read

examples:
  python -m include.cli logs workspace-tuning-phi-3 --follow
  python -m include.cli logs workspace-phi-4 -n team --step serving --tail 500
"""
LINES = 100


def parser() -> argparse.ArgumentParser:
    root = command("logs", DESCRIPTION, EPILOG)
    root.add_argument("name", help="the Workspace")
    root.add_argument("--namespace", "-n", default="default", help="of the Workspace (default: default)")
    root.add_argument("--step", "-s", help="of this step's newest pod (default: of the newest pod)")
    root.add_argument("--container", "-c", help="of the pod (default: its main one)")
    root.add_argument("--follow", "-f", action="store_true", help="go on until the pod ends")
    root.add_argument("--previous", "-p", action="store_true", help="of the container before its restart")
    root.add_argument(
        "--tail", type=int, default=LINES, metavar="LINES", help=f"from the end (default: {LINES})"
    )
    root.add_argument("--context", help="context of the kubeconfig (default: the current one)")
    return root


def main(
    argv: Sequence[str] | None = None,
    out: TextIO | None = None,
    connect: Callable[[str | None], Cluster] = Cluster,
) -> int:
    """The exit code. `connect` gives the cluster for a context; tests give their own."""
    asked, out = parser().parse_args(argv), out or sys.stdout
    try:
        cluster = connect(asked.context)
        live = cluster.workspace(asked.namespace, asked.name)
        pods = cluster.pods(asked.namespace, asked.name)
        pod = _newest(pods, asked.step)
        if pod is None:
            print(_none(live, pods, asked.step), file=sys.stderr)
            return 1
        name, containers = pod["metadata"]["name"], _containers(pod)
        container = asked.container or _main(pod)
        if container not in containers:
            print(
                f"Pod {name} has no container {container}; it has: {', '.join(containers)}.", file=sys.stderr
            )
            return 1
        print(f"==> {_step(pod)}: pod {name}, container {container}", file=sys.stderr)
        options = {"lines": asked.tail, "follow": asked.follow, "previous": asked.previous}
        for line in cluster.log(asked.namespace, name, container, **options):
            out.write(redact(line) + "\n")
            out.flush()
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _step(pod: Mapping[str, Any]) -> str:
    return str((pod["metadata"].get("labels") or {}).get(names.COMPONENT) or "pod")


def _containers(pod: Mapping[str, Any]) -> list[str]:
    spec = pod["spec"]
    return [str(one["name"]) for one in [*spec["containers"], *(spec.get("initContainers") or [])]]


def _main(pod: Mapping[str, Any]) -> str:
    """The container that kubectl would choose: the annotated one, or the first."""
    annotations = pod["metadata"].get("annotations") or {}
    return str(annotations.get("kubectl.kubernetes.io/default-container") or _containers(pod)[0])


def _newest(pods: Sequence[Mapping[str, Any]], step: str | None) -> Mapping[str, Any] | None:
    return next((pod for pod in reversed(pods) if step in (None, _step(pod))), None)


def _none(live: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], step: str | None) -> str:
    """Why there is no such pod, and where its log may be."""
    name = live["metadata"]["name"]
    run = (live.get("status") or {}).get("run") or {}
    where = f" Airflow has the logs of its run {run['id']} of {run.get('dag', '?')}." if run.get("id") else ""
    if pods:
        there = ", ".join(sorted({_step(pod) for pod in pods}))
        return f"Workspace {name} has no pod of step {step} now; it has of: {there}.{where}"
    return f"Workspace {name} has no pod now.{where}"
