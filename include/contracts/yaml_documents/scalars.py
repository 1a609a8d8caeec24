"""What a plain YAML word means: the same as for Kubernetes, whose reader is Go's yaml.v2 and then JSON.

Python's YAML reads 1:30 as ninety and 1e5 as text, Kubernetes the other way round; a label value that only one of them
takes for text would pass here and fail there. Dates stay text, as in JSON. It must never build anything but text,
numbers, true, false and null.
"""

from __future__ import annotations

import math
import re
from typing import Any

JSON_SAFE_DIGITS = 400  # longer numbers are refused before Python spends quadratic time on them

_PREFIX = "tag:yaml.org,2002:"
STR = f"{_PREFIX}str"
_KINDS: dict[str, tuple[type, ...]] = {
    f"{_PREFIX}null": (type(None),),
    f"{_PREFIX}bool": (bool,),
    f"{_PREFIX}int": (int,),
    f"{_PREFIX}float": (int, float),
}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(word for lower in ("true", "yes", "on") for word in (lower, lower.title(), lower.upper()))
_FALSE = frozenset(word for lower in ("false", "no", "off") for word in (lower, lower.title(), lower.upper()))
_INT = re.compile(r"[-+]?(?:0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|[1-9][0-9]*|0)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMBER_STARTS = frozenset("+-.0123456789")


def plain(text: str) -> Any:
    """The value of a word without quotes. Raises ValueError with a sentence for a number that JSON cannot hold."""
    if text in _NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    return _number(text) if text[0] in _NUMBER_STARTS else text


def is_text(text: str) -> bool:
    """Whether a word without quotes stays text everywhere: what is left unquoted when YAML is written."""
    try:
        return isinstance(plain(text), str) and text.lower() not in ("y", "n", "<<", "=")
    except ValueError:
        return False


def tagged(tag: str | None, text: str) -> Any:
    """The value of a scalar in quotes, in a block, or with an explicit tag. Raises ValueError with a sentence."""
    if tag in (None, STR, "!"):
        return text
    kind = _KINDS.get(str(tag))
    if kind is None:
        raise ValueError(unknown_tag(str(tag)))
    value = plain(text)
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
        raise ValueError(f"{text[:40]!r} is no {str(tag).rpartition(':')[2]}")
    return float(text.replace("_", "")) if float in kind else value


def unknown_tag(tag: str) -> str:
    """The sentence for a tag that is not JSON's, such as !!python/object."""
    return f"the tag {tag.replace(_PREFIX, '!!')} is not read here, only plain data is"


def _number(text: str) -> Any:
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is no number that JSON can hold; put it in quotes if it is text")
    digits = text.replace("_", "")
    whole = _INT.fullmatch(digits)
    if not whole and not _FLOAT.fullmatch(digits):
        return text
    if len(digits) > JSON_SAFE_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits is not read")
    if whole:
        return _integer(digits)
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a number; put it in quotes if it is text")
    return value


def _integer(digits: str) -> int:
    sign = -1 if digits[0] == "-" else 1
    body = digits.lstrip("+-").lower()
    if len(body) > 1 and body[0] == "0" and body[1].isdigit():
        return sign * int(body, 8)
    return sign * int(body, 0)
