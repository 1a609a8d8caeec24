"""What the parts of a write may ask of the cluster that they serve.

The cluster is made of these parts, so none of them imports it: they know this protocol only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.kinds.resources import Kinds, Resource
    from sandbox.api.kinds.strategy import Site
    from sandbox.api.storage.database import Key, Storage
    from sandbox.api.writes.options import WriteOptions

Json = dict[str, Any]


class Store(Protocol):
    """Objects by (kind, key), and writes to them that give up no control half way."""

    root_certificate: str  # PEM, once a server publishes one
    known_events: dict[tuple[str | None, ...], str]  # what an event says -> its name, to count it

    @property
    def storage(self) -> Storage: ...

    @property
    def kinds(self) -> Kinds: ...

    @property
    def site(self) -> Site: ...

    def stored(self, info: Resource, key: Key) -> Json:
        """The stored object, never to be changed; raises ApiError (404)."""
        ...

    def create_now(
        self, info: Resource, obj: Json, namespace: str | None = None, options: WriteOptions | None = None
    ) -> Json: ...

    def change_now(
        self,
        info: Resource,
        key: Key,
        change: Callable[[Json], Json],
        subresource: str | None = None,
        options: WriteOptions | None = None,
    ) -> Json: ...

    def delete_now(self, info: Resource, key: Key, options: Json, dry_run: bool = False) -> Json: ...

    def put(self, info: Resource, key: Key, new: Json) -> Json:
        """Write without checks; keeps `new`."""
        ...

    def put_or_finish(self, info: Resource, key: Key, new: Json) -> Json:
        """Write without checks, or drop the object when this write ends its deletion."""
        ...

    def drop(self, info: Resource, key: Key) -> Json:
        """Remove for good."""
        ...
