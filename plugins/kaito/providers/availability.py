"""Whether the cloud would grant a run's machines, asked before anything is made: rights, quota, offer, zones.

Who makes the machines is asked. "Yes" is no promise, and where nobody may ask, or a cloud does not answer, the run goes
on and finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.planning import Plan
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.providers.registry import provider
from kaito.providers.selection import choose
from kaito.providers.settings import hands_over


def not_offered(
    cluster: KaitoClusterHook, workspace: Mapping[str, Any], plans: Sequence[Plan]
) -> dict[str, str]:
    """Say which of the plans the cloud would refuse now, and why, by their offers.

    :param plans: all for one purpose.
    :raises ValueError: nobody can make machines: a setting, the annotation or the connection makes no sense, a right
        is missing, or their maker takes no such pool.
    """
    hands_over()  # asked when they have tuned: a broken value is told now
    chosen = choose(cluster, workspace)
    return provider(cluster, chosen.settings, workspace).check_availability(plans)
