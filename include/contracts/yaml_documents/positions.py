"""Where in a file each field of a document stands, so that a fault can be shown as file:line:column.

Values carry no marks once they are built: places are kept beside them, in a tree of the same shape. A path is matched
against the keys that are really there, since keys hold dots and brackets too. It must never fail: a path that leads
nowhere gives the nearest field that exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_INDEX = re.compile(r"\[(\d{1,9})\]")
_BOUNDARY = re.compile(r"[.\[]")
BOUNDARIES_MAX = 64  # of one path; a key with more dots than this is found whole or not at all


@dataclass(slots=True)
class Place:
    """The position of one field: of its key in a mapping, of the value itself in a list or at the top; both from 1.

    `text_line` is the line on which the text of a literal block (`|`) begins and `indent` how far it is indented there;
    0 when the value is no such text.
    """

    line: int
    column: int
    children: dict[str, Place] | list[Place] | None = None
    text_line: int = 0
    indent: int = 0

    def find(self, path: str) -> Place:
        """The place of a fault's path, such as `tuning.input.urls[1]` or `metadata.annotations[kaito.sh/x]`."""
        place, rest = self, path
        while rest:
            step = _step(place, rest)
            if step is None:
                return place
            place, rest = step
        return place

    def within(self, inner: Place) -> Place:
        """Where a place of the literal text that stands here is in the whole file."""
        if not self.text_line:
            return self
        return Place(self.text_line + inner.line - 1, self.indent + inner.column)


def _step(place: Place, rest: str) -> tuple[Place, str] | None:
    """The child that the path enters next and the path from there, or None when there is no such child."""
    if isinstance(place.children, list):
        found = _INDEX.match(rest)
        if found is None or int(found[1]) >= len(place.children):
            return None
        return place.children[int(found[1])], rest[found.end() :]
    for key, after in _keys(rest):
        child = place.children.get(key) if place.children else None
        if child is not None:
            return child, after
    return None


def _keys(rest: str) -> Iterator[tuple[str, str]]:
    """The keys that a path may begin with and what follows each, longest first."""
    if rest.startswith("["):
        ends = [found.start() for found in re.finditer(r"\]", rest)][:BOUNDARIES_MAX]
        for end in reversed(ends):
            yield rest[1:end], rest[end + 1 :]
        return
    text = rest.removeprefix(".")
    yield text, ""
    boundaries = []
    for found in _BOUNDARY.finditer(text):
        boundaries.append(found.start())
        if len(boundaries) == BOUNDARIES_MAX:
            break
    for end in reversed(boundaries):
        yield text[:end], text[end:]
