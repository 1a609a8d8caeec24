"""A finished dataset that a release before has left on the volume: its rows stay, and are known by today's digests."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from include.contracts.adapter_record import FORMER_ROW_DIGESTS, ROW_DIGESTS
from include.workloads.dataset import row_digests
from include.workloads.dataset.description import PARQUET, write_report
from include.workloads.dataset.digests import Digests
from include.workloads.dataset.request import Request

log = logging.getLogger("dataset")


def renewed(request: Request, report: dict[str, Any]) -> dict[str, Any]:
    """The report of a finished dataset with the digests and the fingerprint of today, written last.

    Nothing is fetched, and train.parquet is only read: it has the values that would be written today. What the rows are
    like is forgotten, so that it is looked at as today.

    :param request: what the dataset was made for.
    :param report: what `request.former_fingerprint` stands in.
    :raises OSError: a file cannot be read or written.
    """
    output = request.output
    digests = _digests(output / PARQUET)
    row_digests.write(digests.rows, output / ROW_DIGESTS)
    report = {**report, "digest": digests.dataset, "fingerprint": request.fingerprint}
    report.pop("looked_at_with", None)
    write_report(output, report)
    (output / FORMER_ROW_DIGESTS).unlink(missing_ok=True)
    log.info("the dataset is of a release before: its rows stay, with the digest %s", report["digest"])
    return report


def _digests(parquet: Path) -> Digests:
    found = Digests()
    for batch in row_digests.batches(parquet):
        found.add(batch)
    return found
