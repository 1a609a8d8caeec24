"""Reads YAML that nobody has vouched for: size, depth, aliases and duplicate keys are checked before it is built.

It exists because a YAML library alone is not a safe door: libyaml overflows the C stack on deep nesting, a few
aliases expand to gigabytes, and of two equal keys the last one silently wins. It must never raise anything but
BadDocument, and never spend more than linear time on what it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

MAX_BYTES = 1024 * 1024  # etcd takes 1.5 MiB with all its overhead
MAX_DEPTH = 64  # a pod template nests about 12 deep
MAX_NODES = 100_000  # scalars, lists and mappings, after aliases are expanded

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadDocument(ValueError):
    """A text that is no usable YAML; the message is a sentence for its author."""


class _Loader(_Base):  # type: ignore[misc]  # the C or the pure Python loader
    """YAML as Kubernetes reads it: no dates, no merge keys, no duplicate keys, text keys only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise BadDocument(f"line {key.start_mark.line + 1}: a key must be text")
            if key.value in seen:
                raise BadDocument(f"line {key.start_mark.line + 1}: the key {key.value!r} is given twice")
            seen.add(key.value)
        built = {key.value: self.construct_object(value, deep=True) for key, value in node.value}
        return built


_JSON_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "null"))
# Dates stay text, as in JSON; "=" and "<<" are text as well.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _JSON_TAGS]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}


def decode(data: str | bytes) -> str:
    """The text of a document. Raises BadDocument when it is too large or not UTF-8."""
    try:
        raw = data if isinstance(data, bytes) else data.encode("utf-8")
        text = raw.decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadDocument(f"the document is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if len(raw) > MAX_BYTES:
        raise BadDocument(f"the document has {len(raw)} bytes; at most {MAX_BYTES} are read")
    return text


def load_all(data: str | bytes) -> Iterator[Any]:
    """The documents of a YAML stream, empty ones left out. Raises BadDocument."""
    text = decode(data)
    try:
        _measure(text)
        loaded = list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, BadDocument):
            raise
        raise BadDocument(f"the document is not YAML: {_reason(error)}") from None
    return iter([document for document in loaded if document is not None])


def load_one(data: str | bytes) -> Any:
    """The only document of a YAML text. Raises BadDocument when there is none or more than one."""
    documents = list(load_all(data))
    if len(documents) != 1:
        raise BadDocument(f"one YAML document is needed, but the text holds {len(documents)}")
    return documents[0]


def check_depth(data: object) -> None:
    """Raises BadDocument for data (already parsed, such as a trigger's conf) that is too deep or too large."""
    level: list[object] = [data]
    count = 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_NODES:
            raise BadDocument(f"the document has more than {MAX_NODES} values")
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise BadDocument(f"the document nests deeper than {MAX_DEPTH} levels")


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _measure(text: str) -> None:
    """Walks the parser's events, which needs no recursion, and refuses what would be dangerous to build."""
    sizes: dict[str, int] = {}  # expanded size of each complete anchored node
    stack: list[tuple[str, int]] = [("", 0)]  # open collections: anchor, and values so far
    for event in yaml.parse(text, Loader=_Base):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(event.anchor or "", None)  # an alias inside the collection would stand for itself
            stack.append((event.anchor or "", 1))
            size = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = stack.pop()
            sizes[anchor] = size
        else:
            size = _leaf_size(event, sizes, line)
        owner, so_far = stack[-1]
        stack[-1] = (owner, so_far + size)
        if len(stack) > MAX_DEPTH:
            raise BadDocument(f"line {line}: the document nests deeper than {MAX_DEPTH} levels")
        if so_far + size > MAX_NODES:
            raise BadDocument(f"line {line}: the document expands to more than {MAX_NODES} values")


def _leaf_size(event: yaml.Event, sizes: dict[str, int], line: int) -> int:
    """The number of values that an event stands for, when it is no collection's start or end."""
    if isinstance(event, yaml.ScalarEvent):
        sizes[event.anchor or ""] = 1
        return 1
    if not isinstance(event, yaml.AliasEvent):
        return 0
    if event.anchor not in sizes:
        raise BadDocument(f"line {line}: the alias *{event.anchor} stands for nothing complete")
    return sizes[event.anchor]


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)
