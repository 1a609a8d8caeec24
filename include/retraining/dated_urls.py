"""Dataset URLs with a date in them, `https://data.example.com/{{ ds }}.parquet`, as a retraining's file may have.

Airflow fills in the date of each run, so that a backfill learns from the version of each day. Only the date and what
goes with it may stand there: a file says where data lies, and computes nothing. A signed URL has no place in a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from include.contracts.dataset_urls import ALL_SCHEMES, parse_url
from include.contracts.faults import did_you_mean
from include.contracts.network_policy import SCHEMES, Refused

#: What Airflow knows of a run's date and interval, under Airflow's own names.
NAMES = frozenset(
    {
        "ds",
        "ds_nodash",
        "ts",
        "ts_nodash",
        "logical_date",
        "data_interval_start",
        "data_interval_end",
        "partition_key",
    }
)
_FIELD = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
#: A name, and at most how its time is written: `data_interval_start.strftime('%Y/%m')`.
_DATE = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)(?:\.strftime\((?P<quote>['\"])[-%\w/.: ]*(?P=quote)\))?\s*")


def faults(url: str) -> Iterator[str]:
    """What is wrong with one URL, as sentences without its path."""
    bare = _FIELD.sub("x", url)
    for found in _FIELD.finditer(url):
        said = _DATE.fullmatch(found[1])
        if said is None:
            yield f"{found[0]} is no date: write a name such as {{{{ ds }}}}, or one with .strftime('%Y/%m')"
        elif said["name"] not in NAMES:
            yield f"{found[0]} is nothing of a run's date; {did_you_mean(said['name'], NAMES)}"
    if "{{" in bare or "{%" in bare or "{#" in bare:
        yield "has a template that is no date, or does not end"
        return
    try:
        parts = urlsplit(bare)
    except ValueError as error:
        yield f"is no URL: {error}"
        return
    try:
        stored = parse_url(bare)
    except Refused as refused:
        yield f"{refused}; {refused.hint}"
        return
    if stored is None and (parts.scheme not in SCHEMES or not parts.hostname):
        yield f"is no URL that starts with https:// ({', '.join(ALL_SCHEMES)})"
    if stored is None and (parts.query or parts.username or parts.password):
        yield "has a query or a password, and a file is no place for secrets: name such data in the Workspace"
