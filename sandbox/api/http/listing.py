"""Lists: selectors, pages that stay consistent, and the version that each list is of."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError, bad_request, expired

if TYPE_CHECKING:
    from sandbox.api.cluster import Cluster
    from sandbox.api.http.address import Address
    from sandbox.api.storage.database import Entry

Json = dict[str, Any]

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter."
)


@dataclass
class Page:
    entries: list[Entry]
    revision: int
    token: str = ""
    remaining: int | None = None

    def metadata(self) -> Json:
        result: Json = {"resourceVersion": str(self.revision)}
        if self.token:
            result["continue"] = self.token
            if self.remaining is not None:
                result["remainingItemCount"] = self.remaining
        return result


def number(query: Mapping[str, str], name: str) -> int:
    """A whole number from the query, 0 when absent; raises ApiError (400)."""
    text = query.get(name) or "0"
    try:
        return int(text)
    except ValueError as error:
        raise bad_request(f'Invalid value: "{text}": {name} must be a whole number') from error


def listed(cluster: Cluster, address: Address, query: Mapping[str, str]) -> Page:
    """The page of a collection that a query asks for."""
    info, storage = address.info, cluster.storage
    storage.log(info.key)  # changes are kept from here on: a watch will go on from this list's version
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    if address.name is not None:
        fields = f"{fields},metadata.name={address.name}" if fields else f"metadata.name={address.name}"
    matches = cluster.predicate(info, labels, fields)
    limit, start, revision = number(query, "limit"), None, storage.revision
    exact = _exact_revision(cluster, query)
    if token := query.get("continue"):
        revision, start = _decoded(token)
    elif exact is not None:
        revision = exact
    if revision == storage.revision:
        entries = storage.entries(info.key, address.namespace)
    else:
        try:
            entries = storage.snapshot(info.key, address.namespace, revision)
        except ApiError as error:
            raise expired(_TOO_OLD if token else error.message) from error
    result = [
        (key, entry)
        for key, entry in entries
        if (start is None or key >= start) and (matches is None or matches(entry.obj))
    ]
    if not limit or len(result) <= limit:
        return Page([entry for _, entry in result], revision)
    page = Page([entry for _, entry in result[:limit]], revision, _encoded(revision, result[limit][0]))
    if matches is None:
        page.remaining = len(result) - limit
    return page


def _exact_revision(cluster: Cluster, query: Mapping[str, str]) -> int | None:
    """What resourceVersion and resourceVersionMatch ask for; None for the newest."""
    version, match = number(query, "resourceVersion"), query.get("resourceVersionMatch", "")
    if match not in ("", "Exact", "NotOlderThan"):
        raise bad_request(f'resourceVersionMatch: Unsupported value: "{match}"')
    current = cluster.storage.revision
    if version > current:
        message = f"Too large resource version: {version}, current: {current}"
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        raise ApiError(504, "Timeout", message, {"causes": [cause]}, retry_after=1)
    return version if match == "Exact" and version else None


def _encoded(revision: int, key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps({"rv": revision, "start": key}).encode()).decode().rstrip("=")


def _decoded(token: str) -> tuple[int, tuple[str, str]]:
    try:
        value = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = value["start"]
        return int(value["rv"]), (str(namespace), str(name))
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise bad_request("continue key is not valid: it was not made by this server") from error
