"""What kinds of objects the cluster serves: the fixed ones and those that CustomResourceDefinitions add.

A `Resource` is one served version of a kind; versions of one kind share one place in the store (`Resource.key`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sandbox.api.errors import ApiError, qualified

Json = dict[str, Any]

STANDARD_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Conversion:
    """How a version that is not the stored one is written to and read from the store."""

    to_storage: Callable[[Json], Json]
    from_storage: Callable[[Json], Json]


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()  # status, scale, log, ...
    verbs: tuple[str, ...] = STANDARD_VERBS
    definition: str = ""  # name of the OpenAPI definition of a built-in kind
    singular: str = ""
    list_kind: str = ""
    conversion: Conversion | None = None
    custom: Any = None  # crds.Version of a custom resource
    store_as: str = ""  # another resource's key, for kinds served in two groups
    selectable: tuple[str, ...] = ()
    tracks_generation: bool = field(default=False)

    @property
    def key(self) -> str:
        return self.store_as or qualified(self.plural, self.group)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def list_name(self) -> str:
        return self.list_kind or f"{self.kind}List"

    @property
    def singular_name(self) -> str:
        return self.singular or self.kind.lower()


class Kinds:
    """The served resources by (group, version, plural), in discovery order."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._served: dict[tuple[str, str, str], Resource] = {}
        self._by_name: dict[str, Resource] = {}
        self.changes = 0  # grows with every change, so that derived documents can be cached
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource, preferred: bool = False) -> None:
        """Serve a resource. The first version of a kind, or the `preferred` one, is what its short name means."""
        self._served[(resource.group, resource.version, resource.plural)] = resource
        name = qualified(resource.plural, resource.group)
        if preferred or name not in self._by_name:
            self._by_name[name] = resource
        self.changes += 1

    def remove_group_resource(self, group: str, plural: str) -> None:
        for key in [k for k in self._served if k[0] == group and k[2] == plural]:
            del self._served[key]
        self._by_name.pop(qualified(plural, group), None)
        self.changes += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._served.get((group, version, plural))

    def by_kind(self, group: str, version: str, kind: str) -> Resource | None:
        return next(
            (r for r in self._served.values() if (r.group, r.version, r.kind) == (group, version, kind)), None
        )

    def named(self, name: str) -> Resource:
        """The resource called `pods`, `workspaces.kaito.sh` or `workspaces.v1beta1.kaito.sh`.

        Raises ApiError (404) with a sentence that says what to do.
        """
        if result := self._by_name.get(name):
            return result
        plural, _, rest = name.partition(".")
        version, _, group = rest.partition(".")
        if result := self._served.get((group, version, plural)):
            return result
        raise ApiError(
            404,
            "NotFound",
            f'the server doesn\'t have a resource type "{name}"; is its CustomResourceDefinition installed?',
        )

    def stored(self, key: str) -> Resource | None:
        """The resource under whose key objects are stored, if it is served now."""
        return self._by_name.get(key)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._served.values())

    def groups(self) -> dict[str, list[str]]:
        """Versions by group, in the order served; the core group is \"\"."""
        result: dict[str, list[str]] = {}
        for group, version, _ in self._served:
            versions = result.setdefault(group, [])
            if version not in versions:
                versions.append(version)
        return result

    def of(self, group: str, version: str) -> list[Resource]:
        return [r for r in self._served.values() if (r.group, r.version) == (group, version)]
