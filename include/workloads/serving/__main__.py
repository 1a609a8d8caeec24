"""`python -m include.workloads.serving`: the server. `... ask "question"`: answers as JSON lines, then exits."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.contracts.grace import SERVING_DRAIN_SECONDS
from include.workloads import contract
from include.workloads.contract import TryAgain, UserConfigError
from include.workloads.hardware import choose_precision, detect, prepare_environment, use_threads
from include.workloads.serving.adapters import Adapter, base_names, check_base, find_adapters
from include.workloads.serving.gateway.use import Leave

if TYPE_CHECKING:
    from include.workloads.serving.service import Service

log = logging.getLogger("workload")

MAX_NUM_SEQS = 16  # requests that run together, where nobody says how many
GRACE_SECONDS = SERVING_DRAIN_SECONDS
#: For how long a thread may keep Python's lock from another. The model's thread gives it up at every product, and with
#: Python's own 5 ms it stands still behind whatever the event loop is at: up to a fifth of the CPU time of each token.
SWITCH_SECONDS = 0.0002
#: What is left after that: for connections that hold no question, and for a generation that nobody reads.
CLOSE_SECONDS, WORKER_SECONDS = 1, 2


@dataclass(frozen=True)
class Environment:
    """What the pod was given."""

    weights: Path
    adapters: Path
    name: str
    dtype: str | None
    host: str
    port: int
    default_adapter: str | None
    max_model_len: int | None
    max_num_seqs: int
    seed: int | None
    followed: bool  # whether a sidecar changes adapters, and says which one /chat asks

    @classmethod
    def read(cls) -> Environment:
        get = os.environ.get
        weights = Path(get("WEIGHTS_PATH", "/workspace/weights"))
        return cls(
            weights=weights,
            adapters=Path(get("ADAPTERS_DIR", "/mnt/adapter")),
            name=get("SERVED_MODEL_NAME") or weights.name,
            dtype=get("DTYPE") or None,
            host=get("HOST", "0.0.0.0"),  # noqa: S104 - a pod listens on its own address
            port=int(get("PORT", "5000")),
            default_adapter=get("KAITO_DEFAULT_ADAPTER") or None,
            max_model_len=_whole("MAX_MODEL_LEN", 1),
            max_num_seqs=_whole("MAX_NUM_SEQS", 1) or MAX_NUM_SEQS,
            seed=_whole("SEED", 0),
            followed=bool(get("KAITO_ADAPTERS_FILE")),
        )


def _whole(variable: str, least: int) -> int | None:
    """A whole number of the environment; None where it is not set."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise UserConfigError(f"{variable} is {text!r}; it must be a whole number, {least} or more.")
    return number


def choose_default(adapters: list[Adapter], wished: str | None) -> str | None:
    """The adapter that /chat uses: the named one, or the only one; with several and no name, the base model."""
    names = [adapter.name for adapter in adapters]
    if wished and wished not in names:
        raise UserConfigError(
            f"KAITO_DEFAULT_ADAPTER is {wished}, but the adapters here are {', '.join(names) or 'none'}."
        )
    return wished or (names[0] if len(names) == 1 else None)


def load(env: Environment, adapters: list[Adapter]) -> tuple[Service, Any]:
    """Load the model and start its worker; returns (service, worker)."""
    from include.workloads.serving.engine import Engine
    from include.workloads.serving.generation import Worker
    from include.workloads.serving.live import LiveAdapters
    from include.workloads.serving.service import Service

    began = time.monotonic()
    hardware = detect()
    log.info("%s", use_threads(hardware))
    precision = choose_precision(hardware, env.dtype)
    log.info("%s", precision.sentence)
    for warning in check_base(adapters, base_names(env.name)):
        log.warning("%s", warning)
    engine = Engine(env.weights, adapters, hardware, precision, env.max_model_len)
    if env.seed is not None:
        engine.seed(env.seed)
    worker = Worker(engine.batch, max_batch=env.max_num_seqs)
    default = None if env.followed else choose_default(adapters, env.default_adapter)
    live = LiveAdapters(engine, worker, [adapter.name for adapter in adapters])
    service = Service(engine, worker, env.name, live, default, env.max_model_len)
    log.info("Model loaded successfully: %s in %.1f s", ", ".join(service.models), time.monotonic() - began)
    return service, worker


class Server:
    """uvicorn in this process, the model loading beside it, so that probes are answered from the start."""

    def __init__(self) -> None:
        self.leave = Leave(GRACE_SECONDS)
        self.failure: BaseException | None = None
        self.worker: Any = None

    def stop(self) -> None:
        """Ask for a graceful end; safe in a signal handler."""
        self.leave.begin()

    def main(self) -> None:
        """Serve until asked to stop. Raises what loading raised."""
        import uvicorn

        from include.workloads.serving.app import Holder, build_app
        from include.workloads.serving.gateway.environment import parts_of
        from include.workloads.serving.metrics import Metrics

        sys.setswitchinterval(SWITCH_SECONDS)
        leave, parts = self.leave, parts_of(os.environ)
        parts.leaving = leave.is_begun

        class Quiet(uvicorn.Server):
            """Signals belong to the workload contract; it listens on until the questions under way are answered."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

            async def on_tick(self, counter: int) -> bool:
                self.should_exit = self.should_exit or leave.is_over(parts.use)
                return await super().on_tick(counter)

        env = Environment.read()
        adapters = find_adapters(env.adapters)
        choose_default(adapters, env.default_adapter)
        holder, metrics = Holder(), Metrics()
        app = build_app(holder, metrics, parts)
        http = Quiet(
            uvicorn.Config(
                app,
                host=env.host,
                port=env.port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )
        if contract.stop_requested():
            return

        def loading() -> None:
            try:
                holder.service, self.worker = load(env, adapters)
                metrics.loaded(lambda: self.worker.waiting)
            except BaseException as error:
                self.failure = error
                self.stop()

        threading.Thread(target=loading, name="loading", daemon=True).start()
        log.info("Listening on http://%s:%s; loading %s", env.host, env.port, env.name)
        try:
            asyncio.run(http.serve())
        except SystemExit:  # uvicorn's way to say that it cannot listen
            raise TryAgain(f"The address {env.host}:{env.port} cannot be listened on.") from None
        if self.worker is not None:
            self.worker.close(timeout=WORKER_SECONDS)
        if self.failure is not None:
            raise self.failure


def ask(questions: list[str], adapter: str | None, max_new_tokens: int) -> None:
    """Answer each question in turn and print one JSON line: prompt, answer, seconds."""
    from include.workloads.serving.service import Ask

    env = Environment.read()
    service, worker = load(env, find_adapters(env.adapters))
    for question in questions:
        began = time.monotonic()
        asked = Ask(None, question, {}, model=adapter or service.name, max_new_tokens=max_new_tokens)
        text = "".join(service.ask(asked).texts)
        line = {"prompt": question, "answer": text, "seconds": round(time.monotonic() - began, 2)}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    worker.close(timeout=5)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m include.workloads.serving", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    one_shot = commands.add_parser("ask", help="answer the questions given and exit")
    one_shot.add_argument("questions", nargs="+", metavar="QUESTION")
    one_shot.add_argument(
        "--adapter", help="name of an adapter under $ADAPTERS_DIR (default: the base model)"
    )
    one_shot.add_argument("--max-new-tokens", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    prepare_environment()
    arguments = _parse()
    if arguments.command == "ask":
        contract.run(lambda: ask(arguments.questions, arguments.adapter, arguments.max_new_tokens))
    server = Server()
    contract.run(server.main, on_stop=server.stop)
