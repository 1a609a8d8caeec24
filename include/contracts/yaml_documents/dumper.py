"""Writes YAML that reads back the same here, in Kubernetes and in Python.

PyYAML leaves 1e5 and 08 without quotes, which Kubernetes takes for numbers. It must never write an anchor or a tag.
"""

from __future__ import annotations

from typing import Any

import yaml

from include.contracts.yaml_documents import scalars

WIDTH = 110
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]  # the C or the pure Python dumper
    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: Any, text: str) -> yaml.ScalarNode:
    """Text of several lines as a literal block; quotes where a plain word would mean something else."""
    style = "|" if "\n" in text.strip("\n") else None if scalars.is_text(text) else "'"
    node: yaml.ScalarNode = dumper.represent_scalar(scalars.STR, text, style=style)
    return node


_Dumper.add_representer(str, _text)


def write_yaml(document: object) -> str:
    """One document as text, its keys in their own order. JSON's kinds of values only."""
    written: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)
    return written
