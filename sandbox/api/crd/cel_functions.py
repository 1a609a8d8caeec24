"""The functions that Kubernetes adds to the Common Expression Language, in Python.

Without them a rule such as `self.method.lowerAscii() == oldSelf.method.lowerAscii()` cannot run and would be skipped,
and the sandbox would let through what a real API server refuses. Follows k8s.io/apiserver/pkg/cel/library and cel-go's
string extension. A function gets its receiver as the first argument; it must never raise anything but what a wrong
argument deserves.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import string
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

_UPPER, _LOWER = string.ascii_uppercase, string.ascii_lowercase
_TO_LOWER, _TO_UPPER = str.maketrans(_UPPER, _LOWER), str.maketrans(_LOWER, _UPPER)


def _index_of(sequence: Any, item: Any, start: int = 0) -> int:
    if isinstance(sequence, str):
        return sequence.find(item, start)
    return next((index for index, value in enumerate(sequence) if value == item), -1)


def _last_index_of(sequence: Any, item: Any) -> int:
    if isinstance(sequence, str):
        return sequence.rfind(item)
    return max((index for index, value in enumerate(sequence) if value == item), default=-1)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"index out of range: {start}, {stop}")
    return text[start:stop]


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    return text.replace(old, new, count)


def _split(text: str, separator: str, count: int = -1) -> list[str]:
    if count == 0:
        return []
    return text.split(separator, count - 1 if count > 0 else -1) if separator else list(text)


def _is_sorted(items: list[Any]) -> bool:
    return all(left <= right for left, right in itertools.pairwise(items))


def _find(text: str, pattern: str) -> str:
    result = re.search(pattern, text)
    return result.group(0) if result else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    result = [match.group(0) for match in re.finditer(pattern, text)]
    return result if limit < 0 else result[:limit]


def _url(text: str) -> dict[str, Any]:
    """A URL's parts; a mapping, since the library's own objects are not ours to extend."""
    parts = urlsplit(text)
    if not (parts.scheme and parts.netloc) and not text.startswith("/"):
        raise ValueError(f"not an absolute URL or path: {text!r}")
    host = parts.netloc.rpartition("@")[2]
    return {
        "scheme": parts.scheme,
        "host": host,
        "hostname": parts.hostname or "",
        "port": str(parts.port or ""),
        "path": parts.path,
        "query": parse_qs(parts.query, keep_blank_values=True),
    }


def _is_url(text: str) -> bool:
    try:
        return bool(_url(text))
    except ValueError:
        return False


def _part(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda url: url[name]


def _is_ip(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_cidr(text: str) -> bool:
    try:
        return "/" in text and bool(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return False


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "lowerAscii": lambda text: text.translate(_TO_LOWER),
    "upperAscii": lambda text: text.translate(_TO_UPPER),
    "trim": lambda text: text.strip(),
    "charAt": lambda text, index: _substring(text, index, min(index + 1, len(text))),
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "substring": _substring,
    "replace": _replace,
    "split": _split,
    "join": lambda items, separator="": separator.join(items),
    "isSorted": _is_sorted,
    "sum": lambda items: sum(items),
    "find": _find,
    "findAll": _find_all,
    "url": _url,
    "isURL": _is_url,
    "getScheme": _part("scheme"),
    "getHost": _part("host"),
    "getHostname": _part("hostname"),
    "getPort": _part("port"),
    "getEscapedPath": _part("path"),
    "getQuery": _part("query"),
    "isIP": _is_ip,
    "isCIDR": _is_cidr,
}
