"""What was parsed of a presets file is used again for the same bytes alone, and never needed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.catalog import records
from include.catalog.loading import PRESETS

FILE = 'models: [{name: a, "note": ünï, weights_gib: 1.5, aliases: [b]}]\n'


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "models.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def kept(path: Path) -> Path:
    return path.parent / "__pycache__" / "models.yaml.json"


def _no_parser(*_: Any, **__: Any) -> None:
    raise AssertionError("the file is parsed")


def test_a_file_is_parsed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = records.read(path)
    monkeypatch.setattr(yaml, "load", _no_parser)
    assert records.read(path) == first
    with pytest.raises(AssertionError, match="parsed"):
        records.read(path, object())  # the suspicious reader of `presets` looks for itself


def test_a_changed_file_is_parsed_again(path: Path) -> None:
    records.read(path)
    path.write_text(FILE.replace("1.5", "2.5"), encoding="utf-8")
    assert records.read(path)["models"][0]["weights_gib"] == 2.5


@pytest.mark.parametrize("damage", ["", "[]", "null", "{", '{"sha256": 1}', "[" * 100_000])
def test_a_damaged_copy_is_parsed_again(path: Path, damage: str) -> None:
    first = records.read(path)
    kept(path).write_text(damage)
    assert records.read(path) == first


def test_what_json_would_change_is_not_kept(path: Path) -> None:
    for text in ("day: 2024-06-01", "1: one"):
        path.write_text(text)
        first = records.read(path)
        assert not kept(path).exists()
        assert records.read(path) == first


def test_nothing_is_written_where_python_writes_no_bytecode(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    records.read(path)
    assert not kept(path).exists()


def test_a_folder_that_cannot_be_written_is_no_fault(path: Path) -> None:
    kept(path).parent.write_text("a file stands where the folder would be")
    assert records.read(path)["models"][0]["name"] == "a"


def test_every_file_of_the_project_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    shutil.copytree(PRESETS, tmp_path / "presets", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("models", "skus"):
        for path in records.yaml_files(tmp_path / "presets" / folder):
            records.read(path)
            assert (path.parent / "__pycache__" / f"{path.name}.json").is_file(), path
