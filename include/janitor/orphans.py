"""The words between the janitor's judgement and its shell: what was seen, and what is said about each thing.

The shell reads children before Workspaces: a child whose Workspace is missing in the newer list has lost it, while one
that is missing in the older list is simply not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from include.pools.observed import ObservedPool

Object = Mapping[str, Any]
#: (namespace, name) of a Workspace.
Key = tuple[str, str]
#: (DAG id, run id)
Run = tuple[str, str]


class OrphanAction(StrEnum):
    """What is to become of a thing."""

    KEEP = "keep"
    WAIT = "wait"  # an orphan that is too young, or was seen as one for too short a time
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Rules:
    """`grace`: how long a thing must exist, and be an orphan at every look, before it is deleted."""

    grace: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of ours; `version` is its resourceVersion or eTag, `uid` is empty where there is none.

    `pool` is what it is where it makes machines."""

    kind: str
    name: str
    namespace: str | None
    uid: str
    version: str
    workspace: Key
    pool: ObservedPool | None = None

    @property
    def key(self) -> str:
        """What tells it from a later object of its name, as far as that can be told."""
        return self.uid or f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a thing, and why, in a sentence; `since`: first seen as an orphan, None for others."""

    thing: Thing
    action: OrphanAction
    reason: str
    since: datetime | None = None

    @property
    def orphan(self) -> bool:
        return self.since is not None

    def __str__(self) -> str:
        return f"{self.thing}: {self.action}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that was seen, as the cluster's own dicts, and the pools of every provider.

    All but `workspaces`, `nodes` and `others` carry our label. `others` are pods of anybody's that may use what is
    about to be deleted: those on the nodes and in the namespaces that `questions` asks for. `runs` has the state of
    each Airflow run that was asked about, None where Airflow knows none; `busy` whether any run of a DAG is under way.
    `upstream` names the controller of upstream KAITO in this cluster. `seen` has when a thing was first seen as an
    orphan, by `Thing.key`.
    """

    workspaces: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    stateful_sets: Sequence[Object] = ()
    services: Sequence[Object] = ()
    config_maps: Sequence[Object] = ()
    volume_claims: Sequence[Object] = ()
    pools: Sequence[ObservedPool] = ()
    nodes: Sequence[Object] = ()
    others: Sequence[Object] = ()
    runs: Mapping[Run, str | None] = field(default_factory=dict)
    busy: Mapping[str, bool] = field(default_factory=dict)
    upstream: str = ""
    seen: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Questions:
    """What has to be known before anything is deleted.

    `runs` and `dags` (is any run of it under way?) are for Airflow; the pods on `nodes` and in `namespaces` for the
    cluster.
    """

    runs: tuple[Run, ...] = ()
    dags: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
