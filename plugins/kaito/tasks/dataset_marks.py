"""Asks the servers of a dataset what they say of it, without fetching it: ETag, Last-Modified, size.

The same walls stand here as in the dataset's pod: each address is checked and pinned, each redirect anew, and a signed
URL is neither logged nor kept. A server that cannot be asked says nothing: then the content decides.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from include.contracts.network_policy import NetworkPolicy
from include.retraining.dataset_watch import Mark
from kaito.settings import manifest_settings

log = logging.getLogger(__name__)

SECONDS = 20.0
#: One byte is asked for, since not every server answers HEAD as it answers GET.
HEADERS = {"Range": "bytes=0-0"}


def marks(document: Mapping[str, Any]) -> list[Mark]:
    """Return a mark for each source, in their order; an empty one for a source that says nothing."""
    source = (document.get("tuning") or {}).get("input") or {}
    urls = source.get("urls") or ()
    return [_mark(str(url)) for url in urls] if urls else [Mark()]


def _mark(url: str) -> Mark:
    from include.workloads.contract import UserConfigError, UserDataError
    from include.workloads.dataset.connection import PassingFault, PinnedClient, shown
    from include.workloads.network import AddressPolicy

    settings = manifest_settings()
    policy = AddressPolicy(NetworkPolicy.of(settings.allowed_networks, settings.insecure_registries))
    client = PinnedClient(policy=policy, read_seconds=SECONDS, header_seconds=SECONDS)
    try:
        answer = client.open(url, HEADERS)
    except (PassingFault, UserConfigError, UserDataError) as error:
        log.warning("%s cannot be asked whether it has changed: %s", shown(url), error)
        return Mark()
    headers = answer.headers
    answer.close()
    size = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    return Mark(headers.get("ETag", ""), headers.get("Last-Modified", ""), size if size.isdigit() else "")
