"""A Workspace that failed for a Secret or a ConfigMap goes on by itself when that has been corrected.

ConfigMaps are watched. Secrets may be read by name only, so they are looked at now and then, ever less often and only
while something waits for them. What counts is a change since the run that failed looked (its preflight notes the
versions in `status.inputs`), so a correction at any moment after that is seen, and one change starts one run.
"""

from __future__ import annotations

import re

from include.reconcile import backoff
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.status.conditions import ConditionType, Reason, condition

SECRETS = "secrets/"
FIRST_SECONDS, CAP_SECONDS = 10.0, 300.0
REASON = "WaitingForSecret"
#: Faults that lie in what a Workspace names.
_NAMED = re.compile(r"\[[PM]\d+\]")
#: Steps that fail for what a Workspace names, before machines are paid for or after.
_STEPS = (
    (ConditionType.DATASET_READY, Reason.DATASET_FAILED),
    (ConditionType.ADAPTER_PUBLISHED, Reason.ADAPTER_FAILED),
)


def wait(builder: DecisionBuilder) -> float | None:
    """Seconds until another look at what this failure may lie in; 0.0: it has changed; None: it lies elsewhere."""
    if not _may_lie_there(builder):
        return None
    known, case = builder.status.get("inputs") or {}, builder.case
    if any(known.get(name, now) != now for name, now in case.observed.config_maps.items() if now):
        return 0.0
    secrets = {key: version for key, version in known.items() if key.startswith(SECRETS)}
    if not secrets:
        return None
    mine = builder.retry.get("run") == builder.run["id"] and builder.retry.get("reason") == REASON
    if mine and (pause := backoff.wait(builder.retry, case.now)) > 0:
        return pause
    seen = case.config.versions(case.workspace)
    if any(seen.get(key, version) != version for key, version in secrets.items()):
        return 0.0
    which = ", ".join(sorted(key.removeprefix(SECRETS) for key in secrets))
    before = builder.retry if mine else None
    found = backoff.failed(
        before,
        case.now,
        f"a change of Secret {which} starts a new run",
        first=FIRST_SECONDS,
        cap=CAP_SECONDS,
    )
    builder.note(retry={**found, "reason": REASON, "run": builder.run["id"]})
    return backoff.wait(builder.retry, case.now)


def _may_lie_there(builder: DecisionBuilder) -> bool:
    told = {
        kind: found
        for kind in (ConditionType.RESOURCE_READY, *(step for step, _ in _STEPS))
        if (found := condition(builder.status, kind))
        and found.get("observedGeneration") == builder.case.generation
    }
    refused = told.get(ConditionType.RESOURCE_READY) or {}
    if refused.get("reason") == Reason.RESOURCE_FAILED and _NAMED.search(str(refused.get("message"))):
        return True
    return any((told.get(kind) or {}).get("reason") == reason for kind, reason in _STEPS)
