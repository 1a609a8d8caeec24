"""`python -m include.workloads.dataset`: the dataset pod."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from include.workloads.contract import run
from include.workloads.dataset.job import run_job
from include.workloads.dataset.request import from_environment


def hide_pandas_from_arrow() -> None:
    """Let pyarrow look for pandas now and find none: it looks once, and nothing here has a data frame.

    What it would import takes 0.2 s and 40 MB. Others who import pandas later still get it.
    """

    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)

    hidden: Any = SimpleNamespace(find_spec=find_spec)
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)


if __name__ == "__main__":
    hide_pandas_from_arrow()
    run(lambda: run_job(from_environment()))
