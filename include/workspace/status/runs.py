"""What `status.run` says of a Workspace's run: why it was started, and how far it is. Airflow's own states besides."""

from __future__ import annotations

from enum import StrEnum


class RunCause(StrEnum):
    """Why a run was started, as `status.run.cause` keeps it."""

    SPEC = "spec"
    #: The annotation `kaito.sh/rerun` has a new value.
    RERUN = "rerun"
    #: A service that was lost is brought back.
    REPAIR = "repair"
    #: The ConfigMap of an inference has changed.
    INPUTS = "inputs"
    #: A service is scaled up from zero.
    WAKE = "wake"
    #: The cloud had no machines for the attempt before.
    CAPACITY = "capacity"
    #: A Secret or ConfigMap for which the attempt before failed has changed.
    MENDED = "mended"
    #: Another version of the adapter is to be served.
    PROMOTE = "promote"
    #: The last good version of the adapter is to be served again.
    ROLLBACK = "rollback"
    DELETED = "deleted"
    #: Airflow knows a run of this generation that the status does not.
    FOUND = "found"


#: Causes of runs that only bring a service, which the same generation may have had already.
FOR_THE_SERVICE = frozenset(
    {RunCause.REPAIR, RunCause.INPUTS, RunCause.WAKE, RunCause.PROMOTE, RunCause.ROLLBACK}
)


class RunState(StrEnum):
    """How far a run is, as `status.run.state` keeps it."""

    WAITING = "waiting"
    STARTED = "started"
    SUCCESS = "success"
    FAILED = "failed"


UNDER_WAY = frozenset({RunState.WAITING, RunState.STARTED})
OVER = frozenset({RunState.SUCCESS, RunState.FAILED})


class AirflowState(StrEnum):
    """The states of a DAG run, as Airflow's API spells them."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


#: States in which a run may still do something.
ALIVE = frozenset({AirflowState.QUEUED, AirflowState.RUNNING})
