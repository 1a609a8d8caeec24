"""What `astro dev parse` runs: every DAG file must be importable, whatever connections and variables exist.

The Astro CLI's own copy of this file fails on Airflow 3.3 (it passes `include_examples`, which DagBag no longer takes),
so this one stands in its place. Reads of connections, variables and unset environment variables at parse time are
answered with stand-ins, as in the original.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseHook, Connection, Variable
from airflow.utils.db import initdb

initdb()

EXCEPTIONS = Path(__file__).with_name("dag_integrity_exceptions.txt")
_getenv = os.getenv


def _environment(key: str, default: Any = None) -> Any:
    found = _getenv(key, default)
    return (
        found
        if found is not None or key.startswith(("AIRFLOW_", "_AIRFLOW"))
        else f"MOCKED_{key.upper()}_VALUE"
    )


def _variable(key: str, default: Any = None, **_: Any) -> Any:
    return default if default is not None else "MOCKED_VARIABLE_VALUE"


BaseHook.get_connection = classmethod(lambda cls, conn_id: Connection(conn_id=conn_id))
Variable.get = staticmethod(_variable)
os.getenv = _environment


@contextmanager
def _quiet(name: str) -> Any:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _files_and_errors() -> list[tuple[str, str | None]]:
    with _quiet("airflow"):
        bag = DagBag()
    folder = Path(bag.dag_folder)
    exempt = {line.strip() for line in EXCEPTIONS.read_text().splitlines() if line.strip() and line[0] != "#"}
    errors = {str(Path(path)): str(text).strip() for path, text in bag.import_errors.items()}
    files = {str(folder / dag.relative_fileloc) for dag in bag.dags.values()} | set(errors)
    return [
        (name, errors.get(path))
        for path in sorted(files)
        if (name := os.path.relpath(path, folder.parent)) not in exempt
        and name.removeprefix("dags/") not in exempt
    ]


@pytest.mark.parametrize(("file", "error"), _files_and_errors())
def test_file_imports(file: str, error: str | None) -> None:
    """One test for each DAG file."""
    assert error is None, f"{file} failed to import:\n{error}"  # noqa: S101
