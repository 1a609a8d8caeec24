"""Models for the server's tests that answer without tensors."""

from __future__ import annotations

from pathlib import Path

from include.workloads.serving.adapters import Adapter
from include.workloads.serving.generation import Request, Worker
from include.workloads.serving.live import LiveAdapters


class WholeAnswers:
    """Answers all running requests whole in one step; `generate` says how."""

    def __init__(self) -> None:
        self.running: list[Request] = []

    def fits(self, request: Request) -> bool:
        return True

    def begin(self, request: Request) -> None:
        self.running.append(request)

    def step(self) -> None:
        if self.running:
            self.generate(list(self.running))

    def sweep(self) -> None:
        self.running = [request for request in self.running if not request.finished]

    def generate(self, batch: list[Request]) -> None:
        raise NotImplementedError

    def add_adapter(self, adapter: Adapter) -> None:
        """Adapters are names here."""

    def remove_adapter(self, name: str) -> None:
        """Adapters are names here."""


def live(model: WholeAnswers, worker: Worker, *names: str) -> LiveAdapters:
    """The adapters of a model that a worker runs."""
    return LiveAdapters(model, worker, names)


def adapter_folder(folder: Path) -> Path:
    """A LoRA adapter's two files, of no use but to be read."""
    import json

    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    save_file({"q_proj.lora_A.weight": np.zeros((8, 4), np.float32)}, folder / "adapter_model.safetensors")
    return folder
