"""Opens a dataset's URL of any scheme: what http(s), a hub and the object stores have in common is one https request.

All of them go through the same `PinnedClient`: addresses are judged, a store's answers are never followed to another
place, and no key goes to a host that it is not for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import urllib3

from include.contracts.dataset_keys import HUB_TOKEN, keys_of
from include.contracts.dataset_urls import HubDataset, StoredObject, parse_url
from include.contracts.network_policy import Refused
from include.workloads.contract import UserConfigError
from include.workloads.dataset.connection import PinnedClient, shown
from include.workloads.dataset.credentials import Credentials
from include.workloads.dataset.identity import Identity
from include.workloads.dataset.signing import Query, signed


class Opens(Protocol):
    """What a download needs of a client."""

    def open(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The unread response with status 200, 206, 304 or 416. Raises PassingFault, UserConfigError, UserDataError."""


@dataclass(frozen=True)
class StoreClient:
    """A client for all schemes, with the credentials of one dataset."""

    client: PinnedClient
    credentials: Credentials
    identity: Identity | None = None

    @classmethod
    def of(cls, client: PinnedClient, credentials: Credentials) -> StoreClient:
        """Over a client that has no credentials yet."""
        plain = replace(client, authorization=credentials.authorization)
        return cls(plain, credentials, Identity(client) if credentials.identity else None)

    def open(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """As `Opens` says; each opening has a signature of its own."""
        try:
            found = parse_url(url)
        except Refused as refused:
            raise UserConfigError(f"{shown(url)} {refused}; {refused.hint}.") from None
        if isinstance(found, StoredObject):
            return self._stored(found, headers)
        if isinstance(found, HubDataset):
            return self._hub(found, headers)
        return self.client.open(url, headers)

    def listing(self, found: StoredObject, query: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The unread answer of a store that is asked which objects it has. Raises as `open`."""
        return self._stored(found, {}, query)

    def _stored(
        self, found: StoredObject, headers: Mapping[str, str], listing: Query = None
    ) -> urllib3.BaseHTTPResponse:
        mine = self.identity
        asked = mine.request(found, listing) if mine else signed(found, self.credentials, listing)
        client = replace(self.client, authorization="")
        denied = self._denied(found.scheme) + (
            "" if listing is None else "; to list objects is a right of its own"
        )
        return client.open(asked.url, {**headers, **asked.headers}, denied=denied, redirects=0)

    def _hub(self, found: HubDataset, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        token = self.credentials.get(HUB_TOKEN)
        client = replace(self.client, authorization=f"Bearer {token}" if token else "")
        return client.open(found.plain, headers, denied=self._denied("hf"))

    def _denied(self, scheme: str) -> str:
        if self.identity:
            return "the service account of kaito.sh/dataset-identity may not read it, or it does not exist"
        keys = keys_of(scheme)
        if any(map(self.credentials.get, keys.all)):
            return "the Secret of kaito.sh/dataset-secret has no access to it, or has run out"
        wanted = " and ".join(keys.required) or " or ".join(keys.one_of)
        return f"it is not public; name a Secret with {wanted} in the annotation kaito.sh/dataset-secret"
