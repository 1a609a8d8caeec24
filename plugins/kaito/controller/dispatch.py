"""What the wait for changes hands to the reconcile task: which Workspaces, why, and as whom; the same on both sides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kaito.controller.fingerprints import Key


class Dispatch(BaseModel):
    """Workspaces that are to be looked at.

    :param keys: None for all.
    :param token: what the task leaves on the Lease when it is done, so that the next wait knows.
    :param identity: the deployment that holds the Lease.
    :param at: when it was handed over, in seconds since 1970; 0 where that is not known.
    :param ended: when machines were seen to go, by the uids of what shows them.
    """

    model_config = ConfigDict(frozen=True)

    keys: tuple[Key, ...] | None
    token: str = Field(min_length=1)
    reason: str = ""
    identity: str = ""
    at: float = 0.0
    ended: Mapping[str, str] = Field(default_factory=dict)

    def to_xcom(self) -> dict[str, Any]:
        """Plain lists and texts."""
        return self.model_dump(mode="json")

    @classmethod
    def from_xcom(cls, value: object) -> Dispatch | None:
        """Read an event of the trigger or its XCom, which stands there as a JSON text; None where neither names any."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return None
        if isinstance(value, Mapping) and "return_value" in value:
            return cls.from_xcom(value["return_value"])
        try:
            return cls.model_validate(value)
        except ValidationError:
            return None
