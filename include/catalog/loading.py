"""Reads presets/ once per process and resolves names in it.

It exists so that a name means the same everywhere: short names, aliases, hub ids and machine types in any letter case.
It must never guess: an unknown name is a KeyError whose text says which known name is nearest. It trusts the data;
`python -m include.cli presets` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from include.catalog import records
from include.catalog.machines import Machine
from include.catalog.models import Model, ModelShape, Tuning
from include.catalog.records import PRESETS, PresetsError, Record

__all__ = ["PRESETS", "Catalog", "PresetsError", "UnknownName", "load_catalog"]

T = TypeVar("T")


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
    """All presets. Lookups take any letter case; listings give the names as their owners spell them, sorted.

    `folders` are the presets folders it was read from, the project's own first.
    """

    models: tuple[Model, ...]
    machines: tuple[Machine, ...]
    images: Mapping[str, str]
    folders: tuple[Path, ...] = (PRESETS,)
    _models: dict[str, Model] = field(init=False, repr=False, compare=False)
    _machines: dict[str, Machine] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {name.lower(): model for model in self.models for name in model.all_names}
        object.__setattr__(self, "_models", by_name)
        object.__setattr__(self, "_machines", {m.name.lower(): m for m in self.machines})

    def model(self, name: str) -> Model:
        """The preset of this short name, alias or hub id. Raises UnknownName (a KeyError) with the nearest name."""
        result = self._models.get(name.lower())
        if result is None:
            raise UnknownName(
                "model preset", name, _nearest(name, self._models, lambda key: self._models[key].name)
            )
        return result

    def has_model(self, name: str) -> bool:
        """Whether `model` would find this name."""
        return name.lower() in self._models

    def machine(self, name: str) -> Machine:
        """The machine type of this name. Raises UnknownName (a KeyError) with the nearest name."""
        result = self._machines.get(name.lower())
        if result is None:
            nearest = _nearest(name, self._machines, lambda key: self._machines[key].name)
            raise UnknownName("instance type", name, nearest)
        return result

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
        """The default `training_config.yaml` of a tuning method ("lora" or "qlora"), as text; the last folder wins."""
        found = [path for folder in self.folders if (path := folder / "tuning" / f"{method}.yaml").is_file()]
        if not found:
            raise UnknownName("tuning config", method, None)
        return found[-1].read_text(encoding="utf-8")

    def with_hub_model(self, model: Model) -> Catalog:
        """This catalogue plus a model that include.catalog.hub resolved.

        Its short name is the end of its hub id, as in KAITO. When a preset has that name already, the organisation is
        put before it: a Workspace that names somebody's copy must never get another model's weights.
        """
        short = model.name
        if self.has_model(short):
            organisation = model.hf_id.partition("/")[0].lower().replace("_", "-")
            model = replace(model, name=f"{organisation}-{short}"[:63].rstrip("-."))
        if self.has_model(model.hf_id) or self.has_model(model.name):
            raise ValueError(f"{model.hf_id} is in the catalogue already")
        return replace(self, models=(*self.models, model))

    def with_revision(self, model: Model, revision: str) -> Catalog:
        """This catalogue with one of its models at another revision."""
        at = replace(model, revision=revision)
        return replace(self, models=tuple(at if other == model else other for other in self.models))


def _nearest(name: str, known: Iterable[str], spell: Callable[[str], str]) -> str | None:
    import difflib  # a name that is known needs none

    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return spell(close[0]) if close else None


def load_catalog(*folders: Path) -> Catalog:
    """All presets of these folders, by default the project's own and those of KAITO_PRESETS; read once per process.

    A record of a later folder replaces the one of the same name, an image that of the same key.
    Raises PresetsError (a ValueError) naming the file that is wrong.
    """
    return _load(folders or records.preset_folders())


@cache
def _load(folders: tuple[Path, ...]) -> Catalog:
    models: dict[str, tuple[Record, Model]] = {}
    machines: dict[str, Machine] = {}
    images: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise PresetsError(f"{folder}: there is no such folder of presets (see {records.EXTRA})")
        for path in records.yaml_files(folder / "models"):
            for record in records.model_records(path, records.read(path)):
                model = _model(record)
                models[model.name.lower()] = (record, model)
        for path in records.yaml_files(folder / "skus"):
            for record in records.machine_records(path, records.read(path)):
                machine = _build(Machine, record.raw, record)
                machines[machine.name.lower()] = machine
        if (path := folder / "images.yaml").is_file():
            images |= records.read(path).get("images") or {}
    _one_meaning(models.values())
    return Catalog(tuple(model for _, model in models.values()), tuple(machines.values()), images, folders)


def _one_meaning(models: Iterable[tuple[Record, Model]]) -> None:
    """Refuse a name that two models bear: which one a Workspace gets would hang on the order of files."""
    owners: dict[str, Record] = {}
    for record, model in models:
        for name in {name.lower() for name in model.all_names}:
            other = owners.setdefault(name, record)
            if other is not record:
                raise PresetsError(f"{record}: the name {name} belongs to {other} already")


def _model(record: Record) -> Model:
    fields = dict(record.raw)
    try:
        fields["aliases"] = tuple(fields.get("aliases", ()))
        if "shape" in fields:
            fields["shape"] = _build(ModelShape, fields["shape"], record)
        if "tuning" in fields:
            tuning = dict(fields["tuning"])
            modules = tuple(tuning.get("target_modules", ()))
            fields["tuning"] = _build(Tuning, {**tuning, "target_modules": modules}, record)
    except (TypeError, ValueError) as error:
        if isinstance(error, PresetsError):
            raise
        raise PresetsError(f"{record}: {error}") from error
    return _build(Model, fields, record)


def _build(kind: type[T], fields: dict[str, Any], record: Record) -> T:
    try:
        return kind(**fields)
    except TypeError as error:
        raise PresetsError(f"{record}: {error}") from error
