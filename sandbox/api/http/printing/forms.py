"""Objects in the form a client asked for: as they are, as metadata only, or as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError
from sandbox.api.http.negotiation import wanted_form
from sandbox.api.http.printing.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Entry

Json = dict[str, Any]

_META = "meta.k8s.io/v1"


class Former:
    def __init__(self, request: web.Request, info: Resource) -> None:
        self.form = wanted_form(request)
        self._info = info
        self._include = request.query.get("includeObject") or "Metadata"
        if self.form.shape not in ("", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
            raise ApiError(406, "NotAcceptable", f"there is no form {self.form.shape} of {info.plural}")

    def one(self, obj: Json) -> Json:
        """One object; a Status stays a Status."""
        if obj.get("kind") == "Status" or not self.form.shape:
            return obj
        if self.form.shape == "Table":
            return table(
                self._info,
                [obj],
                {"resourceVersion": obj["metadata"].get("resourceVersion", "")},
                self._include,
            )
        return _partial(obj)

    def list(self, objects: list[Json], metadata: Json) -> Json:
        if self.form.shape == "Table":
            return table(self._info, objects, metadata, self._include)
        if self.form.shape:
            items = [_partial(obj) for obj in objects]
            return {
                "kind": "PartialObjectMetadataList",
                "apiVersion": _META,
                "metadata": metadata,
                "items": items,
            }
        return {
            "kind": self._info.list_name,
            "apiVersion": self._info.api_version,
            "metadata": metadata,
            "items": [self._item(obj) for obj in objects],
        }

    def _item(self, obj: Json) -> Json:
        """Items of built-in lists do not repeat their kind; those of custom resources do."""
        if self._info.custom is not None:
            return obj
        return {k: v for k, v in obj.items() if k not in ("kind", "apiVersion")}

    def item_text(self, entry: Entry) -> bytes:
        if self._info.custom is not None:
            return entry.text()
        head = f'{{"kind":"{self._info.kind}","apiVersion":"{self._info.api_version}",'.encode()
        text = entry.text()
        return b"{" + text[len(head) :] if text.startswith(head) else text

    def watch_shape(self) -> Callable[[Json], Json] | None:
        """How each watched object is shaped; None for as it is."""
        return self.one if self.form.shape else None


def _partial(obj: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": obj["metadata"]}
