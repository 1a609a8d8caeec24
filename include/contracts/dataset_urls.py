"""The URLs that a dataset may come from, taken apart: http(s), a hub's datasets (hf), and object stores (s3, gs, abfs).

Each leads to one https URL, which is what is connected to and so what the network policy judges. `check`, the watch of
a retraining and the dataset's pod all read a URL here. Nothing here resolves, signs or opens anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from include.contracts.faults import did_you_mean
from include.contracts.network_policy import SCHEMES, NetworkPolicy, Place, Refused
from include.contracts.redaction import CUT
from include.contracts.revisions import is_commit

HF, S3, GS, ABFS = "hf", "s3", "gs", "abfs"
STORES = (S3, GS, ABFS)
ALL_SCHEMES = (*SCHEMES, HF, *STORES)
#: Other spellings that people's tools take.
_ALSO = {"abfss": ABFS, "gcs": GS, "s3a": S3, "s3n": S3}
SPELLINGS = (*ALL_SCHEMES, *_ALSO)
WILDCARD = "*"
HUB = "https://huggingface.co"
GOOGLE = "https://storage.googleapis.com"
DEFAULT_REGION = "us-east-1"
ENDPOINT, REGION, SPLIT, SUBSET = "endpoint", "region", "split", "subset"
_PARAMETERS = {HF: (ENDPOINT, SPLIT, SUBSET), S3: (ENDPOINT, REGION), GS: (), ABFS: (ENDPOINT,)}
#: Azure's public cloud and its national ones, in which an account's blobs are at another name than its file system.
_AZURE = re.compile(
    r"(?P<account>[a-z0-9]{3,24})\.(?:dfs|blob)\.(?P<cloud>core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net))"
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)
_CONTAINER = re.compile(r"\$(?:root|web)|[a-z0-9](?:-?[a-z0-9]){2,62}", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{2,40}", re.ASCII)
_DATASET = re.compile(r"[A-Za-z0-9_.-]{1,96}(?:/[A-Za-z0-9_.-]{1,96})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]{0,200}", re.ASCII)
_DOUBLE = ("has **, which is not read", "a / at the end means all files below, and a * any part of one name")
_EXAMPLES = {
    HF: "write hf://datasets/ORG/NAME@REVISION, with ?split=train where it has several",
    S3: "write s3://BUCKET/KEY?region=REGION",
    GS: "write gs://BUCKET/KEY",
    ABFS: "write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH",
}


class _Listing:
    """What names one file, or means several by a pattern: a folder with a slash at its end, or a `*`."""

    __slots__ = ()

    @property
    def pattern(self) -> str:
        raise NotImplementedError

    @property
    def is_listing(self) -> bool:
        """Whether it means files that it does not name."""
        return not self.pattern or self.pattern.endswith("/") or WILDCARD in self.pattern

    def means(self, name: str) -> bool:
        """Whether the pattern means the file of this name; a `*` stands for any characters but a slash."""
        if WILDCARD not in self.pattern:
            return name.startswith(self.pattern)
        names = "" if not self.pattern.endswith("/") else ".*"
        return bool(re.fullmatch("[^/]*".join(map(re.escape, self.pattern.split(WILDCARD))) + names, name))


@dataclass(frozen=True, slots=True)
class HubDataset(_Listing):
    """A dataset on a hub, or files of it where `path` is set; revision "main" where none is given."""

    endpoint: str
    name: str
    revision: str
    path: str = ""
    split: str = ""
    subset: str = ""

    @property
    def pattern(self) -> str:
        return self.path

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which stands for the same files for good."""
        return is_commit(self.revision)

    @property
    def plain(self) -> str:
        """The https URL of the file, or of what the hub says about the dataset."""
        revision = quote(self.revision, safe="")
        if not self.is_listing:
            return f"{self.endpoint}/datasets/{self.name}/resolve/{revision}/{quote(self.path)}"
        return f"{self.endpoint}/api/datasets/{self.name}/revision/{revision}"

    def file(self, path: str, commit: str) -> str:
        """The hf:// URL of one of its files at a commit."""
        own = "" if self.endpoint == HUB else f"?{ENDPOINT}={quote(self.endpoint, safe='')}"
        return f"hf://datasets/{self.name}@{commit}/{quote(path)}{own}"


@dataclass(frozen=True, slots=True)
class StoredObject(_Listing):
    """One object of a store; `base` is the https URL of the store, to which bucket (or container) and key are added.

    A key that ends with a slash, or has a `*`, means all objects below it, or of such names (`is_listing`).
    """

    scheme: str
    base: str
    bucket: str
    key: str
    region: str = ""
    account: str = ""
    own_endpoint: bool = False

    @property
    def plain(self) -> str:
        """The https URL of the object, without a signature."""
        return f"{self.base}/{self.bucket}/{quote(self.key, safe='/~')}"

    @property
    def pattern(self) -> str:
        return self.key

    @property
    def prefix(self) -> str:
        """What the keys of all objects that a listing means begin with."""
        return self.key.partition(WILDCARD)[0]


