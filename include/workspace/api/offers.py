"""What a Workspace may be given, in the order in which a cloud is asked for it: machine types, zones, spot or not.

`resource.instanceType` comes first, then the annotation `kaito.sh/instance-types`; `kaito.sh/capacity-type` says at
which terms. With "spot,on-demand" all of them are asked for as spot machines first, then all of them on demand. It only
reads annotations: whether an entry makes sense is the rules' matter, and it must never raise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from include.workspace.api import names
from include.workspace.api.models import Workspace

SPOT, ON_DEMAND = "spot", "on-demand"
CAPACITY_TYPES = (SPOT, ON_DEMAND)
#: More entries would be no preference but a search, and each may cost minutes.
MOST_MACHINES = 8
MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Offer:
    """Machines as a cloud is asked for them. Without a zone the cloud chooses one; without terms the settings do."""

    instance_type: str
    zone: str = ""
    capacity_type: str = ""

    def __str__(self) -> str:
        """One word that names it and nothing else: TYPE, TYPE@ZONE, TYPE/spot, TYPE@ZONE/spot."""
        zone = f"@{self.zone}" if self.zone else ""
        terms = f"/{self.capacity_type}" if self.capacity_type else ""
        return f"{self.instance_type}{zone}{terms}"


def entries(ws: Workspace) -> list[str]:
    """The entries of the annotation kaito.sh/instance-types as they were written; empty without one."""
    return _parts(ws, names.INSTANCE_TYPES)


def entry(text: str) -> Offer:
    """TYPE or TYPE@ZONE as an offer."""
    name, _, zone = text.partition("@")
    return Offer(name.strip(), zone.strip())


def capacity_types(ws: Workspace) -> list[str]:
    """The terms of the annotation kaito.sh/capacity-type as they were written; empty without one."""
    return _parts(ws, names.CAPACITY_TYPE)


def _parts(ws: Workspace, key: str) -> list[str]:
    text = ws.annotations.get(key, "")[:MOST_CHARACTERS]
    return [part.strip() for part in text.split(",")] if text.strip() else []


def in_order(first: str, others: Iterable[Offer], terms: Iterable[str]) -> list[Offer]:
    """All offers in the order of asking: `first` is the Workspace's own machine type, wherever the cloud has it."""
    machines = [Offer(first), *others]
    return [Offer(one.instance_type, one.zone, term) for term in (list(terms) or [""]) for one in machines]
