"""Reads presets folders file by file, as the plain values that were written there, each with the file it came from.

It exists so that the loader (quick, trusting) and the checker (slow, suspicious) read the same records in the same
order. It must never judge a record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PRESETS = Path(__file__).resolve().parents[2] / "presets"
EXTRA = "KAITO_PRESETS"  # environment: further folders, separated as in PATH; a later one overrides by name
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml: all presets in a tenth of the time
_TEXT = "tag:yaml.org,2002:str"


class _Loader(_Parser):  # type: ignore[misc]  # libyaml is a choice of the machine
    """Reads what PyYAML reads, in two thirds of its time: most values are text, and most words come again and again."""

    resolve = staticmethod(cache(yaml.resolver.Resolver().resolve))

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        plain = node.tag == _TEXT and isinstance(node, yaml.ScalarNode)
        return node.value if plain else super().construct_object(node, deep)


class PresetsError(ValueError):
    """A presets file that cannot be used; the text begins with the file."""


@dataclass(frozen=True)
class Record:
    """One model or machine as it stands in a file."""

    path: Path
    raw: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw.get("name", "a record without a name"))

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


def preset_folders() -> tuple[Path, ...]:
    """The project's own folder, then those that the environment variable KAITO_PRESETS names."""
    given = [part.strip() for part in os.environ.get(EXTRA, "").split(os.pathsep)]
    return (PRESETS, *(Path(part).expanduser() for part in given if part))


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files of a folder that may be absent, sorted."""
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def read(path: Path, loader: Any = _Loader) -> dict[str, Any]:
    """The mapping in a YAML file. Raises PresetsError when there is none."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PresetsError(f"{path}: this is not YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise PresetsError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(content, dict):
        raise PresetsError(f"{path}: the file must hold a mapping")
    return content


def model_records(path: Path, content: dict[str, Any]) -> Iterator[Record]:
    """The models of a file's content, which stand under `models`."""
    for raw in _list(path, content, "models"):
        yield Record(path, raw)


def machine_records(path: Path, content: dict[str, Any]) -> Iterator[Record]:
    """The machines of a file's content, each with what the file says once: the cloud, and the prices' date and region.

    Raises PresetsError when the file has no list of machines.
    """
    prices = content.get("prices") or {}
    if not isinstance(prices, dict):
        raise PresetsError(f"{path}: prices must be a mapping with as_of and region")
    as_of = None if prices.get("as_of") is None else str(prices["as_of"])
    for raw in _list(path, content, "machines"):
        priced = raw.get("usd_per_hour") is not None
        yield Record(
            path,
            {
                "price_as_of": as_of if priced else None,
                "price_region": prices.get("region") if priced else None,
                "cloud": content.get("cloud"),
                **raw,
            },
        )


def _list(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    result = content.get(key)
    if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
        raise PresetsError(f"{path}: needs a list of records under {key!r}")
    return result