def scheme_of(url: str) -> str:
    """The scheme in its usual spelling, "" where there is none."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,40}):", url)
    scheme = found[1].lower() if found else ""
    return _ALSO.get(scheme, scheme)


def parse_url(url: str) -> HubDataset | StoredObject | None:
    """What a URL of a hub or a store names; None for http and https. Raises Refused, also for any other scheme."""
    scheme = scheme_of(url)
    if scheme in SCHEMES or not scheme:
        return None
    if scheme not in ALL_SCHEMES:
        close = did_you_mean(scheme, ALL_SCHEMES)
        message = f"{scheme}:// is not a scheme that data is read from"
        hint = close if close.startswith("did") else f"use {', '.join(ALL_SCHEMES)}; a volume or an image"
        raise Refused(message, hint)
    example = _EXAMPLES[scheme]
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise Refused("is not a URL", f"{example}, with spaces as %20")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Refused("is not a URL", example) from None
    given = _parameters(scheme, parts)
    return _hub(parts, given) if scheme == HF else _stored(scheme, parts, given)


def plain_url(url: str) -> str:
    """The http(s) URL that is connected to for a dataset URL. Raises Refused."""
    found = parse_url(url)
    return found.plain if found else url


def is_whole_dataset(url: str) -> bool:
    """Whether a URL means files that it does not name: of a hub's dataset, or below a folder of a store."""
    try:
        found = parse_url(url)
    except Refused:
        return False
    return found is not None and found.is_listing


def check_url(policy: NetworkPolicy, url: str) -> Place:
    """A dataset's URL of any scheme as far as its text says; where it leads. Raises Refused."""
    return policy.check_dataset(plain_url(url))


def _parameters(scheme: str, parts: SplitResult) -> Mapping[str, str]:
    pairs = parse_qsl(parts.query.removeprefix(CUT[1:]), keep_blank_values=True)  # it may have been redacted
    known = _PARAMETERS[scheme]
    for name, _ in pairs:
        if name not in known:
            hint = did_you_mean(name, known) or _EXAMPLES[scheme]
            raise Refused(f"{scheme}:// takes no parameter {name[:40]!r}", hint)
    given = dict(pairs)
    if parts.fragment or len(given) != len(pairs):
        raise Refused("has a fragment or a parameter twice", _EXAMPLES[scheme])
    return given


def _endpoint(given: Mapping[str, str]) -> str:
    """The store's own address that a URL names, without a slash at its end; "" for none."""
    endpoint = given.get(ENDPOINT)
    if endpoint is None:
        return ""
    hint = f"{ENDPOINT} is the address of the store, such as https://minio.example.com"
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        raise Refused(f"its {ENDPOINT} is not a URL", hint) from None
    if parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.fragment or "@" in endpoint:
        raise Refused(f"its {ENDPOINT} is not an http or https address", hint)
    return endpoint.rstrip("/")


def _hub(parts: SplitResult, given: Mapping[str, str]) -> HubDataset:
    example = _EXAMPLES[HF]
    if parts.netloc != "datasets":
        raise Refused("names no dataset of a hub", example)
    segments = parts.path.removeprefix("/").split("/")
    # A dataset of the hub's own has no organisation: datasets/squad@main/file.
    named = 1 if "@" in segments[0] else 2
    name, _, revision = "/".join(segments[:named]).partition("@")
    revision, file = unquote(revision) or "main", unquote("/".join(segments[named:]))
    if not _DATASET.fullmatch(name) or ".." in name:
        raise Refused("names no dataset of a hub", example)
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise Refused("its revision is not a commit, a branch or a tag", example)
    if "**" in file:
        raise Refused(*_DOUBLE)
    if not _is_clean(file.removesuffix("/"), empty=True):
        raise Refused("its path is not one of a file", example)
    split, subset = given.get(SPLIT, ""), given.get(SUBSET, "")
    if file and (split or subset):
        raise Refused("names a file, which has no split and no subset", "leave out one of them")
    return HubDataset(_endpoint(given) or HUB, name, revision, file, split, subset)


def _stored(scheme: str, parts: SplitResult, given: Mapping[str, str]) -> StoredObject:
    example, key, endpoint = _EXAMPLES[scheme], unquote(parts.path.removeprefix("/")), _endpoint(given)
    if "**" in key:
        raise Refused(*_DOUBLE)
    if not _is_clean(key.removesuffix("/"), empty=parts.path == "/"):
        raise Refused("names no object: a key without empty, . or .. parts", example)
    if scheme == ABFS:
        return _blob(parts.netloc, key, endpoint)
    if not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc:
        raise Refused("its bucket is not the name of one", example)
    if scheme == GS:
        return StoredObject(GS, GOOGLE, parts.netloc, key)
    region = given.get(REGION, "")
    if region and not _REGION.fullmatch(region):
        raise Refused(f"its {REGION} is not one, such as eu-west-1", example)
    base = endpoint or f"https://s3.{region or DEFAULT_REGION}.amazonaws.com"
    return StoredObject(S3, base, parts.netloc, key, region or DEFAULT_REGION, "", bool(endpoint))


def _blob(authority: str, key: str, endpoint: str) -> StoredObject:
    example = _EXAMPLES[ABFS]
    container, _, host = authority.partition("@")
    found = _AZURE.fullmatch(host.lower())
    if not _CONTAINER.fullmatch(container):
        raise Refused("its container is not the name of one", example)
    if endpoint and re.fullmatch(r"[a-z0-9]{3,24}", host):
        return StoredObject(ABFS, endpoint, container, key, "", host, True)
    if endpoint or not found:
        right = f"with {ENDPOINT}, write abfs://CONTAINER@ACCOUNT/PATH" if endpoint else example
        raise Refused("names no storage account", right)
    base = f"https://{found['account']}.blob.{found['cloud']}"
    return StoredObject(ABFS, base, container, key, "", found["account"])


def _is_clean(path: str, empty: bool = False) -> bool:
    """Whether a path means what it says: clients take `.`, `..` and empty parts out of what they sign."""
    if not path:
        return empty
    if re.search(r"[\x00-\x1f\x7f\\]", path):
        return False
    return not any(part in ("", ".", "..") for part in path.split("/"))
