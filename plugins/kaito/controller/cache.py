"""What the triggerer has seen of the cluster, kept in its memory from one wait to the next.

It answers one question: which Workspaces need a look now, and why? It is a cache and nothing else: when it is lost,
everything needs a look, which is correct because a look compares the whole Workspace with the whole cluster. No I/O
and no clock in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from include.workspace.api import names
from include.workspace.status import conditions
from include.workspace.status.runs import RunState
from kaito.controller.fingerprints import (
    Key,
    fingerprint,
    key_of,
    owner_key,
)
from kaito.controller.informer import Change

Object = Mapping[str, Any]
WORKSPACES, CONFIG_MAPS = "workspaces", "configmaps"

_KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "deletionTimestamp",
    "finalizers",
    "creationTimestamp",
)
#: Longer annotations are somebody else's business and would fill the memory.
_LONGEST_ANNOTATION = 256


@dataclass
class _Mark:
    digest: str
    key: Key


@dataclass
class Dispatched:
    """What was handed to a reconcile task: a token that the task gives back when it is done."""

    token: str
    keys: tuple[Key, ...] | None


@dataclass
class ClusterView:
    """The Workspaces (trimmed), the digests of everything that matters to them, and who needs a look.

    ``versions`` has the resourceVersion up to which each kind was seen; ``looked`` when (unix time) a Workspace was
    last handed out; ``due`` who needs a look, and why.
    """

    versions: dict[str, str] = field(default_factory=dict)
    workspaces: dict[Key, dict[str, Any]] = field(default_factory=dict)
    due: dict[Key, str] = field(default_factory=dict)
    looked: dict[Key, float] = field(default_factory=dict)
    resynced: float | None = None
    dispatched: Dispatched | None = None
    refusals: int = 0
    #: By Workspace, when objects of its machines were seen to go: uid -> time.
    ended: dict[Key, dict[str, str]] = field(default_factory=dict)
    _marks: dict[str, dict[Key, _Mark]] = field(default_factory=dict)
    _listed: dict[str, set[Key]] = field(default_factory=dict)
    _config_maps: dict[Key, set[Key]] = field(default_factory=dict)
    _named: dict[Key, set[str]] = field(default_factory=dict)

    def take(self, plural: str, change: Change) -> None:
        """Take in one piece of news of a watch."""
        match change.type:
            case "PAGE":
                self.page(plural, change.objects)
            case "LISTED":
                self.listed(plural, change.version)
            case "ABSENT":
                self.listed(plural, "")
            case "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK":
                for obj in change.objects:
                    (self.remove if change.type == "DELETED" else self.put)(plural, obj)
                self.versions[plural] = change.version

    def page(self, plural: str, objects: Iterable[Object]) -> None:
        """Take in a part of a new list."""
        listed = self._listed.setdefault(plural, set())
        for obj in objects:
            listed.add(_place(obj))
            if plural == CONFIG_MAPS and plural not in self.versions:
                self._mark_config_map(obj)  # the Workspaces that name it are looked at anyway
            else:
                self.put(plural, obj)

    def listed(self, plural: str, version: str) -> None:
        """The list is complete: forget what was not in it."""
        listed = self._listed.pop(plural, set())
        for place in [place for place in self._marks.get(plural, {}) if place not in listed]:
            self._drop(plural, place)
        self.versions[plural] = version

    def put(self, plural: str, obj: Object) -> None:
        """Take in an object as it is now."""
        place = _place(obj)
        marks = self._marks.setdefault(plural, {})
        if plural == CONFIG_MAPS:
            if self._mark_config_map(obj):
                self._tell_users(place, "changed")
            return
        key = key_of(obj) if plural == WORKSPACES else owner_key(obj)
        if key is None:
            return
        digest, old = fingerprint(plural, obj), marks.get(place)
        changed = old is None or old.digest != digest
        marks[place] = _Mark(digest, key)
        if plural == WORKSPACES:
            decided = key in self.workspaces and in_flight(self.workspaces[key]) and not in_flight(obj)
            self._keep(key, obj)
            if changed or decided:
                self.due[key] = (
                    "its run has a verdict"
                    if not changed
                    else "it is new"
                    if old is None
                    else "it was changed"
                )
        elif changed and not self._may_wait(key):
            self.due.setdefault(key, f"{plural[:-1]} {place[1]} {'is new' if old is None else 'changed'}")

    def remove(self, plural: str, obj: Object) -> None:
        """Take in that an object is gone."""
        self._drop(plural, _place(obj))

    def record_deletion(self, machines: Iterable[Object], when: str) -> None:
        """Remember when machines were gone, until somebody has accounted for them."""
        for obj in machines:
            if (key := owner_key(obj)) is not None and key in self.workspaces:
                self.ended.setdefault(key, {})[obj["metadata"]["uid"]] = when

    def ended_of(self, keys: Iterable[Key] | None) -> dict[str, str]:
        """Return when machines of these Workspaces (None: of all) were gone, by uid."""
        found = self.ended if keys is None else {key: self.ended.get(key, {}) for key in keys}
        return {uid: when for ends in found.values() for uid, when in ends.items()}

    def dispatch(self, keys: Iterable[Key] | None, token: str, now: float) -> None:
        """Remember that these keys (None: all) were given to a task at ``now`` (unix time)."""
        given = None if keys is None else tuple(keys)
        for key in list(self.workspaces) if given is None else given:
            self.looked[key] = now
            self.due.pop(key, None)
        if given is None:
            self.due.clear()
            self.resynced = now
        self.dispatched = Dispatched(token, given)

    def acknowledge(self, done: str) -> bool:
        """Compare the token of the last hand-out with the one that the last task left; all over again if it failed.

        Returns whether that task did its work.
        """
        if self.dispatched is None:
            return True
        if self.dispatched.token == done:
            for key in list(self.ended) if self.dispatched.keys is None else self.dispatched.keys:
                self.ended.pop(key, None)
            self.handed, self.refusals = None, 0
            return True
        if self.dispatched.keys is None:
            self.resynced = None
        else:
            self.due |= {
                key: "the last look at it failed" for key in self.dispatched.keys if key in self.workspaces
            }
        self.dispatched = None
        self.refusals += 1
        return False

    def forget(self) -> None:
        """Forget everything, as after a time in which others acted."""
        self.__dict__.update(ClusterView().__dict__)

    def names_config_maps(self) -> bool:
        return bool(self._config_maps)

    def _may_wait(self, key: Key) -> bool:
        """While a run works on a Workspace, the run itself tells what becomes of its objects."""
        workspace = self.workspaces.get(key)
        return workspace is None or in_flight(workspace)

    def _keep(self, key: Key, obj: Object) -> None:
        self.workspaces[key] = _trimmed(obj)
        self._name_config_maps(key, _config_map_names(obj))

    def _name_config_maps(self, key: Key, wanted: set[str]) -> None:
        for name in self._named.pop(key, set()) - wanted:
            users = self._config_maps.get((key[0], name), set())
            users.discard(key)
            if not users:
                self._config_maps.pop((key[0], name), None)
        for name in wanted:
            self._config_maps.setdefault((key[0], name), set()).add(key)
        if wanted:
            self._named[key] = wanted

    def _mark_config_map(self, obj: Object) -> bool:
        """Remember a ConfigMap that some Workspace names; returns whether it is another than before."""
        place = _place(obj)
        if place not in self._config_maps:
            return False
        marks, digest = self._marks.setdefault(CONFIG_MAPS, {}), fingerprint(CONFIG_MAPS, obj)
        old = marks.get(place)
        marks[place] = _Mark(digest, place)
        return old is None or old.digest != digest

    def _tell_users(self, place: Key, what: str) -> None:
        for key in self._config_maps.get(place, ()):
            self.due.setdefault(key, f"ConfigMap {place[1]} {what}")

    def _drop(self, plural: str, place: Key) -> None:
        mark = self._marks.get(plural, {}).pop(place, None)
        if plural == CONFIG_MAPS:
            self._tell_users(place, "is gone")
        if mark is None:
            return
        if plural == WORKSPACES:
            self.workspaces.pop(mark.key, None)
            self.looked.pop(mark.key, None)
            self.due.pop(mark.key, None)
            self.ended.pop(mark.key, None)
            self._name_config_maps(mark.key, set())
        elif plural != CONFIG_MAPS and not self._may_wait(mark.key):
            self.due.setdefault(mark.key, f"{plural[:-1]} {place[1]} is gone")


def in_flight(workspace: Object) -> bool:
    """Whether a run works on this generation of the Workspace and has no verdict yet."""
    metadata, status = workspace["metadata"], workspace.get("status") or {}
    run = status.get("run") or {}
    current = run.get("generation") == names.generation(workspace) and run.get("state") == RunState.STARTED
    if metadata.get("deletionTimestamp") or not current:
        return False
    workspace_ready = conditions.condition(status, conditions.ConditionType.WORKSPACE_READY) or {}
    verdict = (
        workspace_ready.get("status") == "True" or workspace_ready.get("reason") in conditions.ENDED_BADLY
    )
    return not (verdict and workspace_ready.get("observedGeneration") == names.generation(workspace))


def _place(obj: Object) -> Key:
    metadata = obj["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def _config_map_names(workspace: Object) -> set[str]:
    found = ((workspace.get(part) or {}).get("config") for part in ("tuning", "inference"))
    return {name for name in found if isinstance(name, str) and name}


def _trimmed(workspace: Object) -> dict[str, Any]:
    """Return what ``due`` and ``in_flight`` need; a thousand Workspaces must cost little."""
    metadata = {k: v for k, v in workspace["metadata"].items() if k in _KEPT_METADATA}
    annotations = workspace["metadata"].get("annotations") or {}
    metadata["annotations"] = {
        k: v for k, v in annotations.items() if k.startswith("kaito.sh/") and len(v) <= _LONGEST_ANNOTATION
    }
    parts: dict[str, Any] = {part: {} for part in ("tuning", "inference") if workspace.get(part) is not None}
    return {"metadata": metadata, **parts, "status": workspace.get("status") or {}}
