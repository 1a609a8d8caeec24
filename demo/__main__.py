"""`python -m demo`: run the main job, or start and stop its processes."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo import external, second_act, stack
from demo.airflow_api import AirflowApi
from demo.cluster import CRDS, Kubectl
from demo.main_job import DAG_ID, DAGS, RECONCILER, MainJob
from demo.preflight import Options
from demo.processes import DemoError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".sandbox"), help="folder for all state (default: .sandbox)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the sandbox and Airflow running at the end"
    )
    parser.add_argument(
        "--act",
        choices=["main", "retrain"],
        default="main",
        help="retrain: new rows, a better version, a refused one; goes on from a main job that --keep has left up and "
        "leaves it up too, and runs that first where none is",
    )
    parser.add_argument(
        "--cluster",
        choices=["sandbox", "external"],
        default="sandbox",
        help="external: the cluster of --kubeconfig (docs/testing.md)",
    )
    parser.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, else ~/.kube/config")
    parser.add_argument("--workload-image", default="", help="default: WORKLOAD_IMAGE")
    parser.add_argument("--registry", default="", help="where adapters go, default: REGISTRY")
    commands = parser.add_subparsers(dest="command", title="commands (default: run the main job)")
    airflow = commands.add_parser("airflow", help="start Airflow on the sandbox that `make sandbox` started")
    down = commands.add_parser("down", help="stop everything that was started with this state folder")
    for command in (airflow, down):
        command.add_argument("--state-dir", type=Path, default=argparse.SUPPRESS)
    return parser


def _external(arguments: argparse.Namespace) -> Options | None:
    if arguments.cluster == "sandbox":
        return None
    return external.options_of(arguments.kubeconfig, arguments.workload_image, arguments.registry)


def _stop(state_dir: Path) -> None:
    external.release(state_dir)
    stack.stop_airflow(state_dir)
    external.clean_up(state_dir)
    stack.stop_sandbox(state_dir)


def _run_demo(state_dir: Path, keep: bool, console: Console, cluster: Options | None, act: str) -> int:
    demo_dir = state_dir / "demo"
    demo_dir.mkdir(parents=True, exist_ok=True)
    goes_on = act == "retrain"
    if goes_on and cluster is not None:
        raise DemoError("the second act runs in the sandbox only: leave CLUSTER out")
    finished = False
    passed = goes_on and second_act.is_kept(demo_dir)
    keep = keep or passed  # whoever has left it up has it up still
    if not passed:
        _stop(demo_dir)
    try:
        passed = passed or MainJob(demo_dir, state_dir / "weights", console, cluster).run()
        if passed and goes_on:
            passed = second_act.SecondAct(demo_dir, console).run()
        finished = True
    finally:
        if keep and finished:
            _say_how_to_go_on(demo_dir, state_dir, console)
        else:
            console.print("==> stopping everything that was started")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _stop(demo_dir)
    return 0 if passed else 1


def _say_how_to_go_on(demo_dir: Path, state_dir: Path, console: Console) -> None:
    server = stack.wait_for_airflow(demo_dir, {DAG_ID})
    console.print(
        f"\nPages:    {server.url}/plugin/workspaces"
        f"\nAirflow:  {server.url}/dags/{DAG_ID}   user {server.username}   password {server.password}"
        f"\nkubectl:  export KUBECONFIG={(demo_dir / 'kubeconfig').resolve()}"
        f"\nstop:     make down STATE={state_dir}",
        soft_wrap=True,
    )


def _start_airflow(state_dir: Path, console: Console) -> int:
    sandbox = stack.start_sandbox(state_dir)
    stack.start_airflow(sandbox, state_dir / "weights")
    console.print("==> starting Airflow")
    Kubectl(sandbox.kubeconfig)("apply", "-f", str(CRDS))
    server = stack.wait_for_airflow(state_dir, DAGS)
    with AirflowApi(server) as api:
        api.unpause(RECONCILER)
    console.print(
        f"Airflow:  {server.url}   user {server.username}   password {server.password}", soft_wrap=True
    )
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Parse the command line and do what it says; the exit code is 0 only for full success."""
    arguments = _parser().parse_args()
    console = Console(highlight=False)
    # Both explicitly: a shell starts what it puts in the background with SIGINT ignored, and all that the demo starts
    # would inherit that: Airflow could then only be killed.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    state_dir: Path = arguments.state_dir.resolve()
    try:
        if arguments.command == "down":
            _stop(state_dir / "demo")
            _stop(state_dir)
            return 0
        if arguments.command == "airflow":
            return _start_airflow(state_dir, console)
        return _run_demo(state_dir, arguments.keep, console, _external(arguments), arguments.act)
    except DemoError as error:
        console.print(f"[red]The demo cannot go on:[/] {error}", markup=True, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
