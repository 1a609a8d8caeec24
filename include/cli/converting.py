"""Prints Workspaces in the other version of the API, and everything else of a file as its author wrote it.

Where nothing but the version changes, only that word is replaced, so that comments and layout survive. It must never
drop a document: one that cannot be read is printed as it stands, and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from include.cli.checking import LISTS, is_workspace
from include.contracts.yaml_documents.dumper import write_yaml
from include.contracts.yaml_documents.reader import (
    BadDocument,
    Document,
    decode,
    read,
)
from include.workspace.api.convert import convert
from include.workspace.api.names import GROUP
from include.workspace.validation.faults import WorkspaceInvalid

_SEPARATOR = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
_DIRECTIVES = re.compile(r"(?:\s*(?:%.*|#.*)?\n)*")  # a %YAML line belongs to the document after it


def convert_text(data: bytes, to: str) -> tuple[str, list[str]]:
    """The text with its Workspaces in version `to` ("v1alpha1" or "v1beta1"), and a sentence for each problem."""
    try:
        text = decode(data)
    except BadDocument as error:
        return "", [str(error)]
    written, problems, line = [], [], 0
    for piece in _pieces(text):
        found = list(read(piece))
        bad = [f"line {line + one.line}: {one.reason}" for one in found if isinstance(one, BadDocument)]
        problems += bad
        single = found[0] if len(found) == 1 and not bad else None
        try:
            written.append(_converted(piece, single, to) if isinstance(single, Document) else piece)
        except WorkspaceInvalid as error:
            written.append(piece)
            problems.append(f"line {line + found[0].place.line}: {'; '.join(map(str, error.faults))}")  # type: ignore[union-attr]
        line += piece.count("\n")
    return "".join(written), problems


def _pieces(text: str) -> Iterator[str]:
    """The text cut before each `---` line."""
    start = 0
    for found in _SEPARATOR.finditer(text):
        before = text[start : found.start()]
        if "%" in before and _DIRECTIVES.fullmatch(before):
            continue
        if before:
            yield before
        start = found.start()
    yield text[start:]


def _converted(piece: str, document: Document, to: str) -> str:
    """A piece that holds one document."""
    value = _in_version(document.value, to)
    if value == document.value:
        return piece
    edited = _edited(piece, document, to)
    if edited is not None and [one.value for one in read(edited) if isinstance(one, Document)] == [value]:
        return edited
    return ("---\n" if _SEPARATOR.match(piece) else "") + write_yaml(value)


def _in_version(value: Any, to: str) -> Any:
    if isinstance(value, Mapping) and value.get("kind") in LISTS and isinstance(value.get("items"), list):
        version = {"apiVersion": f"{GROUP}/{to}"} if value["kind"] != "List" else {}
        return {**value, **version, "items": [_in_version(item, to) for item in value["items"]]}
    return convert(value, to) if is_workspace(value) else value


def _edited(piece: str, document: Document, to: str) -> str | None:
    """The piece with the word after apiVersion replaced, or None when it is not where it usually is."""
    place = document.place.find("apiVersion")
    lines = piece.splitlines(keepends=True)
    if place is document.place or place.line > len(lines):
        return None
    line = lines[place.line - 1]
    pattern = re.compile(rf"(apiVersion[\"']?\s*:\s*[\"']?){re.escape(GROUP)}/\w+")
    lines[place.line - 1] = line[: place.column - 1] + pattern.sub(
        rf"\g<1>{GROUP}/{to}", line[place.column - 1 :], count=1
    )
    return "".join(lines)
