"""`python -m sandbox`: start, stop, look at and break the one-machine cluster."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import sys
from dataclasses import fields, replace
from typing import Any

from sandbox import lifecycle
from sandbox.control import FAULTS, Control, ControlProblem
from sandbox.faults import FaultKind
from sandbox.layout import Layout, Timings
from sandbox.lifecycle import MissingPrograms, check_programs

EPILOG = """examples:
  python -m sandbox up                      # then: export KUBECONFIG=.sandbox/kubeconfig; kubectl get nodes
  python -m sandbox fault set no-capacity --target 'Standard_NC24*' --count 2
  python -m sandbox fault set slow-boot --value 20
  python -m sandbox fault set node-loss --target 'aks-ws*'
  python -m sandbox fault clear
  python -m sandbox down

The sandbox is a development tool. Use KUBECONFIG with a real cluster for anything else."""
FAULT_HELP = """kinds, with what --target (a shell pattern) and --value mean:
  quota                      instance type, or TYPE/spot
  no-capacity                instance type, TYPE@ZONE or TYPE/spot
  sku                        instance type, or TYPE@ZONE
  auth                       "METHOD /path" of Azure; value: 403 (default) or 401
  slow-boot                  instance type; value: seconds more to boot
  node-loss, spot-eviction   node (once); value of spot-eviction: seconds of notice
  pod-kill, oom              namespace/pod (once)
  registry-down              -
  api-error                  "METHOD /path" of Kubernetes or Azure; value: HTTP status (500)
  api-throttle               "METHOD /path"; value: Retry-After in seconds
  api-latency                "METHOD /path"; value: seconds
  watch-drop                 "/path" (once)"""

#: The timings that `up` takes, each as --NAME-seconds.
SETTABLE = ("boot", "gpu", "heartbeat", "node_monitor_grace", "lost_node_removal", "restart_backoff")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state-dir", default=".sandbox", help="folder for all state (default: .sandbox)")
    parser = argparse.ArgumentParser(
        prog="python -m sandbox", description=__doc__, epilog=EPILOG, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{up,down,status,fault}")
    up = commands.add_parser("up", parents=[common], help="start the sandbox, or keep the one that runs")
    up.add_argument("--port", type=int, default=0, help="port of the API server (default: any free one)")
    up.add_argument("--foreground", action="store_true", help="stay in this terminal until Ctrl-C")
    for field in fields(Timings):
        if field.name in SETTABLE:
            name = f"--{field.name.replace('_', '-')}-seconds"
            up.add_argument(
                name, type=float, dest=field.name, default=field.default, help="default: %(default)s"
            )
    commands.add_parser(
        "down", parents=[common], help="stop the sandbox with all its pods; fine when none runs"
    )
    commands.add_parser(
        "status", parents=[common], help="what runs, as JSON; exit 1 when the sandbox is down"
    )
    fault = commands.add_parser(
        "fault", help="break something on purpose", epilog=FAULT_HELP, formatter_class=raw
    )
    actions = fault.add_subparsers(dest="action", required=True, metavar="{list,set,clear}")
    actions.add_parser("list", parents=[common], help="the faults that are active")
    set_ = actions.add_parser(
        "set", parents=[common], help="set a fault", epilog=FAULT_HELP, formatter_class=raw
    )
    set_.add_argument("kind", choices=[kind.value for kind in FaultKind], metavar="KIND")
    set_.add_argument("--target", default="*", help="what it hits, a shell pattern (default: everything)")
    set_.add_argument("--value", type=float, help="seconds or HTTP status, see below")
    set_.add_argument("--count", type=int, help="how often it is injected (default: until cleared)")
    set_.add_argument("--message", default="", help="words to use instead of the usual ones")
    clear = actions.add_parser("clear", parents=[common], help="clear faults (default: all)")
    clear.add_argument("kind", nargs="?", metavar="KIND", help="only those of this kind")
    clear.add_argument("--id", help="only the fault with this id")
    return parser


def _timings(args: argparse.Namespace) -> Timings:
    given = {f.name: getattr(args, f.name) for f in fields(Timings) if hasattr(args, f.name)}
    return replace(Timings(), **given)


def _up(args: argparse.Namespace, layout: Layout) -> int:
    check_programs()
    timings = _timings(args)
    if args.foreground:
        from sandbox import service  # only the server needs the server's libraries

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
        try:
            asyncio.run(service.run(layout, args.port, timings))
        except (service.AlreadyRunning, service.RegistryProblem) as problem:
            raise lifecycle.SandboxProblem(str(problem)) from problem
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            message = f"Port {args.port} is taken. Give another with --port, or leave it out for a free one."
            raise lifecycle.SandboxProblem(message) from error
        return 0
    options = ["--port", str(args.port)]
    for name in SETTABLE:
        options += [f"--{name.replace('_', '-')}-seconds", str(getattr(timings, name))]
    described = lifecycle.start(layout, options)
    print(
        f"# API server {described['apiserver']}, registry {described['registry']}, process {described['pid']}"
    )
    azure = described["azure"]
    print(f"# Azure {azure['baseUrl']}, token in {azure['tokenFile']}, trust {azure['certificateAuthority']}")
    print(f"export KUBECONFIG={layout.kubeconfig}")
    return 0


def _down(_args: argparse.Namespace, layout: Layout) -> int:
    print("The sandbox has stopped." if lifecycle.stop(layout) else "No sandbox runs here.")
    return 0


def _status(_args: argparse.Namespace, layout: Layout) -> int:
    described = lifecycle.describe(layout)
    if described is None:
        print(f"No sandbox runs with the state folder {layout.root}. Start one with: python -m sandbox up")
        return 1
    control = Control(layout.kubeconfig)
    nodes = control.call("GET", "/api/v1/nodes")["items"]
    pods = control.call("GET", "/api/v1/pods")["items"]
    phases: dict[str, int] = {}
    for pod in pods:
        phase = pod["status"].get("phase", "Pending")
        phases[phase] = phases.get(phase, 0) + 1
    shown: dict[str, Any] = {
        **described,
        "nodes": [node["metadata"]["name"] for node in nodes],
        "pods": phases,
        "faults": control.call("GET", FAULTS)["faults"],
    }
    print(json.dumps(shown, indent=2))
    return 0


def _fault(args: argparse.Namespace, layout: Layout) -> int:
    if lifecycle.describe(layout) is None:
        raise lifecycle.SandboxProblem(f"No sandbox runs with the state folder {layout.root}.")
    control = Control(layout.kubeconfig)
    if args.action == "set":
        wanted = {name: getattr(args, name) for name in ("kind", "target", "value", "count", "message")}
        answer = control.call("POST", FAULTS, wanted)
    elif args.action == "clear":
        answer = control.call("DELETE", FAULTS, kind=args.kind, id=args.id)
    else:
        answer = control.call("GET", FAULTS)
    print(json.dumps(answer, indent=2))
    return 0


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    commands = {"up": _up, "down": _down, "status": _status, "fault": _fault}
    try:
        return commands[args.command](args, Layout.at(args.state_dir))
    except (MissingPrograms, lifecycle.SandboxProblem, ControlProblem) as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
