"""What of ours nobody needs any more: a pure judgement of what is in the cluster and the cloud, and since when.

Owner references, teardowns and the reconciler take back what they made; this is the net below them, for what a crash or
a lost database let through. It judges and never deletes. When in doubt, a thing is kept: a machine too many costs
money, one too few costs somebody's work.
"""

from include.janitor.judge import find_orphans, judge, questions
from include.janitor.memory import Memory
from include.janitor.orphans import (
    Inventory,
    OrphanAction,
    Questions,
    Rules,
    Thing,
    Verdict,
)

__all__ = [
    "Inventory",
    "Memory",
    "OrphanAction",
    "Questions",
    "Rules",
    "Thing",
    "Verdict",
    "find_orphans",
    "judge",
    "questions",
]
