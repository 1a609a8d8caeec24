"""Which files a dataset's URL means where it does not name them: a hub's split, or objects below a folder of a store.

A folder (a slash at the end) means all files of a known kind below it, a `*` any characters of one name; in the order
of their keys. A store is asked page by page, within limits on its answers, and before anything is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit
from xml.etree import ElementTree

from include.contracts.dataset_urls import ABFS, StoredObject, parse_url
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.dataset import hub_files
from include.workloads.dataset.connection import PassingFault, shown
from include.workloads.dataset.hub_files import MAX_FILES, is_data
from include.workloads.dataset.sniff import ACCEPTED
from include.workloads.dataset.store_client import Opens, StoreClient

#: Answers of a thousand objects each, and bytes of one: a key has up to 1,024, and some hundred stand around it.
MAX_PAGES, MAX_PAGE = 200, 8 << 20


@dataclass(frozen=True, order=True, slots=True)
class Listed:
    """An object as its store lists it; `size` in bytes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class _Form:
    """How a store is asked for a page, and where its answer has what."""

    query: Mapping[str, str]
    after: str
    next: str
    item: str
    name: str


_AZURE = _Form({"restype": "container", "comp": "list"}, "marker", "NextMarker", "Blobs/Blob", "Name")
#: Also Google's, whose XML API speaks as S3 does.
_S3 = _Form({"list-type": "2"}, "continuation-token", "NextContinuationToken", "Contents", "Key")


def expand(client: Opens, url: str, max_bytes: int) -> list[str]:
    """The URLs of the files that a URL means: itself where it names one.

    :param max_bytes: that a store's files may have together, by what it says of them.

    Raises PassingFault, UserConfigError or UserDataError.
    """
    found = parse_url(url)
    if not isinstance(found, StoredObject) or not found.is_listing:
        return hub_files.expand(client, url)
    files = listed(client, url, found)
    if (total := sum(file.size for file in files)) > max_bytes:
        raise UserDataError(
            f"{shown(url)} is {len(files)} files of {total >> 20} MiB, over the limit of {max_bytes >> 20} MiB "
            "(DATASET_MAX_BYTES); name fewer of them."
        )
    parts = urlsplit(url)
    return [urlunsplit(parts._replace(path=f"/{quote(file.key, safe='/~')}")) for file in files]


def mark_of(client: Opens, url: str) -> str:
    """What stands for the files that a URL of a store means as they are now. Raises as `expand`."""
    found = parse_url(url)
    files = listed(client, url, found) if isinstance(found, StoredObject) else []
    text = "".join(f"{file.key}\0{file.etag}\0{file.size}\n" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()


def listed(client: Opens, url: str, found: StoredObject) -> list[Listed]:
    """The objects that a folder or a pattern means, in the order of their keys; empty ones are left out."""
    if not isinstance(client, StoreClient):
        raise UserConfigError(f"{shown(url)} is a folder, and this client opens files only.")
    files = []
    for file in _pages(client, url, found):
        if (
            found.means(file.key)
            and file.size
            and is_data(file.key.removeprefix(found.prefix.rpartition("/")[0]))
        ):
            files.append(file)
        if len(files) > MAX_FILES:
            raise UserDataError(f"{shown(url)} is more than {MAX_FILES} files; name those that are wanted.")
    if not files:
        raise UserDataError(f"{shown(url)} means no file in {ACCEPTED}.")
    return sorted(files)


def _pages(client: StoreClient, url: str, found: StoredObject) -> Iterator[Listed]:
    form = _AZURE if found.scheme == ABFS else _S3
    query = {**form.query, "prefix": found.prefix}
    for _ in range(MAX_PAGES):
        answer = client.listing(found, query)
        try:
            text = answer.read(MAX_PAGE + 1)
        finally:
            answer.close()
        page = _parsed(text)
        yield from (_object(one, form) for one in page.findall(form.item))
        after = page.findtext(form.next) or ""
        if not after:
            return
        query[form.after] = after
    raise UserDataError(
        f"{shown(url)} lies among more than {MAX_PAGES * 1000} objects; write a longer prefix."
    )


def _parsed(text: bytes) -> ElementTree.Element:
    """A store's answer without its namespace. It declares nothing of its own: no entity can grow."""
    try:
        if len(text) > MAX_PAGE or b"<!" in text:
            raise PassingFault("the store's list of its objects is no such list")
        page = ElementTree.fromstring(text)  # noqa: S314 - bounded, and without declarations
    except ElementTree.ParseError:
        raise PassingFault("the store's list of its objects is no XML") from None
    for node in page.iter():
        node.tag = node.tag.rpartition("}")[2]
    return page


def _object(node: ElementTree.Element, form: _Form) -> Listed:
    inside = node.find("Properties") if form is _AZURE else node
    said = node if inside is None else inside
    size = said.findtext("Content-Length" if form is _AZURE else "Size") or ""
    etag = said.findtext("Etag" if form is _AZURE else "ETag") or ""
    return Listed(node.findtext(form.name) or "", int(size) if size.isdecimal() else 0, etag.strip('"'))
