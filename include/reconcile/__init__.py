"""What to do about a Workspace: a pure function of what it asks for and of what is there.

It exists so that every situation can be tested in milliseconds, thousands of them at random. It must never talk to a
cluster, to Airflow or to the clock: those who do hand it what they saw, and carry out what it decides.
"""

from include.reconcile.decide import decide
from include.reconcile.decision import (
    Action,
    Activity,
    AddFinalizer,
    Annotate,
    ApplyObject,
    Decision,
    DeleteObject,
    DeletePool,
    Event,
    HandOver,
    Observed,
    ReconcileConfig,
    RemoveFinalizer,
    ScaleToZero,
    ServeAdapter,
    StartRun,
)
from include.reconcile.due import due, runs_to_ask
from include.reconcile.initial_status import awaits_initial_status, initial_status

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
    "HandOver",
    "Observed",
    "ReconcileConfig",
    "RemoveFinalizer",
    "ScaleToZero",
    "ServeAdapter",
    "StartRun",
    "awaits_initial_status",
    "decide",
    "due",
    "initial_status",
    "runs_to_ask",
]
