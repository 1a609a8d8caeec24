"""Decides what a Workspace gets: machines, precision, memory, time, price; and says why in sentences.

Everything here is a pure function of a Workspace, its configs and the catalogue. It must never create anything.
"""

from include.catalog.choice import Choice, recommend
from include.planning.candidates import Candidates, candidates
from include.planning.estimate import Estimate
from include.planning.launch import launch_arguments, server_environment
from include.planning.plan import Plan, plan, plan_serving

__all__ = [
    "Candidates",
    "Choice",
    "Estimate",
    "Plan",
    "candidates",
    "launch_arguments",
    "plan",
    "plan_serving",
    "recommend",
    "server_environment",
]
