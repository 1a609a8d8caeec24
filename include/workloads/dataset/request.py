"""What one dataset run is asked for, read from the pod's environment and checked before anything is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from include.contracts.dataset_links import page_fault
from include.contracts.dataset_urls import check_url
from include.contracts.network_policy import NetworkPolicy, Refused
from include.contracts.redaction import redact_url
from include.workloads.contract import UserConfigError, comma_list
from include.workloads.dataset.credentials import Credentials
from include.workloads.dataset.credentials import from_environment as given_credentials
from include.workloads.dataset.fetch import Limits
from include.workloads.dataset.options import Options, read_options
from include.workloads.network import network_policy

# Part of the fingerprint of a finished output: raise it when what is written changes, or how it is known.
NORMALISER = 3
#: The last number under which the rows were written with the same values, but known by other digests.
FORMER_NORMALISER = 2
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """Exactly one of `urls`, `folder` and `image` is set."""

    output: Path
    urls: tuple[str, ...] = ()
    folder: Path | None = None
    image: str | None = None
    expected_sha256: tuple[str, ...] = ()
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
    limits: Limits = field(default_factory=Limits)
    options: Options = field(default_factory=Options)
    credentials: Credentials = field(default_factory=Credentials, repr=False)
    #: The digests of the rows that were learnt from last, as the referrer that has them, by digest.
    known_rows: str = ""
    #: Whether the step's result shows the first rows.
    samples: bool = True

    @property
    def fingerprint(self) -> str:
        """Same request, same value; a hash, because URLs may hold signatures."""
        return self._fingerprint(NORMALISER)

    @property
    def former_fingerprint(self) -> str:
        """The fingerprint that the releases before gave this request."""
        return self._fingerprint(FORMER_NORMALISER)

    def _fingerprint(self, normaliser: int) -> str:
        asked: list[object] = [
            normaliser,
            list(self.urls),
            str(self.folder),
            self.image,
            list(self.expected_sha256),
        ]
        asked.append(self.options.identity)
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def from_environment() -> Request:
    """The request in DATASET_*; UserConfigError says which variable is wrong and how."""
    policy = network_policy()
    urls = _urls(policy)
    folder = os.environ.get("DATASET_PATH", "").strip()
    image = os.environ.get("DATASET_IMAGE", "").strip()
    if sum(map(bool, (urls, folder, image))) != 1:
        raise UserConfigError(
            "The dataset must come from exactly one of URLs, a volume and an image "
            "(DATASET_URLS, DATASET_PATH, DATASET_IMAGE)."
        )
    return Request(
        output=Path(os.environ.get("DATASET_OUTPUT") or "/mnt/data"),
        urls=urls,
        folder=Path(folder) if folder else None,
        image=image or None,
        expected_sha256=_expected(len(urls)),
        network=policy,
        limits=Limits(
            max_bytes=_positive("DATASET_MAX_BYTES", Limits.max_bytes),
            max_seconds=_positive("DATASET_MAX_SECONDS", int(Limits.max_seconds)),
        ),
        options=read_options(),
        credentials=given_credentials(urls),
        known_rows=os.environ.get("KNOWN_ROWS", "").strip(),
        samples=os.environ.get("DATASET_SAMPLES", "").strip().lower() != "false",
    )


def _urls(policy: NetworkPolicy) -> tuple[str, ...]:
    text = os.environ.get("DATASET_URLS", "").strip()
    if not text:
        return ()
    try:
        urls = json.loads(text)
    except ValueError:
        urls = None
    if not isinstance(urls, list) or not all(isinstance(url, str) and url.strip() for url in urls):
        raise UserConfigError("DATASET_URLS is not a JSON list of URLs.")
    stripped = tuple(url.strip() for url in urls)
    for url in stripped:
        try:
            check_url(policy, url)
        except Refused as refused:
            hint = f"; {refused.hint}" if refused.hint else ""
            raise UserConfigError(f"{redact_url(url)}: {refused}{hint}.") from None
        if told := page_fault(url):
            raise UserConfigError(f"{redact_url(url)} {told[0]}: {told[1]} instead.")
    return stripped


def _expected(count: int) -> tuple[str, ...]:
    found = []
    for text in comma_list("DATASET_EXPECTED_SHA256"):
        match = _SHA256.fullmatch(text)
        if match is None:
            raise UserConfigError(f"DATASET_EXPECTED_SHA256: {text!r} is not a SHA-256 (64 hex digits).")
        found.append(match.group(1).lower())
    if found and len(found) != count:
        raise UserConfigError(
            f"DATASET_EXPECTED_SHA256 has {len(found)} values for {count} URLs; give one for each, in order."
        )
    return tuple(found)


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or int(text) == 0:
        raise UserConfigError(f"{name}={text!r} is not a number above 0.")
    return int(text)
