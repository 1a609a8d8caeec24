"""What the first task leaves in XCom for all others: written and read here, and nowhere else.

It is kept in Airflow's database and shown in its UI, so nothing of it is a secret: signed URLs are taken out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from include.contracts.purpose import Purpose
from include.contracts.redaction import redact_url
from include.contracts.results import DatasetResult, PublishedAdapter, TuningResult
from include.planning import Plan

#: What the XCom must have, with what each is.
REQUIRED = {"workspace": "the Workspace", "plan": "the plan of the first purpose"}

#: A plan writes and reads itself.
PlanField = Annotated[
    Plan,
    BeforeValidator(lambda given: Plan.from_dict(given) if isinstance(given, Mapping) else given),
    PlainSerializer(Plan.to_dict),
]


def redacted(workspace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may go into XCom: no status, and no dataset URL with its query (it may carry a signature)."""
    document: dict[str, Any] = json.loads(json.dumps({k: v for k, v in workspace.items() if k != "status"}))
    source = (document.get("tuning") or {}).get("input") or {}
    if source.get("urls"):
        source["urls"] = [redact_url(url) for url in source["urls"]]
    return document


class Trained(BaseModel):
    """The adapter that an earlier run left on the volume, where it is the one that is wanted.

    :param run: who made it, as a label value.
    :param recipe: the digest of all that its training depends on.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    recipe: str
    dataset: DatasetResult = DatasetResult()
    tuning: TuningResult = TuningResult()


class PreflightResult(BaseModel):
    """The Workspace and its plans, as they were admitted.

    :param workspace: the document, as :func:`redacted` gives it.
    :param plan: of the first purpose: of the tuning, or of the service where nothing is tuned.
    :param serving_plan: None where nothing is served.
    :param alternatives: by purpose, the further plans in the order of asking; a purpose without any is not in it.
    :param adapter: what this very run has published, where its history was lost after that.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    workspace: dict[str, Any]
    plan: PlanField
    serving_plan: PlanField | None = None
    alternatives: Mapping[Purpose, tuple[PlanField, ...]] = Field(default_factory=dict)
    trained: Trained | None = None
    adapter: PublishedAdapter | None = None

    def first(self, purpose: Purpose) -> Plan | None:
        """Return the plan that is asked for first."""
        return self.serving_plan if purpose == Purpose.SERVING else self.plan

    def all_plans(self, purpose: Purpose) -> tuple[Plan, ...]:
        """Return all plans of a purpose in the order of asking; empty where it has none."""
        first = self.first(purpose)
        return (first, *self.alternatives.get(purpose, ())) if first else ()

    def to_xcom(self) -> dict[str, Any]:
        """Return it as JSON values; what there is none of is left out, except for the serving plan."""
        value = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"serving_plan": None, **{key: part for key, part in value.items() if part}}

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
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            where = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors())
            raise ValueError(
                f"What the first task left cannot be read ({where}): clear it, so that it runs again."
            ) from None
