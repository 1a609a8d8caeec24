"""What the pods of a run report, as they write it and as the steps after them read it.

A pod's result is its termination message, at most 4 KiB of JSON; the step hands it on in XCom as it is. A pod of
another version may say more, and nothing that it says is worth a second training: unknown fields are kept, and a known
one that cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Result(BaseModel):
    """A step's result: the fields that other steps read, and what else was said. What was not said is None."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, coerce_numbers_to_str=True)

    @classmethod
    def read(cls, value: object) -> Self:
        """Return what there is of a result: of a pod's message or of an XCom, of None for a step without one."""
        given = dict(value) if isinstance(value, Mapping) else {}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            unreadable = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
            return cls.model_validate({key: part for key, part in given.items() if key not in unreadable})

    def to_xcom(self) -> dict[str, Any]:
        """Return what was said, as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def __bool__(self) -> bool:
        """Whether anything was said."""
        return bool(self.model_fields_set)


class DatasetResult(Result):
    """Of the pod that fetches and checks the dataset.

    :param digest: of all rows, whatever their order in the file.
    :param characters: in all rows together, of what the model reads.
    :param sentence: the numbers for a reader.
    :param findings: what else a person should know of the rows, a sentence each.
    :param added: rows that were not among those that were learnt from last, None where that is not known.
    :param removed: rows that are no longer among them.
    """

    rows: int | None = None
    digest: str | None = None
    characters: int | None = None
    sentence: str | None = None
    findings: list[str] | None = None
    added: int | None = None
    removed: int | None = None


class AdapterFile(Result):
    """The weights that a training wrote."""

    sha256: str | None = None


class TuningResult(Result):
    """Of the pod that trains.

    :param data: what was cut or dropped of the rows, "" or None for nothing.
    :param memory: what was given up because memory ran out.
    :param stopped_early: why not all steps were done.
    :param objective: what it learnt from, where that is not the answers themselves.
    :param reward_margin: of a training by preferences, on the held-out rows; so is ``reward_accuracy``.
    :param trained_rows_digest: of the set of rows that were learnt from.
    :param origin: the digest of the adapter that the training went on from.
    """

    steps: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    device: str | None = None
    config_sha256: str | None = None
    adapter: AdapterFile | None = None
    data: str | None = None
    memory: str | None = None
    stopped_early: str | None = None
    objective: str | None = None
    reward_margin: float | None = None
    reward_accuracy: float | None = None
    trained_rows_digest: str | None = None
    origin: str | None = Field(default=None, alias="from")


class PublishedAdapter(Result):
    """Of the pod that pushes the adapter, or of the volume that keeps it.

    :param image: by its tag, as the Workspace names it; ``reference`` is by its digest.
    :param volume: whether it stays on its output volume, so that there is no image.
    :param reproduce: the record of the training, by its digest, where one was pushed beside the image.
    :param learnt: the digests of the rows that it has learnt from, likewise.
    :param signature: the manifest of its signatures, by digest, where it was signed.
    """

    image: str | None = None
    digest: str | None = None
    reference: str | None = None
    volume: bool = False
    reproduce: str | None = None
    learnt: str | None = None
    signature: str | None = None


class EvaluationResult(Result):
    """Where the report of an evaluation lies; its numbers are read by ``contracts.evaluation.Summary``.

    :param report: the file on the work volume.
    """

    report: str | None = None
    report_digest: str | None = None
