"""Reads YAML that nobody has vouched for: its size, depth, aliases and duplicate keys are checked as it is built.

One pass over the parser's events gives values and places (building.py). It must never raise anything but BadDocument,
and never spend more than linear time and memory on what it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from include.contracts.yaml_documents.parser import (
    MAX_DEPTH,
    MAX_NODES,
    BadDocument,
    Builder,
    Document,
)
from include.contracts.yaml_documents.positions import Place

__all__ = ["BadDocument", "Document", "Place", "check_depth", "decode", "load_all", "load_one", "read"]

MAX_BYTES = 1024 * 1024  # etcd takes 1.5 MiB with all its overhead
MAX_BAD = 20  # broken documents of one text that are reported before the rest is left alone

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its parser is used
_SEPARATOR = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
# What YAML 1.1 lets a stream hold; libyaml refuses the rest too, but without a line.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEMPLATE = "this looks like a template: render it first"
# How JSON writes a character beyond U+FFFF, which YAML takes as one escape only.
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def decode(data: str | bytes) -> str:
    """The text of a document without its byte order mark. Raises BadDocument: too large, not UTF-8, binary."""
    if len(data) > MAX_BYTES:  # before anything is copied
        raise BadDocument(f"the document has more than {MAX_BYTES} bytes; at most that many are read")
    try:
        raw = data if isinstance(data, bytes) else data.encode("utf-8")
        text = raw.decode("utf-8")
    except UnicodeError as error:
        raise _not_utf8(data, error) from None
    if len(raw) > MAX_BYTES:
        raise BadDocument(f"the document has {len(raw)} bytes; at most {MAX_BYTES} are read")
    text = text.removeprefix("\ufeff")
    match = _FORBIDDEN.search(text)
    if match:
        line, column = _position(text, match.start())
        reason = f"not YAML: the character U+{ord(match[0]):04X} may not stand in it; is this a binary file?"
        raise BadDocument(reason, line, column)
    return text


def read(data: str | bytes) -> Iterator[Document | BadDocument]:
    """The documents of a YAML stream, empty ones left out; a broken one is given as what is wrong with it.

    Never raises. After a broken document reading goes on at the next `---` line, as other documents are fine.
    """
    try:
        text = decode(data)
    except BadDocument as error:
        yield error
        return
    if text.lstrip()[:1] in ("{", "["):
        text = _PAIR.sub(_one_escape, text)
    start, first_line, budget, bad = 0, 1, MAX_NODES, 0
    seen: tuple[int, int] | None = None
    while True:
        builder = Builder(text, first_line, budget)
        try:
            yield from _parsed(builder, text[start:])
            return
        except BadDocument as error:
            if seen != (
                error.line,
                error.column,
            ):  # a broken `---` line is met again when reading goes on there
                yield error
                bad += 1
            seen = error.line, error.column
            budget = builder.budget
            after = _next_document(text, start, error.line)
        if after is None or bad == MAX_BAD or budget <= 0:
            return
        first_line += text.count("\n", start, after)
        start = after


def load_all(data: str | bytes) -> Iterator[Any]:
    """The documents of a YAML stream, empty ones left out. Raises BadDocument."""
    found = []
    for document in read(data):
        if isinstance(document, BadDocument):
            raise document
        found.append(document.value)
    return iter(found)


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


def _one_escape(pair: re.Match[str]) -> str:
    high, low = int(pair[2], 16), int(pair[3], 16)
    return f"{pair[1]}\\U{0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF):08x}"


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _parsed(builder: Builder, text: str) -> Iterator[Document]:
    first_line = builder.first_line
    try:
        yield from builder.documents(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column + 1) if mark else (0, 1)
        reason = f"not YAML: {_problem(error, text, line, first_line)}"
        raise BadDocument(reason, first_line + line, column) from None
    except BadDocument as error:
        if "{{" not in _line(text, error.line - first_line):
            raise
        raise BadDocument(f"{error.reason}; {_TEMPLATE}", error.line, error.column) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise BadDocument(f"not YAML: {error}", first_line, 1) from None


def _problem(error: yaml.MarkedYAMLError, text: str, line: int, first_line: int) -> str:
    """The parser's words, and for the two mistakes that it cannot name, ours."""
    source = _line(text, line)
    if "\t" in source[: len(source) - len(source.lstrip())]:
        return "the line is indented with a tab; YAML takes spaces"
    if "{{" in source or "{%" in source:
        return f"{error.problem}; {_TEMPLATE}"
    begun = error.context_mark
    if error.problem and error.context and begun and begun.line != line:
        return f"{error.problem} ({error.context} that begins on line {first_line + begun.line})"
    return str(error.problem or error.context or "it cannot be read")


def _line(text: str, number: int) -> str:
    start = 0
    for _ in range(number):
        start = text.find("\n", start) + 1
        if not start:
            return ""
    end = text.find("\n", start)
    return text[start:] if end < 0 else text[start:end]


def _next_document(text: str, start: int, line: int) -> int | None:
    """The offset of the first `---` line that may begin a document after the broken one."""
    offset, current = start, text.count("\n", 0, start) + 1
    while current < line:
        offset = text.find("\n", offset) + 1
        if not offset:
            return None
        current += 1
    match = _SEPARATOR.search(text, max(offset, start + 1))
    return match.start() if match else None


def _position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def _not_utf8(data: str | bytes, error: UnicodeError) -> BadDocument:
    if isinstance(data, bytes) and data[:2] in _UTF16:
        return BadDocument("the document is not UTF-8 but UTF-16; save it as UTF-8", 1, 1)
    at = getattr(error, "start", 0)
    line = (data.count(b"\n", 0, at) if isinstance(data, bytes) else data.count("\n", 0, at)) + 1
    reason = getattr(error, "reason", "")
    return BadDocument(
        f"the document is not UTF-8 text ({reason} at byte {at}); is this a binary file?", line, 1
    )
