"""Reads presets/ once per process and resolves names in it.

It exists so that a name means the same everywhere: short names, aliases, hub ids and machine types in any letter case.
It must never guess: an unknown name is a KeyError whose text says which known name is nearest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from include.catalog.machines import Machine
from include.catalog.models import Model, ModelShape, Tuning

T = TypeVar("T")
PRESETS = Path(__file__).resolve().parents[2] / "presets"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml: all presets in a tenth of the time


class UnknownName(KeyError):
    """A name that the catalogue does not hold; `suggestion` is the nearest one it does hold, or None."""

    def __init__(self, kind: str, name: str, suggestion: str | None) -> None:
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        super().__init__(f"there is no {kind} named {name!r}{hint}")
        self.suggestion = suggestion

    def __str__(self) -> str:  # KeyError would show the repr of the sentence
        return str(self.args[0])


@dataclass(frozen=True)
class Catalog:
    """All presets. Lookups take any letter case; listings give the names as their owners spell them, sorted."""

    models: tuple[Model, ...]
    machines: tuple[Machine, ...]
    images: Mapping[str, str]
    root: Path = PRESETS
    _models: dict[str, Model] = field(init=False, repr=False, compare=False)
    _machines: dict[str, Machine] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {name.lower(): model for model in self.models for name in model.all_names}
        object.__setattr__(self, "_models", by_name)
        object.__setattr__(self, "_machines", {m.name.lower(): m for m in self.machines})

    def model(self, name: str) -> Model:
        """The preset of this short name, alias or hub id. Raises UnknownName (a KeyError) with the nearest name."""
        found = self._models.get(name.lower())
        if found is None:
            raise UnknownName(
                "model preset", name, _nearest(name, self._models, lambda key: self._models[key].name)
            )
        return found

    def machine(self, name: str) -> Machine:
        """The machine type of this name. Raises UnknownName (a KeyError) with the nearest name."""
        found = self._machines.get(name.lower())
        if found is None:
            nearest = _nearest(name, self._machines, lambda key: self._machines[key].name)
            raise UnknownName("instance type", name, nearest)
        return found

    def image(self, name: str) -> str:
        """The image reference that presets/images.yaml gives this name."""
        try:
            return self.images[name]
        except KeyError:
            raise UnknownName("image", name, _nearest(name, self.images, str)) from None

    def model_names(self) -> list[str]:
        return sorted(model.name for model in self.models)

    def machine_names(self) -> list[str]:
        return sorted(machine.name for machine in self.machines)

    def tuning_config(self, method: str) -> str:
        """The default `training_config.yaml` of a tuning method ("lora" or "qlora"), as text."""
        return (self.root / "tuning" / f"{method}.yaml").read_text(encoding="utf-8")


def _nearest(name: str, known: Iterable[str], spell: Any) -> str | None:
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return str(spell(close[0])) if close else None


@cache
def load_catalog(root: Path = PRESETS) -> Catalog:
    """All presets under `root`, read once per process. Raises ValueError naming the file that is wrong."""
    models = [_model(raw, path) for path in _files(root / "models") for raw in _read(path)["models"]]
    machines: list[Machine] = []
    for path in _files(root / "skus"):
        content = _read(path)
        as_of = (content.get("prices") or {}).get("as_of")
        for raw in content["machines"]:
            price_as_of = str(as_of) if raw.get("usd_per_hour") is not None else None
            machines.append(
                _build(Machine, {**raw, "cloud": content["cloud"], "price_as_of": price_as_of}, path)
            )
    return Catalog(tuple(models), tuple(machines), _read(root / "images.yaml")["images"], root)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def _read(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    if not isinstance(content, dict):
        raise ValueError(f"{path}: the file must hold a mapping")
    return content


def _model(raw: dict[str, Any], path: Path) -> Model:
    fields = dict(raw)
    fields["aliases"] = tuple(fields.get("aliases", ()))
    if "shape" in fields:
        fields["shape"] = _build(ModelShape, fields["shape"], path)
    if "tuning" in fields:
        tuning = dict(fields["tuning"])
        fields["tuning"] = _build(
            Tuning, {**tuning, "target_modules": tuple(tuning.get("target_modules", ()))}, path
        )
    return _build(Model, fields, path)


def _build(kind: type[T], fields: dict[str, Any], path: Path) -> T:
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{path}: {fields.get('name', kind.__name__)}: {error}") from error
