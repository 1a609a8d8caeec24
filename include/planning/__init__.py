"""Decides what a Workspace gets: machines, precision, memory, price; and says why in sentences.

Everything here is a pure function of a Workspace and the catalogue. It must never create anything.
"""

from include.planning.plan import Plan, plan, plan_serving

__all__ = ["Plan", "plan", "plan_serving"]
