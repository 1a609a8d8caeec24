"""Examines presets folders: schema, names, figures, images. Finds every fault there is, each with its file and name.

Users add folders of their own (KAITO_PRESETS), so a sentence here is read by people who never saw this code. It must
never stop at the first fault, and never fetch anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from include.catalog import records
from include.catalog.machines import Machine
from include.catalog.models import Model
from include.catalog.plausibility import machine_faults, model_faults
from include.catalog.records import PresetsError, Record
from include.contracts.image_reference import InvalidReference, parse_reference
from include.contracts.methods import METHODS

MODEL, MACHINE = TypeAdapter(Model), TypeAdapter(Machine)
Found = list[tuple[Record, Any]]


class _NoDuplicates(yaml.SafeLoader):
    """YAML whose mappings may not name a key twice: the second would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def check(folders: Sequence[Path]) -> list[str]:
    """Every fault of these presets folders, of which later ones override earlier ones by name.

    :returns: sentences that begin with the file and the name of the record; empty when all is well.
    """
    faults: list[str] = []
    models: Found = []
    machines: Found = []
    for folder in folders:
        if not folder.is_dir():
            faults.append(f"{folder}: there is no such folder of presets (see {records.EXTRA})")
            continue
        here = (
            _read_all(folder / "models", faults, "models"),
            _read_all(folder / "skus", faults, "machines"),
        )
        faults += [*_twice(here[0]), *_twice(here[1])]
        models = _override(models, [*_typed(here[0], MODEL, faults)])
        machines = _override(machines, [*_typed(here[1], MACHINE, faults)])
        faults += [*_image_faults(folder), *_tuning_faults(folder)]
        if not any((folder / part).exists() for part in ("models", "skus", "images.yaml", "tuning")):
            faults.append(f"{folder}: holds none of models/, skus/, tuning/, images.yaml")
    faults += [f"{record}: {fault}" for record, model in models for fault in model_faults(model)]
    faults += [f"{record}: {fault}" for record, machine in machines for fault in machine_faults(machine)]
    return [*faults, *_names_with_two_meanings(models), *_capabilities(machines)]


def _read_all(folder: Path, faults: list[str], kind: str) -> list[Record]:
    """The records of a folder; a file that is no list of records is a fault."""
    parse = records.model_records if kind == "models" else records.machine_records
    known = {"models"} if kind == "models" else {"machines", "cloud", "prices"}
    result: list[Record] = []
    for path in records.yaml_files(folder):
        try:
            content = records.read(path, _NoDuplicates)
            result += parse(path, content)
        except PresetsError as error:
            faults.append(str(error))
            continue
        faults += [
            f"{path}: {key} is not a known key of the file" for key in sorted(set(content) - known, key=str)
        ]
    return result


def _typed(
    found: Iterable[Record], kind: TypeAdapter[Any], faults: list[str]
) -> Iterator[tuple[Record, Any]]:
    """The records that keep the schema, as Models or Machines."""
    for record in found:
        try:
            yield record, kind.validate_json(json.dumps(record.raw, default=str))
        except ValidationError as error:
            faults += [f"{record}: {_sentence(fault)}" for fault in error.errors()]
        except (ValueError, RecursionError) as error:  # an alias that refers to itself
            faults.append(f"{record}: is not plain data ({error})")


def _sentence(fault: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "unexpected_keyword_argument":
        return f"{where} is not a known field"
    if fault["type"] in ("missing", "missing_argument"):
        return f"{where} is missing"
    shown = repr(fault["input"])
    return f"{where} is {shown[:60]}; {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _twice(found: Sequence[Record]) -> Iterator[str]:
    """Names that one folder gives twice, in any letter case."""
    ordered = sorted(found, key=lambda record: record.name.lower())
    for first, second in pairwise(ordered):
        if first.name.lower() == second.name.lower():
            yield f"{second}: the name stands in {first.path} too"


def _override(before: Found, later: Found) -> Found:
    names = {item.name.lower() for _, item in later}
    return [*((record, item) for record, item in before if item.name.lower() not in names), *later]


def _names_with_two_meanings(models: Found) -> Iterator[str]:
    owners: dict[str, tuple[Record, Model]] = {}
    for record, model in models:
        spelled = [name.lower() for name in model.all_names]
        for name in sorted(set(spelled)):
            other, owner = owners.setdefault(name, (record, model))
            if owner is not model and owner.name.lower() != model.name.lower():
                yield f"{record}: the name {name} belongs to {other} already"
        for name in sorted({name for name in spelled if spelled.count(name) > 1}):
            yield f"{record}: has the name {name} twice"


def _capabilities(machines: Found) -> Iterator[str]:
    """One GPU product has one compute capability, on whatever machine."""
    owners: dict[str, tuple[Record, Machine]] = {}
    for record, machine in machines:
        other, first = owners.setdefault(machine.gpu, (record, machine))
        if machine.compute_capability != first.compute_capability:
            yield (
                f"{record}: {machine.gpu} has compute capability {machine.compute_capability} here and "
                f"{first.compute_capability} in {other}"
            )


def _image_faults(folder: Path) -> Iterator[str]:
    path = folder / "images.yaml"
    if not path.is_file():
        return
    try:
        images = records.read(path, _NoDuplicates).get("images")
    except PresetsError as error:
        yield str(error)
        return
    if not isinstance(images, dict):
        yield f"{path}: needs a mapping of names to images under 'images'"
        return
    for name, image in images.items():
        try:
            reference = parse_reference(image) if isinstance(image, str) else None
        except InvalidReference as error:
            yield f"{path}: {name}: {image!r} is not an image reference: {error}"
            continue
        if reference is None or (reference.digest is None and reference.tag == "latest"):
            yield f"{path}: {name}: {image!r} must have a tag other than latest, or a digest"


def _tuning_faults(folder: Path) -> Iterator[str]:
    for path in records.yaml_files(folder / "tuning"):
        if path.stem not in METHODS:
            yield f"{path}: the default configs are {' and '.join(f'{method}.yaml' for method in METHODS)}"
        try:
            content = records.read(path, _NoDuplicates)
        except PresetsError as error:
            yield str(error)
            continue
        if not isinstance(content.get("training_config"), dict):
            yield f"{path}: needs a mapping under 'training_config'"
