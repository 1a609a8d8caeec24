"""Asks the servers of a dataset what they say of it, without fetching it.

That is ETag, Last-Modified, size, the version of an object, a hub's commit, and an image's digest.

The same walls stand here as in the dataset's pod: each address is checked and pinned, each redirect anew, and a signed
URL is neither logged nor kept. A private dataset's header goes where the dataset's pod may send it, and nowhere else. A
server that cannot be asked says nothing: then the content decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from include.contracts.dataset_keys import misuse
from include.contracts.dataset_urls import HF, is_whole_dataset, scheme_of
from include.contracts.image_reference import InvalidReference, parse_reference
from include.retraining.dataset_watch import Mark
from include.workspace.api import names
from kaito.tasks.docker_config import docker_config
from kaito.tasks.private_hosts import network_policy, value_in

if TYPE_CHECKING:
    from include.workloads.dataset.credentials import Credentials
    from include.workloads.dataset.store_client import StoreClient

log = logging.getLogger(__name__)

SECONDS = 20.0
#: One byte is asked for, since not every server answers HEAD as it answers GET.
HEADERS = {"Range": "bytes=0-0"}
#: A hub's commit and the content's own tag. It says them where it redirects to the store that has the file.
COMMIT, LINKED_TAG, LINKED_SIZE = "X-Repo-Commit", "X-Linked-ETag", "X-Linked-Size"
#: How S3, Google Cloud Storage and Azure Blob Storage name the version of an object.
VERSIONS = ("x-amz-version-id", "x-goog-generation", "x-ms-version-id")
#: What S3 says of an object that was written while its bucket kept no versions: it may be written again.
UNVERSIONED = "null"


def marks(
    document: Mapping[str, Any], secret: Callable[[str], Mapping[str, Any] | None] = lambda _: None
) -> list[Mark]:
    """Return a mark for each source, in their order; an empty one for a source that says nothing.

    :param secret: looks a Secret of the Workspace's namespace up, for an image's registry or a private dataset's host.
    """
    source = (document.get("tuning") or {}).get("input") or {}
    if urls := source.get("urls"):
        return _url_marks(document, [str(url) for url in urls], secret)
    if image := source.get("image"):
        found = [known for name in source.get("imagePullSecrets") or () if (known := secret(str(name)))]
        return [_image_mark(str(image), found)]
    return [Mark()]


def _image_mark(image: str, secrets: Sequence[Mapping[str, Any]]) -> Mark:
    """The digest that a tag holds now: another one is another dataset."""
    from include.workloads.contract import UserConfigError
    from include.workloads.oci.asking import Unanswered
    from include.workloads.oci.credentials import credentials_in
    from include.workloads.oci.listing import Listing, Refused

    try:
        reference = parse_reference(image)
        texts = [text for one in secrets if (text := docker_config(one))]
        given = (credentials_in(text, reference) for text in texts)
        listing = Listing(reference, next((one for one in given if one), None), network_policy())
        return Mark(digest=reference.digest or listing.digest(reference.version) or "")
    except (InvalidReference, Refused, Unanswered, UserConfigError) as error:
        log.warning("%s cannot be asked whether it has changed: %s", image, error)
        return Mark()


def _url_marks(
    document: Mapping[str, Any], urls: Sequence[str], secret: Callable[[str], Mapping[str, Any] | None]
) -> list[Mark]:
    from include.workloads.contract import UserConfigError
    from include.workloads.dataset.credentials import Credentials

    annotations = (document.get("metadata") or {}).get("annotations") or {}
    if annotations.get(names.DATASET_IDENTITY):
        return [Mark() for _ in urls]  # the identity is the dataset pod's, and not ours
    name = annotations.get(names.DATASET_CREDENTIALS)
    held = (secret(str(name)) or {}) if name and not misuse(urls) else {}
    try:
        credentials = Credentials.of(urls, lambda key: value_in(held, key))
    except UserConfigError as error:
        log.warning("The Secret %s cannot be used: %s", name, error)
        credentials = Credentials()
    return [_mark(url, credentials) for url in urls]


def _mark(url: str, credentials: Credentials) -> Mark:
    from include.workloads.contract import UserConfigError, UserDataError
    from include.workloads.dataset.connection import PassingFault, PinnedClient, shown
    from include.workloads.dataset.store_client import StoreClient
    from include.workloads.network import AddressPolicy

    told: list[Mapping[str, str]] = []
    client = PinnedClient(
        policy=AddressPolicy(network_policy()),
        read_seconds=SECONDS,
        header_seconds=SECONDS,
        on_redirect=told.append,
    )
    try:
        opener = StoreClient.of(client, credentials)
        if is_whole_dataset(url):
            return _whole(opener, url)
        answer = opener.open(url, HEADERS)
    except (PassingFault, UserConfigError, UserDataError) as error:
        log.warning("%s cannot be asked whether it has changed: %s", shown(url), error)
        return Mark()
    answer.close()
    return _mark_of(answer.headers, [*told, answer.headers])


def _whole(client: StoreClient, url: str) -> Mark:
    """A hub's dataset without a file's name: its commit stands for all its files. Of a store, what it lists does."""
    from include.workloads.dataset.hub_files import commit_of
    from include.workloads.dataset.listing import mark_of

    if scheme_of(url) == HF:
        return Mark(commit=commit_of(client, url))
    return Mark(etag=mark_of(client, url))


def _mark_of(last: Mapping[str, str], hops: Sequence[Mapping[str, str]]) -> Mark:
    """From the headers of the answer that has the file, and of every answer on the way to it, in their order."""
    size = last.get("Content-Range", "").rpartition("/")[2] or last.get("Content-Length", "")
    size = _first(hops, LINKED_SIZE) or size
    version = next((value for name in VERSIONS if (value := last.get(name, ""))), "")
    return Mark(
        etag=_first(hops, LINKED_TAG) or last.get("ETag", ""),
        modified=last.get("Last-Modified", ""),
        size=size if size.isdigit() else "",
        commit=_first(hops, COMMIT),
        version="" if version == UNVERSIONED else version,
    )


def _first(hops: Sequence[Mapping[str, str]], name: str) -> str:
    return next((value for hop in hops if (value := hop.get(name, ""))), "")
