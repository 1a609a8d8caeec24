"""LoRA adapters beside one set of base weights: added, taken away, and used row by row.

Adapters stay apart from the base weights ("unmerged"): one copy of the base serves all of them, and no precision is
lost. Only the thread that runs the model may call this.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from include.workloads.contract import UserConfigError
from include.workloads.serving import dora
from include.workloads.serving.adapters import Adapter

log = logging.getLogger("workload")

BASE = "__base__"  # PEFT's word for a row without an adapter


class Adapted:
    """A model and its adapters by name."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.names: set[str] = set()
        self._now: str | None = None  # the adapter that is switched on
        self._mixed: list[str] | None = None  # one name a row, where they differ
        self._gains = dora.Gains(lambda: self._mixed or [self._now])

    def add(self, adapter: Adapter) -> None:
        """Load one that is not there yet. Raises UserConfigError when it does not fit."""
        from peft import PeftModel

        if adapter.name in self.names:
            return
        before = self.model
        try:
            if adapter.dora:
                self.model = dora.load(before, adapter.name, adapter.path, adapter.strength, self._gains)
            elif isinstance(before, PeftModel):
                before.load_adapter(adapter.path, adapter_name=adapter.name, autocast_adapter_dtype=False)
            else:
                self.model = PeftModel.from_pretrained(
                    before, adapter.path, adapter_name=adapter.name, autocast_adapter_dtype=False
                )
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            self._forget(before, adapter.name)
            raise UserConfigError(
                f"Adapter {adapter.name} does not fit this model"
                f"{f' (it was made for {adapter.base_model})' if adapter.base_model else ''}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        if not adapter.dora:
            _scale(self.model, adapter)
        self.model.eval()
        self.names.add(adapter.name)
        self._switch(adapter.name)
        log.info("Adapter added: %s (rank %s, strength %g)", adapter.name, adapter.rank, adapter.strength)

    def _forget(self, before: Any, name: str) -> None:
        """Leave nothing of an adapter that was loaded in part."""
        from peft import PeftModel

        self._gains.remove(name)
        if not isinstance(before, PeftModel):
            _take_off(before)
            return
        with contextlib.suppress(Exception):
            before.delete_adapter(name)
        if self._now is not None:
            self._switch(self._now)

    def remove(self, name: str) -> None:
        """Take one away; one that is not there is gone."""
        if name not in self.names:
            return
        self.names.discard(name)
        self._switch(next(iter(self.names), None))
        self.model.delete_adapter(name)
        self._gains.remove(name)
        log.info("Adapter removed: %s", name)

    @contextlib.contextmanager
    def rows(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """What is run inside uses one adapter a row, None for the base model alone."""
        if not self.names:
            yield
        elif len(set(adapters)) == 1:
            self._switch(adapters[0])
            yield
        else:
            self._switch(next(name for name in adapters if name is not None))
            self._mixed = [name or BASE for name in adapters]
            try:
                yield
            finally:
                self._mixed = None

    def forward(self, **arguments: Any) -> Any:
        """The model's forward pass as transformers has it, with the adapters that `rows` says."""
        if self._mixed is not None:
            return self.model(adapter_names=self._mixed, **arguments)
        inner = self.model.base_model.model if hasattr(self.model, "peft_config") else self.model
        return inner(**arguments)

    def _switch(self, name: str | None) -> None:
        if name == self._now:
            return
        base = self.model.base_model
        if name is None:
            base.disable_adapter_layers()
        else:
            if self._now is None:
                base.enable_adapter_layers()
            self.model.set_adapter(name, inference_mode=True)
        self._now = name


def _take_off(model: Any) -> None:
    """Give a model back its own layers, which the first adapter wraps in place, whether the rest of it fits or not."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                setattr(parent, name, child.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _scale(model: Any, adapter: Adapter) -> None:
    """KAITO's strength: a factor on the adapter's contribution in every layer."""
    if adapter.strength == 1.0:
        return
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and adapter.name in module.scaling:
            module.scaling[adapter.name] *= adapter.strength
