"""A file a retraining: what a data team writes into dags/retraining, with all of its faults by line.

A file that is broken must never stop the others: it is read to faults, never to an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from include.contracts.faults import did_you_mean
from include.contracts.yaml_documents.reader import BadDocument, Document, read
from include.retraining import checking, dated_urls
from include.retraining import policy as policies
from include.retraining.policy import Policy
from include.retraining.schedule import DEFAULT_ZONE, BadSchedule, Schedule, parse, zone_of

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,98}[a-z0-9])?")
_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class RetrainingFile(BaseModel):
    """What one file says. `schedule` and `assets` exclude each other; without either, the DAG is started by hand.

    `urls` stand in for the Workspace's own dataset, with the date of each run filled in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    workspace: str = Field(pattern=_LABEL)
    namespace: str = Field(default="default", pattern=_LABEL)
    description: str = ""
    schedule: str | None = None
    timezone: str = DEFAULT_ZONE
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


def examine(name: str, text: str) -> tuple[RetrainingFile | None, list[str]]:
    """What a file says, and a sentence for everything that is wrong with it, with its line.

    :param name: of the file, as the sentences call it.
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
    faults = [f"{name}:{_line(document, path)}: {sentence}" for path, sentence in _faults(document.value)]
    return (None, faults) if faults else (RetrainingFile.model_validate(document.value), [])


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
    schedule, zone, assets = value.get("schedule"), value.get("timezone", DEFAULT_ZONE), value.get("assets")
    if schedule is not None and assets:
        yield "assets", "assets: exclude a schedule; write one of them"
    for key, given, check in (("schedule", schedule, parse), ("timezone", zone, zone_of)):
        if isinstance(given, str):
            try:
                check(given)
            except BadSchedule as error:
                yield key, f"{key}: {error} (got {given!r}); {error.hint}"
