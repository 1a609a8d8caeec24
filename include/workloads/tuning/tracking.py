"""Where else the numbers of a training go: TensorBoard's files on the volume, and MLflow or Weights & Biases.

The trackers are the user's own, named by the environment that their libraries read (kaito.sh/tracking-secret). They
only watch: a tracker that is away, slow or not installed must never stop or change a training. It
is told of once, and left.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from include.contracts.redaction import hide, redact

log = logging.getLogger("workload")

TENSORBOARD = "tensorboard"
#: What asks for a tracker, its package, and its name for people.
TRACKERS: tuple[tuple[str, str, str, Callable[[], Any]], ...] = (
    ("MLFLOW_TRACKING_URI", "mlflow", "MLflow", MLflowCallback),
    ("WANDB_API_KEY", "wandb", "Weights & Biases", WandbCallback),
)
_SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
#: How long the libraries wait for a server that does not answer; by themselves they take minutes.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "WANDB_INIT_TIMEOUT": "30",
    "WANDB_SILENT": "true",
}


class Watcher(TrainerCallback):  # type: ignore[misc]
    """A tracker's own callback, left at its first fault.

    :param name: of the tracker, for the sentence about it.
    :param made: makes the callback; it may fail too.
    """

    def __init__(self, name: str, made: Callable[[], Any]) -> None:
        self._name = name
        self._callback: Any = None
        self._left = False
        self._tell(lambda: setattr(self, "_callback", made()))

    def _tell(self, say: Callable[[], object]) -> None:
        if self._left:
            return
        try:
            say()
        except Exception as error:  # whatever a tracker raises, the training goes on
            self._left = True
            log.warning("%s is told nothing more: %s", self._name, redact(f"{type(error).__name__}: {error}"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Their own first words hold the whole model's configuration; the settings are enough.
        kwargs.pop("model", None)
        self._tell(lambda: self._callback.on_train_begin(args, state, control, **kwargs))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs.pop("model", None)
        self._tell(lambda: self._callback.on_log(args, state, control, **kwargs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs.pop("model", None)
        self._tell(lambda: self._callback.on_train_end(args, state, control, **kwargs))


def watchers(output: Path, step: int) -> list[Watcher]:
    """The trackers of this training; to be asked for by its first process alone.

    :param output: TensorBoard's files go into `tensorboard` there, where its package is installed.
    :param step: the training goes on after it; what an attempt before wrote of later steps counts no more.
    """
    found = []
    if importlib.util.find_spec("tensorboardX"):
        found.append(Watcher("TensorBoard", lambda: TensorBoardCallback(_writer(output, step))))
    for variable, package, name, made in TRACKERS:
        if not os.environ.get(variable):
            continue
        if importlib.util.find_spec(package) is None:
            log.warning(
                "%s is set, but the pod image does not have the package %s: %s is told nothing.",
                variable, package, name,
            )  # fmt: skip
            continue
        for secret in _SECRETS:
            hide(os.environ.get(secret))
        for setting, value in _PATIENCE.items():
            os.environ.setdefault(setting, value)
        found.append(Watcher(name, made))
    return found


def _writer(output: Path, step: int) -> Any:
    from tensorboardX import SummaryWriter

    # A name of its own for each attempt: what an attempt before wrote is never overwritten.
    return SummaryWriter(
        str(output / TENSORBOARD), purge_step=step + 1 if step else None, filename_suffix=f".after-{step}"
    )
