"""The values that the API server takes in a Workspace, by field: one table for the CRD and for `check`.

Whoever wants a limit in the CustomResourceDefinition writes it here, so that nothing can be refused by `kubectl apply`
that `check` has called OK. Everything has a limit of length, because the API server refuses CEL rules whose cost it
cannot bound. A list's items are at `path[]`, a mapping's values at `path{}`. It must never hold what depends on more
than one field or on the dialect: rules do that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from include.contracts.dataset_urls import ALL_SCHEMES, SPELLINGS

Schema = dict[str, Any]

NAME_LENGTH, IMAGE_LENGTH, URL_LENGTH = 253, 512, 4096


class Pattern(NamedTuple):
    """How a text must look."""

    regex: str  # in the words that Go's RE2 and Python have in common
    right: str  # what is right, after "must be"
    any_case: bool = False  # whether letters count in any case; then the expression is in lower case


# As upstream's schema, it takes the quick start as printed: what is to be filled in there is said by the condition.
_PUSH_CREDENTIAL = Pattern(
    "^$|^[A-Z][A-Z0-9_]*_HERE$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    "the name of a Secret: lower-case letters, digits, '-' and '.'",
)
_OBJECT_NAME = Pattern(  # empty counts as not given
    "^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    "the name of a Secret or ConfigMap: lower-case letters, digits, '-' and '.'",
)
_DATA_URL = Pattern(
    f"^({'|'.join(SPELLINGS)})://",
    f"a URL that begins with {', '.join(f'{one}://' for one in ALL_SCHEMES)}",
    any_case=True,
)
_METHOD = Pattern("^q?lora$", "lora or qlora", any_case=True)
_STRENGTH = Pattern(
    r"^[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$", 'a number from 0 to 1 as text, such as "0.5"'
)
_IMAGE = Pattern(r"^[^\s]*$", "an image reference, without white space")


def _sources(path: str) -> dict[str, Schema]:
    return {
        f"{path}.name": {"maxLength": NAME_LENGTH},
        f"{path}.urls": {"maxItems": 64},
        f"{path}.urls[]": {"maxLength": URL_LENGTH},
        f"{path}.image": {"maxLength": IMAGE_LENGTH},
        f"{path}.imagePullSecrets": {"maxItems": 16},
        f"{path}.imagePullSecrets[]": {"maxLength": NAME_LENGTH},
    }


def _presets(path: str) -> dict[str, Schema]:
    return {
        f"{path}.name": {"minLength": 1, "maxLength": NAME_LENGTH},
        f"{path}.accessMode": {"enum": ["public", "private"]},
        f"{path}.presetOptions.image": {"maxLength": IMAGE_LENGTH},
        f"{path}.presetOptions.imagePullSecrets": {"maxItems": 16},
        f"{path}.presetOptions.imagePullSecrets[]": {"maxLength": NAME_LENGTH},
        f"{path}.presetOptions.modelAccessSecret": {"maxLength": NAME_LENGTH},
    }


BOUNDS: Mapping[str, Schema] = {
    "resource.count": {"minimum": 1},
    "resource.instanceType": {"maxLength": 128},
    "resource.preferredNodes": {"maxItems": 1000},
    "resource.labelSelector.matchLabels": {"maxProperties": 64},
    "resource.labelSelector.matchLabels{}": {"maxLength": 63},
    "resource.labelSelector.matchExpressions": {"maxItems": 64},
    "resource.labelSelector.matchExpressions[].key": {"maxLength": 317},
    "resource.labelSelector.matchExpressions[].operator": {"maxLength": 16},
    "resource.labelSelector.matchExpressions[].values": {"maxItems": 64},
    "resource.labelSelector.matchExpressions[].values[]": {"maxLength": 63},
    "resource.partition.mode": {"enum": ["mig", "accelerator"]},
    "resource.partition.profile": {"maxLength": 64},
    "resource.partition.count": {"minimum": 1},
    "inference.adapters": {"maxItems": 10},
    "inference.adapters[].strength": {"maxLength": 32},
    "inference.config": {"maxLength": NAME_LENGTH},
    "tuning.config": {"maxLength": NAME_LENGTH},
    "tuning.method": {"maxLength": 16},
    "tuning.output.image": {"maxLength": IMAGE_LENGTH},
    "tuning.output.imagePushSecret": {"maxLength": NAME_LENGTH},
    **_sources("tuning.input"),
    **_sources("inference.adapters[].source"),
    **_presets("tuning.preset"),
    **_presets("inference.preset"),
}
PATTERNS: Mapping[str, Pattern] = {
    "inference.adapters[].strength": _STRENGTH,
    "inference.config": _OBJECT_NAME,
    "tuning.config": _OBJECT_NAME,
    "tuning.method": _METHOD,
    "tuning.output.image": _IMAGE,
    "tuning.output.imagePushSecret": _PUSH_CREDENTIAL,
    # Not of adapters' URLs, of which rule A5 has none: 640 of 4096 characters cost more than the API server allows.
    "tuning.input.urls[]": _DATA_URL,
    **{
        f"{source}.{field}": pattern
        for source in ("tuning.input", "inference.adapters[].source")
        for field, pattern in (("image", _IMAGE), ("imagePullSecrets[]", _OBJECT_NAME))
    },
    **{
        f"{half}.preset.presetOptions.{field}": pattern
        for half in ("tuning", "inference")
        for field, pattern in (
            ("image", _IMAGE),
            ("imagePullSecrets[]", _OBJECT_NAME),
            ("modelAccessSecret", _OBJECT_NAME),
        )
    },
}


def beyond(document: Mapping[str, Any]) -> Iterator[tuple[str, object, str]]:
    """The fields of a Workspace whose values the API server refuses, each with its value and what is right.

    :param document: a Workspace's mapping, of the types of its schema. A null counts as absent, as it does there.
    :returns: path, value and "must ..."; of a list or a mapping that is too long, the value is its size.
    """
    return _beyond(document, "", "")


def _beyond(value: Any, field: str, path: str) -> Iterator[tuple[str, object, str]]:
    """:param field: the place in the table. :param path: the place in the document."""
    if (bounds := BOUNDS.get(field)) is not None:
        yield from _outside(value, bounds, PATTERNS.get(field), path)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            below = f"{field}.{key}" if field else str(key)
            if below in _places():
                yield from _beyond(inner, below, f"{path}.{key}" if path else str(key))
            elif f"{field}{{}}" in _places():
                yield from _beyond(inner, f"{field}{{}}", f"{path}[{key}]")
    elif isinstance(value, list) and f"{field}[]" in _places():
        for index, inner in enumerate(value):
            yield from _beyond(inner, f"{field}[]", f"{path}[{index}]")


def _outside(
    value: Any, bounds: Schema, pattern: Pattern | None, path: str
) -> Iterator[tuple[str, object, str]]:
    if isinstance(value, str):
        if len(value) > bounds.get("maxLength", len(value)):
            yield path, value, f"must have at most {bounds['maxLength']} characters, and has {len(value)}"
        elif len(value) < bounds.get("minLength", 0):
            yield path, value, "must not be empty"
        elif value not in bounds.get("enum", (value,)):
            yield path, value, f"must be {' or '.join(bounds['enum'])}"
        elif pattern and not _compiled(pattern).search(value):
            yield path, value, f"must be {pattern.right}"
    elif isinstance(value, int):
        if value < bounds.get("minimum", value):
            yield path, value, f"must be at least {bounds['minimum']}"
    elif isinstance(value, list | Mapping):
        most: int = bounds.get("maxItems") or bounds.get("maxProperties") or len(value)
        if len(value) > most:
            yield (
                path,
                len(value),
                f"must have at most {most} {'items' if 'maxItems' in bounds else 'entries'}",
            )


@cache
def _places() -> frozenset[str]:
    """All places at or above one that has a limit."""
    found = set()
    for place in BOUNDS:
        steps = re.findall(r"\.?[^.\[{]+|\[\]|\{\}", place)
        found |= {"".join(steps[: index + 1]) for index in range(len(steps))}
    return frozenset(found)


@cache
def _compiled(pattern: Pattern) -> re.Pattern[str]:
    """RE2's meaning in Python: `$` is the end and not before a last newline, `\\s` and letter case are ASCII's."""
    flags = re.ASCII | (re.IGNORECASE if pattern.any_case else re.NOFLAG)
    return re.compile(pattern.regex.replace("$", r"\Z"), flags)
