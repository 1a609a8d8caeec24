"""What steps that run no pod leave in XCom for the steps after them; what pods report is in ``contracts.results``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from include.contracts.results import PublishedAdapter, Result


class DataChange(Result):
    """The dataset that a version learns from.

    :param added: rows that the one that was learnt from last has not; None where that is not known.
    :param removed: rows that only that one has.
    :param before: rows and digest of that one.
    """

    digest: str | None = None
    rows: int | None = None
    added: int | None = None
    removed: int | None = None
    before: dict[str, Any] | None = None


class ChangeJudged(Result):
    """That the data is worth a training, and why."""

    why: str | None = None
    dataset: DataChange = Field(default_factory=DataChange)


class Candidate(PublishedAdapter):
    """A version that passed the gate.

    :param rows: how many it has learnt from.
    :param verdict: the gate's sentence.
    """

    verdict: str | None = None
    rows: int | None = None


class Releasing(Result):
    """The Workspace that goes; no uid where it is gone already."""

    uid: str | None = None
