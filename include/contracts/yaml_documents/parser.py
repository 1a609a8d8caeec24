"""Builds documents from a YAML parser's events in one pass, values and places together, and counts while it builds.

It exists because a YAML library alone is not a safe door: libyaml's composer overflows the C stack on deep nesting, a
few aliases expand to gigabytes, and of two equal keys the last one silently wins. It must never recurse, and never
build what its limits forbid: the limits are checked at each event, before the event's value is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from include.contracts.yaml_documents import scalars
from include.contracts.yaml_documents.positions import Place

MAX_DEPTH = 64  # a pod template nests about 12 deep
MAX_NODES = 100_000  # scalars, lists and mappings of a whole text, after aliases are expanded

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what libyaml counts as the end of a line
_COLLECTION_TAGS = frozenset((None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))
_MERGE = "<<"
_NO_KEY = object()


class BadDocument(ValueError):
    """A text that is no usable YAML; str() is a sentence for its author, `line` and `column` count from 1 (0: none)."""

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.reason = reason
        self.line = line
        self.column = column


class Document(NamedTuple):
    """One document of a text: its value (JSON's kinds only) and the places of its fields."""

    value: Any
    place: Place


@dataclass(slots=True)
class _Node:
    """A complete value: `size` counts the values in it, `key` is what it is when it stands as a key."""

    value: Any
    place: Place
    size: int
    key: str | None = None
    merges: bool = False  # a plain << that takes over another mapping's keys


@dataclass(slots=True)
class _Open:
    """A collection that is being built. A mapping holds the key whose value comes next."""

    node: _Node
    anchor: str | None
    key: str | object = _NO_KEY
    key_place: Place | None = None
    merging: bool = False
    merged: list[_Node] = field(default_factory=list)


class Builder:
    """Turns events into documents. `text` is the whole text, `first_line` the line on which the events' text begins."""

    def __init__(self, text: str, first_line: int = 1, budget: int = MAX_NODES) -> None:
        self.budget = (
            budget  # values that may still be built; the caller carries it on to the rest of the text
        )
        self._text = text
        self.first_line = first_line
        self._lines: list[str] | None = None
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Node] = {}
        self._root: _Node | None = None

    def documents(self, events: Iterable[yaml.Event]) -> Iterator[Document]:
        """The documents of a stream of events, empty ones left out. Raises BadDocument."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._stack, self._anchors, self._root = [], {}, None
            elif isinstance(event, yaml.DocumentEndEvent):
                if self._root is not None and self._root.value is not None:
                    yield Document(self._root.value, self._root.place)
            elif isinstance(event, yaml.NodeEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()

    def _begin(self, event: yaml.NodeEvent) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                raise self._bad(event, f"the alias *{event.anchor} stands for nothing complete")
            place = self._place(event)
            self._spend(known.size, place)  # an alias counts as all that it stands for, once more each time
            place.children, place.text_line, place.indent = (
                known.place.children, known.place.text_line, known.place.indent,
            )  # fmt: skip
            self._add(_Node(known.value, place, known.size, known.key), None)
        else:
            self._open(event)

    def _open(self, event: Any) -> None:
        place = self._place(event)
        if self._stack and isinstance(self._stack[-1].node.value, dict) and self._stack[-1].key is _NO_KEY:
            raise self._bad(event, "a key must be text")
        if event.tag not in _COLLECTION_TAGS:
            raise self._bad(event, f"not YAML as Kubernetes reads it: {scalars.unknown_tag(event.tag)}")
        if len(self._stack) >= MAX_DEPTH:
            raise self._bad(event, f"the document nests deeper than {MAX_DEPTH} levels")
        if event.anchor:
            self._anchors.pop(event.anchor, None)  # an alias inside the collection would stand for itself
        self._spend(1, place)
        mapping = isinstance(event, yaml.MappingStartEvent)
        value: Any = {} if mapping else []
        place.children = {} if mapping else []
        self._stack.append(_Open(_Node(value, place, 1), event.anchor))

    def _end(self) -> None:
        done = self._stack.pop()
        for other in done.merged:
            self._merge(done.node, other)
        self._add(done.node, done.anchor)

    def _add(self, node: _Node, anchor: str | None) -> None:
        """Puts a complete value where it belongs."""
        if anchor:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = node
            return
        owner = self._stack[-1]
        if isinstance(owner.node.value, dict) and owner.key is _NO_KEY:
            self._take_key(owner, node)
            return
        owner.node.size += node.size
        if isinstance(owner.node.value, list):
            owner.node.value.append(node.value)
            owner.node.place.children.append(node.place)  # type: ignore[union-attr]
        else:
            self._put(owner, node)

    def _put(self, owner: _Open, node: _Node) -> None:
        """The value of the key that came before it."""
        key, key_place = owner.key, owner.key_place
        owner.key = _NO_KEY
        if owner.merging and _mappings(node.value) is not None:
            owner.merged.append(node)
            return
        place = node.place
        if key_place is not None:
            place = Place(key_place.line, key_place.column, place.children, place.text_line, place.indent)
        owner.node.value[key] = node.value
        owner.node.place.children[key] = place  # type: ignore[index,call-overload]

    def _take_key(self, owner: _Open, node: _Node) -> None:
        if node.key is None:
            raise BadDocument("a key must be text", node.place.line, node.place.column)
        if node.key in owner.node.value:
            reason = f"the key {_short(node.key)} is given twice"
            raise BadDocument(reason, node.place.line, node.place.column)
        owner.node.size += node.size
        owner.key, owner.key_place, owner.merging = node.key, node.place, node.merges

    def _merge(self, owner: _Node, other: _Node) -> None:
        """`<<: *other`: the keys that the mapping does not have itself, as Kubernetes reads it."""
        places = other.place.children
        for index, values in enumerate(_mappings(other.value) or ()):
            where = places[index].children if isinstance(places, list) else places
            for key, value in values.items():
                if key not in owner.value:
                    owner.value[key] = value
                    if isinstance(where, dict) and isinstance(owner.place.children, dict):
                        owner.place.children[key] = where[key]

    def _spend(self, size: int, place: Place) -> None:
        self.budget -= size
        if self.budget < 0:
            raise BadDocument(f"the text expands to more than {MAX_NODES} values", place.line, place.column)

    def _scalar(self, event: yaml.ScalarEvent) -> _Node:
        place, text = self._place(event), str(event.value)
        self._spend(1, place)
        unquoted = bool(event.implicit[0])
        try:
            value = scalars.plain(text) if unquoted else scalars.tagged(event.tag, text)
        except ValueError as error:
            raise self._bad(event, f"not YAML as Kubernetes reads it: {error}") from None
        if event.style == "|":
            self._literal(place, text)
        return _Node(value, place, 1, text, merges=unquoted and text == _MERGE)

    def _literal(self, place: Place, text: str) -> None:
        """Where the text of a literal block begins, found in the source; left alone when it cannot be told."""
        if self._lines is None:
            self._lines = _BREAK.split(self._text)
        for offset, line in enumerate(_BREAK.split(text)):
            if line.strip():
                number = place.line + offset  # the text begins on the line after the indicator
                source = self._lines[number] if number < len(self._lines) else ""
                if source.endswith(line):
                    place.text_line, place.indent = place.line + 1, len(source) - len(line)
                return

    def _place(self, event: yaml.Event) -> Place:
        mark: Any = event.start_mark  # None only for events that were not parsed
        return Place(mark.line + self.first_line, mark.column + 1)

    def _bad(self, event: yaml.Event, reason: str) -> BadDocument:
        place = self._place(event)
        return BadDocument(reason, place.line, place.column)


def _mappings(value: Any) -> list[dict[str, Any]] | None:
    """What a merge key can take over: a mapping, or a list of mappings."""
    found = value if isinstance(value, list) else [value]
    return found if found and all(isinstance(one, dict) for one in found) else None


def _short(key: str) -> str:
    return repr(key if len(key) <= 60 else key[:57] + "...")
