"""Says how far the run is: a log line, progress.json, and HTTP /progress and /metrics for whoever watches.

It only reports; the exit code decides. A port that is taken or a file that cannot be written must never stop a
training run.
"""

from __future__ import annotations

import http.server
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from include.workloads.contract import atomic_write

log = logging.getLogger("workload")

STAGES = ("loading", "quantising", "training", "saving", "done")


@dataclass(frozen=True)
class Snapshot:
    """What /progress answers; loss and speed are None until the first step."""

    stage: str = "loading"
    step: int = 0
    total: int = 0
    epoch: float = 0.0
    loss: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    learning_rate: float | None = None
    loss_evaluation: float | None = None
    reward_margin: float | None = None
    reward_accuracy: float | None = None
    memory_bytes: int | None = None
    notice: str | None = None  # what a person should know about this run, such as that memory ran out

    def line(self) -> str:
        """`step 12/60 | loss 1.234 | 205 tok/s | lr 0.0002 | 3.4 GiB | ETA 1m40s`: `include.views.curve` reads it."""
        parts = [f"step {self.step}/{self.total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:.0f} tok/s")
        if self.learning_rate is not None:
            parts.append(f"lr {self.learning_rate:.3g}")
        if self.memory_bytes is not None:
            parts.append(f"{self.memory_bytes / 2**30:.3g} GiB")
        if self.eta_seconds is not None:
            parts.append(f"ETA {duration(self.eta_seconds)}")
        return " | ".join(parts)

    def prometheus(self) -> str:
        """The same in Prometheus' text format."""
        lines = []
        for name, kind, help_text, value in (
            ("step", "gauge", "Optimiser steps done.", self.step),
            ("steps", "gauge", "Optimiser steps in all.", self.total),
            ("epoch", "gauge", "Passes over the data done.", self.epoch),
            ("loss", "gauge", "Training loss of the last step.", self.loss),
            ("tokens_total", "counter", "Tokens trained on by this process.", self.tokens),
            ("tokens_per_second", "gauge", "Training speed.", self.tokens_per_second),
            ("eta_seconds", "gauge", "Estimated time left.", self.eta_seconds),
            ("learning_rate", "gauge", "Learning rate of the last step.", self.learning_rate),
            ("loss_evaluation", "gauge", "Loss on the held-out rows.", self.loss_evaluation),
            ("reward_margin", "gauge", "Reward margin on the held-out rows.", self.reward_margin),
            ("reward_accuracy", "gauge", "Reward accuracy on the held-out rows.", self.reward_accuracy),
            (
                "memory_bytes",
                "gauge",
                "The most memory taken, of the GPU where there is one.",
                self.memory_bytes,
            ),
        ):
            if value is not None:
                metric = f"kaito_tuning_{name}"
                lines += [f"# HELP {metric} {help_text}", f"# TYPE {metric} {kind}", f"{metric} {value}"]
        lines += ["# HELP kaito_tuning_stage The stage the run is in.", "# TYPE kaito_tuning_stage gauge"]
        lines += [f'kaito_tuning_stage{{stage="{name}"}} {int(name == self.stage)}' for name in STAGES]
        return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """1m40s, 45s, 2h05m"""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """The one place that holds the current snapshot; safe to read from the HTTP thread."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.snapshot = Snapshot()
        self._last_line = self._started = 0.0
        self._first_step = self._first_tokens = 0

    def stage(self, name: str, sentence: str) -> None:
        """Enter a stage and say so."""
        log.info("%s: %s", name, sentence)
        self._set(replace(self.snapshot, stage=name))

    def notice(self, sentence: str) -> None:
        """Say something about the run that stays true to its end."""
        self._set(replace(self.snapshot, notice=sentence))

    def begin(self, step: int, total: int) -> None:
        """Training starts (or goes on) at `step` of `total`."""
        self._started, self._first_step = time.monotonic(), step
        self._set(Snapshot(stage="training", step=step, total=total, notice=self.snapshot.notice))

    def evaluated(self, loss: float, rewards: Mapping[str, float] = MappingProxyType({})) -> None:
        """The held-out rows have been looked at; `rewards` are of `losses.rewards`."""
        self._set(
            replace(
                self.snapshot,
                loss_evaluation=loss,
                reward_margin=rewards.get("reward_margin"),
                reward_accuracy=rewards.get("reward_accuracy"),
            )
        )

    def update(
        self,
        step: int,
        loss: float | None,
        tokens: int,
        epoch: float,
        learning_rate: float | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """A step is done; `tokens` counts from the start of this process. Logs at most one line a second."""
        now = time.monotonic()
        elapsed, done = now - self._started, step - self._first_step
        total = self.snapshot.total
        self._set(
            replace(
                self.snapshot,
                stage="training",
                step=step,
                epoch=round(epoch, 3),
                loss=self.snapshot.loss if loss is None else loss,
                tokens=tokens,
                tokens_per_second=round(tokens / elapsed, 1) if elapsed > 0 else None,
                eta_seconds=round(elapsed / done * (total - step), 1) if done > 0 else None,
                learning_rate=learning_rate,
                memory_bytes=memory_bytes,
            )
        )
        if now - self._last_line >= 1 or step >= total:
            self._last_line = now
            log.info("%s", self.snapshot.line())

    def _set(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        if self._path is None:
            return
        try:
            atomic_write(self._path, json.dumps(asdict(snapshot)).encode())
        except OSError as error:
            log.warning("progress.json cannot be written: %s", error)
            self._path = None


def serve(progress: Progress, host: str, port: int) -> http.server.ThreadingHTTPServer | None:
    """Answer GET /progress, /metrics and /health from a daemon thread; None when the port cannot be had."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            snapshot = progress.snapshot
            pages = {
                "/progress": ("application/json", json.dumps(asdict(snapshot))),
                "/metrics": ("text/plain; version=0.0.4", snapshot.prometheus()),
                "/health": ("application/json", json.dumps({"status": "Healthy", "stage": snapshot.stage})),
            }
            page = pages.get(self.path.partition("?")[0])
            kind, text = page or ("text/plain", "There are /progress, /metrics and /health here.\n")
            body = text.encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not worth a log line."""

    try:
        server = http.server.ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        log.warning(
            "No /progress and /metrics: port %s of %s cannot be had (%s).", port, host, error.strerror
        )
        return None
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
