"""A file a retraining: what a data team writes into dags/retraining, with all of its faults by line.

A file that is broken must never stop the others: it is read to faults, never to an exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from include.contracts.faults import did_you_mean
from include.contracts.yaml_documents.reader import BadDocument, Document, read
from include.retraining import checking, dated_urls
from include.retraining import policy as policies
from include.retraining.policy import Policy
from include.retraining.schedule import DEFAULT_ZONE, BadSchedule, Schedule, parse, zone_of

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,98}[a-z0-9])?")
#: A function of a module, as `package.module:name`.
_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class RetrainingFile(BaseModel):
    """What one file says. `schedule`, `timetable` and `assets` exclude each other; without any, it is started by hand.

    `timetable` names a function that makes an Airflow timetable, as `package.module:name`.
    `urls` stand in for the Workspace's own dataset, with the date of each run filled in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    workspace: str = Field(pattern=_LABEL)
    namespace: str = Field(default="default", pattern=_LABEL)
    description: str = ""
    schedule: str | None = None
    timezone: str = DEFAULT_ZONE
    timetable: str | None = Field(default=None, pattern=_FUNCTION)
    assets: list[str] = []
    urls: list[str] = Field(default=[], max_length=100)
    tags: list[str] = []
    owner: str = "kaito"
    policy: Any = None

    def parsed_schedule(self) -> Schedule | None:
        """The schedule, None without one. Raises BadSchedule, which `examine` has told already."""
        return parse(self.schedule, self.timezone) if self.schedule else None

    def parsed_policy(self) -> Policy | None:
        return None if self.policy is None else policies.of(self.policy)


#: (path, sentence) of everything that is wrong with a file.
Faults = Iterable[tuple[str, str]]


def examine(
    name: str, text: str, more: Callable[[RetrainingFile], Faults] = lambda _: ()
) -> tuple[RetrainingFile | None, list[str]]:
    """What a file says, and a sentence for everything that is wrong with it, with its line.

    :param name: of the file, as the sentences call it.
    :param more: what else is wrong with a file that has no fault of its own: what only Airflow can tell.
    """
    try:
        documents = list(read(text))
    except Exception as error:  # the reader promises never to raise
        return None, [f"{name}: {error}"]
    if len(documents) != 1:
        return None, [f"{name}: a file holds one retraining, and this one holds {len(documents)} documents"]
    document = documents[0]
    if isinstance(document, BadDocument):
        return None, [f"{name}:{document.line or 1}: {document.reason}"]
    if not isinstance(document.value, dict):
        return None, [f"{name}:1: a retraining is a mapping with the key workspace"]
    told = list(_faults(document.value))
    found = None if told else RetrainingFile.model_validate(document.value)
    told += more(found) if found else ()
    faults = [f"{name}:{_line(document, path)}: {sentence}" for path, sentence in told]
    return (None if faults else found), faults


def _line(document: Document, path: str) -> int:
    return document.place.find(path).line if path else 1


def _faults(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, sentence) of everything that is wrong."""
    try:
        found = RetrainingFile.model_validate(value)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            path = ".".join(map(str, one["loc"]))
            if one["type"] == "extra_forbidden":
                hint = did_you_mean(path, frozenset(RetrainingFile.model_fields))
                yield path, f"{path}: is no key of a retraining; {hint}"
            elif one["type"] == "missing":
                yield "", f"{path}: is required"
            else:
                yield (
                    path,
                    f"{path}: {one['msg'].replace('Input should be', 'should be')} (got {one['input']!r})",
                )
        found = RetrainingFile.model_construct(**{**value, "workspace": ""})
    yield from _schedule_faults(value)
    for index, url in enumerate(urls if isinstance(urls := value.get("urls"), list) else ()):
        if isinstance(url, str):
            yield from (
                (f"urls[{index}]", f"urls[{index}]: {told} (got {url!r})") for told in dated_urls.faults(url)
            )
    if value.get("policy") is not None:
        for fault in checking.faults(found.policy, "policy"):
            yield fault.path, str(fault)


def _schedule_faults(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    schedule, zone = value.get("schedule"), value.get("timezone", DEFAULT_ZONE)
    given = [key for key in ("schedule", "timetable", "assets") if value.get(key)]
    for other in given[1:]:
        yield other, f"{other}: exclude{'s' * (other != 'assets')} a {given[0]}; write one of them"
    if "timezone" in value and value.get("timetable"):
        yield "timezone", "timezone: goes with a schedule, and a timetable has its own; leave it out"
    for key, said, check in (("schedule", schedule, parse), ("timezone", zone, zone_of)):
        if isinstance(said, str):
            try:
                check(said)
            except BadSchedule as error:
                yield key, f"{key}: {error} (got {said!r}); {error.hint}"
