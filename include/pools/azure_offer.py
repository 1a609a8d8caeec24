"""Whether Azure would give us machines now: its offer and our quota, asked before anything is made.

A pure judgement of Microsoft.Compute's answers; the hook asks. An answer of "yes" is no promise: capacity is only known
when machines are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

REGIONAL_QUOTA, SPOT_QUOTA = "cores", "lowPriorityCores"


@dataclass(frozen=True)
class Wanted:
    """The machines that a plan wants."""

    instance_type: str
    count: int
    location: str
    zones: tuple[str, ...] = ()
    spot: bool = False


def offer_faults(
    wanted: Wanted, skus: Iterable[Mapping[str, Any]], usages: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Say why Azure would refuse, one sentence for each reason; empty when it would not.

    :param skus: resource SKUs of the location, as the REST API spells them.
    :param usages: the subscription's usages in the location.
    """
    name = wanted.instance_type
    sku = next((s for s in skus if str(s.get("name")).lower() == name.lower()), None)
    if sku is None:
        return [f"Azure has no machine type {name} in location {wanted.location}."]
    faults = _restrictions(wanted, sku)
    if wanted.spot and _capabilities(sku).get("LowPriorityCapable") == "False":
        faults.append(f"Azure does not sell {name} as spot machines.")
    known = {str((u.get("name") or {}).get("value")).lower(): u for u in usages}
    cores = _cores(sku) * wanted.count
    quotas = [SPOT_QUOTA] if wanted.spot else [REGIONAL_QUOTA, str(sku.get("family"))]
    for quota in quotas:
        usage = known.get(quota.lower())
        if usage is None:
            continue
        limit, used = int(usage["limit"]), int(usage["currentValue"])
        if used + cores > limit:
            faults.append(
                f"{wanted.count} x {name} need {cores} vCPUs of quota {quota} in {wanted.location}: {used} of {limit} "
                f"are in use. Ask Azure for a limit of at least {used + cores}."
            )
    return faults


def _restrictions(wanted: Wanted, sku: Mapping[str, Any]) -> list[str]:
    faults = []
    places = [
        p for p in sku.get("locationInfo") or [] if str(p.get("location")).lower() == wanted.location.lower()
    ]
    offered = {zone for place in places for zone in place.get("zones") or []}
    for restriction in sku.get("restrictions") or []:
        why = restriction.get("reasonCode") or "restricted"
        if restriction.get("type") == "Location":
            return [
                f"Azure does not offer {wanted.instance_type} to this subscription in {wanted.location} ({why})."
            ]
        offered -= set((restriction.get("restrictionInfo") or {}).get("zones") or [])
    for zone in wanted.zones:
        if zone not in offered:
            have = ", ".join(sorted(offered)) or "none"
            faults.append(
                f"Azure does not offer {wanted.instance_type} in zone {zone} of {wanted.location}; zones: {have}."
            )
    return faults


def _capabilities(sku: Mapping[str, Any]) -> dict[str, str]:
    return {str(c.get("name")): str(c.get("value")) for c in sku.get("capabilities") or []}


def _cores(sku: Mapping[str, Any]) -> int:
    return int(_capabilities(sku).get("vCPUs") or 0)
