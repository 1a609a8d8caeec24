"""The words between the reconciler's pure core and its shell: what was seen, and what is to be done.

The shell (plugins/kaito) fills `Observed` from lists of the cluster and from Airflow, calls `decide`, and carries a
`Decision` out in this order: finalizer, status (fenced by resourceVersion and generation), the other actions in their
order, events. An action must be safe to repeat, since the shell may die between any two of them.

A decision holds for the Workspace that was seen: a status write proves it by its resourceVersion. Before the actions
of a decision without a status the shell reads the Workspace once more and drops the decision when its resourceVersion
is another. Observe Workspaces before their children, never after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from include.pools.observed import ObservedPool, WorkspacePools
from include.workspace import Fault
from include.workspace.status.transitions import Event

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """What servers have counted of the answers of one adapter; the fields are those of `Activity`."""

    answered: float = 0.0
    failed: float = 0.0
    timed: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Activity:
    """What servers tell of their use.

    `in_flight` requests are being answered or wait. `answered` is a number that grows with every request. `last` is
    when the last answer ended, in unix seconds (0: never), None where a server does not tell. `failed` counts answers
    that failed, `timed` those that came to a good end, and `seconds` what these took together.

    `adapters` has these of each adapter by its digest, `canaries` the percent of the requests that each canary
    answers on every server, and `refused` the digests of adapters that a server was given and does not take.
    """

    in_flight: float
    answered: float
    last: float | None
    failed: float = 0.0
    timed: float = 0.0
    seconds: float = 0.0
    adapters: Mapping[str, Answers] = field(default_factory=dict)
    canaries: Mapping[str, float] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything about one Workspace that was seen at one moment, as the cluster's own dicts.

    `pods`, `stateful_sets`, `services`, `volume_claims` and `revisions` carry the Workspace's labels or its name;
    `nodes` are those of its machines, and `pools` its machines, whoever makes them. `config_maps` has each ConfigMap
    that the Workspace names, with a digest of its data, or None where it is missing. `runs` has the state of each
    Airflow run that was asked about ("queued", "running", "success", "failed"), None where Airflow knows no such run.
    `progress` is what the running tuning pod said last. `events` are the Kubernetes Events about what of a service does
    not begin and does not tell why. `upstream` names the controller of upstream KAITO that runs in
    this cluster, "" without one.

    `activity` is looked at only where it matters (`include.reconcile.idle`): what the servers of a ready service tell
    together, None where they were not asked and when one of them did not answer; so are the pools that do not show at
    every look. `ended` is when machines of it were seen to go, by the uids of what shows them.
    """

    pods: Sequence[Object] = ()
    stateful_sets: Sequence[Object] = ()
    services: Sequence[Object] = ()
    volume_claims: Sequence[Object] = ()
    nodes: Sequence[Object] = ()
    revisions: Sequence[Object] = ()
    config_maps: Mapping[str, str | None] = field(default_factory=dict)
    runs: Mapping[str, str | None] = field(default_factory=dict)
    progress: Object | None = None
    events: Sequence[Object] = ()
    upstream: str = ""
    activity: Activity | None = None
    pools: WorkspacePools = field(default_factory=WorkspacePools)
    ended: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Put our finalizer on the Workspace."""

    finalizer: str


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Take our finalizer, and no other, off the Workspace."""

    finalizer: str


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set annotations of the Workspace; None removes one."""

    annotations: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start a DAG run, or do nothing when there is one of this id that is not over."""

    dag_id: str
    run_id: str
    conf: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete one object of ours, guarded by its uid; `why` is for the log."""

    kind: str
    name: str
    namespace: str | None
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class DeletePool:
    """Have a pool deleted by who made it, if it still is the one that was seen; `why` is for the log."""

    pool: ObservedPool
    why: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give a pool of an earlier run (and its Node) to another: the label kaito.sh/run-id, guarded by the pool's uid."""

    pool: ObservedPool
    run_label: str


@dataclass(frozen=True, slots=True)
class ScaleToZero:
    """Set the replicas of a StatefulSet of ours to 0, guarded by its uid."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True, slots=True)
class ServeAdapter:
    """Have a service's pods answer with this image of the Workspace's adapter, and a share with another, at once."""

    image: str
    canary: str = ""
    percent: float = 0.0


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Create or update one object of ours, such as a ControllerRevision."""

    manifest: Mapping[str, Any]


Action = (
    AddFinalizer
    | RemoveFinalizer
    | Annotate
    | StartRun
    | DeleteObject
    | DeletePool
    | HandOver
    | ScaleToZero
    | ServeAdapter
    | ApplyObject
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one Workspace.

    `status` is the whole new status, None when it stays as it is. `situation` is one word for logs and metrics
    ("invalid", "starting", "running", "superseding", "ready", "idle", "succeeded", "failed", "repairing",
    "paused", "overspent", "deleting", "foreign"). `requeue_after` is in seconds: look again then even if nothing
    changes; None: no need.
    """

    situation: str
    status: Mapping[str, Any] | None = None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None


def _no_versions(_: Object) -> Mapping[str, str]:
    """Nobody has looked."""
    return {}


@dataclass(frozen=True, slots=True)
class ReconcileConfig:
    """What a decision needs to know of the installation.

    `faults(workspace, old)` gives every fault of the Workspace (schema, rules, cluster: missing Secrets), on update
    against `old`, the document of the last accepted generation (None on first sight); it is called only when a
    generation has not been judged yet. `machine_of(workspace)` is the canonical machine type, "" when unknown.
    `price_of(machine)` is in USD per hour. `run_url(dag_id, run_id)` is the page of a run in Airflow's UI.
    `release_deadline` is in seconds. `versions(workspace)` gives the versions of the Secrets that it names, as
    `status.inputs` has them; it is called only for what has failed and may wait for one.
    """

    faults: Any  # Callable[[Object, Object | None], Sequence[Fault]]
    machine_of: Any  # Callable[[Object], str]
    price_of: Any  # Callable[[str], float | None]
    run_url: Any  # Callable[[str, str], str]
    release_deadline: float = 1800.0
    versions: Any = _no_versions  # Callable[[Object], Mapping[str, str]]


__all__ = [
    "Action",
    "Activity",
    "AddFinalizer",
    "Annotate",
    "ApplyObject",
    "Decision",
    "DeleteObject",
    "DeletePool",
    "Event",
    "Fault",
    "HandOver",
    "Object",
    "Observed",
    "ReconcileConfig",
    "RemoveFinalizer",
    "ScaleToZero",
    "StartRun",
]
