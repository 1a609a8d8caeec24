"""What the trigger forms offer: the catalogue's names, with what a person wants to know before choosing one.

What KAITO has dropped comes last and says so. A form can only offer what is in a list: models of the hub are asked for
by the ``workspace`` object. No I/O but the catalogue's, once per process.
"""

from __future__ import annotations

from collections.abc import Iterable

from include.catalog import Machine, Model, load_catalog

Choices = dict[str, str]
"""Values in the order of the form, each with the text that is shown."""


def model_choices(*, tunable: bool) -> Choices:
    """Return the presets by name; with ``tunable`` those that can be tuned."""
    models = [model for model in load_catalog().models if model.tuning.supported or not tunable]
    return {model.name: _model(model) for model in sorted(models, key=lambda m: (m.deprecated, m.name))}


def machine_choices() -> Choices:
    """Return the machine types, by cloud and name; those without an NVIDIA GPU after the others."""
    machines = load_catalog().machines
    ordered = sorted(machines, key=lambda m: (m.deprecated, not m.nvidia, m.cloud, m.name))
    return {machine.name: _machine(machine) for machine in ordered}


def _model(model: Model) -> str:
    facts = (model.parameters, f"{model.weights_gib:.1f} GiB", "gated" if model.gated else None)
    return _with(model.name, facts, deprecated=model.deprecated)


def _machine(machine: Machine) -> str:
    price = (
        None if machine.usd_per_hour is None else f"{machine.usd_per_hour:.2f} USD/h in {machine.price_as_of}"
    )
    gpus = f"{machine.gpus} x {machine.gpu}, {machine.gpu_memory_gib:g} GiB"
    return _with(machine.name, (gpus, price), deprecated=machine.deprecated)


def _with(name: str, facts: Iterable[str | None], *, deprecated: bool) -> str:
    said = [fact for fact in (*facts, "deprecated" if deprecated else None) if fact]
    return f"{name} ({', '.join(said)})"
