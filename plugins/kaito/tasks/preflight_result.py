"""What the first task leaves in XCom for all others: written and read here, and nowhere else.

It is kept in Airflow's database and shown in its UI, so nothing of it is a secret: signed URLs are taken out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from include.contracts.purpose import Purpose
from include.contracts.redaction import redact_url
from include.planning import Plan

#: What the XCom must have, with what each is.
REQUIRED = {"workspace": "the Workspace", "plan": "the plan of the first purpose"}


def redacted(workspace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may go into XCom: no status, and no dataset URL with its query (it may carry a signature)."""
    document: dict[str, Any] = json.loads(json.dumps({k: v for k, v in workspace.items() if k != "status"}))
    source = (document.get("tuning") or {}).get("input") or {}
    if source.get("urls"):
        source["urls"] = [redact_url(url) for url in source["urls"]]
    return document


@dataclass(frozen=True)
class PreflightResult:
    """The Workspace and its plans, as they were admitted.

    :param workspace: the document, as :func:`redacted` gives it.
    :param plan: of the first purpose: of the tuning, or of the service where nothing is tuned.
    :param serving_plan: None where nothing is served.
    :param alternatives: by purpose, the further plans in the order of asking; a purpose without any is not in it.
    :param trained: ``{"run", "recipe", "dataset", "tuning"}`` of the adapter that an earlier run left on the volume,
        where it is the one that is wanted.
    :param adapter: what this very run has published, where its history was lost after that.
    """

    workspace: dict[str, Any]
    plan: Plan
    serving_plan: Plan | None = None
    alternatives: Mapping[str, tuple[Plan, ...]] = field(default_factory=dict)
    trained: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None

    def first(self, purpose: str) -> Plan | None:
        """Return the plan that is asked for first."""
        return self.serving_plan if purpose == Purpose.SERVING else self.plan

    def all_plans(self, purpose: str) -> tuple[Plan, ...]:
        """Return all plans of a purpose in the order of asking; empty where it has none."""
        first = self.first(purpose)
        return (first, *self.alternatives.get(purpose, ())) if first else ()

    def to_xcom(self) -> dict[str, Any]:
        """Return it as JSON values; what there is none of is left out, except for the serving plan."""
        value: dict[str, Any] = {
            "workspace": self.workspace,
            "plan": self.plan.to_dict(),
            "serving_plan": self.serving_plan.to_dict() if self.serving_plan else None,
        }
        if self.alternatives:
            value["alternatives"] = {
                purpose: [plan.to_dict() for plan in plans] for purpose, plans in self.alternatives.items()
            }
        if self.trained:
            value["trained"] = self.trained
        if self.adapter:
            value["adapter"] = self.adapter
        return value

    @classmethod
    def from_xcom(cls, value: Mapping[str, Any]) -> PreflightResult:
        """Read it back.

        :raises ValueError: it is not what the first task leaves; the message names what is missing.
        """
        missing = [f"{key} ({what})" for key, what in REQUIRED.items() if not value.get(key)]
        if missing:
            raise ValueError(
                f"What the first task left lacks {' and '.join(missing)}: clear it, so that it runs again."
            )
        serving = value.get("serving_plan")
        return cls(
            workspace=dict(value["workspace"]),
            plan=Plan.from_dict(value["plan"]),
            serving_plan=Plan.from_dict(serving) if serving else None,
            alternatives={
                purpose: tuple(map(Plan.from_dict, plans))
                for purpose, plans in (value.get("alternatives") or {}).items()
            },
            trained=value.get("trained"),
            adapter=value.get("adapter"),
        )
