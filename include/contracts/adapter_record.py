"""What a training leaves beside its adapter for whoever asks where it comes from: names and types of the files.

The trainer writes them into a folder beside the adapter, and the push hangs them on the image as OCI referrers. The
reports have no rows of the dataset in them: a registry may have other readers than the data. Of the rows themselves
there are eight bytes each of a digest, by which the next version of the dataset is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FOLDER = "record"
CARD, REPRODUCE, METRICS = "README.md", "reproduce.json", "metrics.json"
#: Key of REPRODUCE: the digest of the weights, in hex. All else in it is what they hang on.
ADAPTER_SHA256 = "adapter_sha256"
DATASET_REPORT, DATASET_PAGE = "dataset.json", "dataset.html"
#: Named for its form: a step of another release takes no other for its own.
ROW_DIGESTS = "rows.xxh3"
#: What releases before wrote in its place.
FORMER_ROW_DIGESTS = "rows.digests"


@dataclass(frozen=True)
class Artifact:
    """One referrer: its type, and its files with their media types in their order."""

    artifact_type: str
    files: Mapping[str, str]


TUNING = Artifact(
    "application/vnd.kaito.tuning.record.v1+json",
    {CARD: "text/markdown", REPRODUCE: "application/json", METRICS: "application/json"},
)
DATASET = Artifact(
    "application/vnd.kaito.dataset.report.v1+json",
    {DATASET_REPORT: "application/json", DATASET_PAGE: "text/html"},
)
ROWS = Artifact("application/vnd.kaito.dataset.rows.v2", {ROW_DIGESTS: "application/octet-stream"})
#: What lies beside adapters of earlier releases, and is still compared with.
FORMER_ROWS = "application/vnd.kaito.dataset.rows.v1"
