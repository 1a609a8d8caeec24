"""What all tables share: column definitions, ages, short lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.api.meta import dig, parsed_time

Json = dict[str, Any]
Cells = list[Any]


@dataclass(frozen=True)
class Columns:
    """Column names (a leading `*` marks those that only -o wide shows) and the function that fills a row.

    `completed` tells whether an object is done, which a client may grey out.
    """

    names: Sequence[str]
    cells: Callable[[Json], Cells]
    numbers: frozenset[str] = frozenset()
    completed: Callable[[Json], str] | None = None

    def definitions(self) -> list[Json]:
        return [_definition(name, self.numbers) for name in self.names]


def _definition(name: str, numbers: frozenset[str]) -> Json:
    plain = name.lstrip("*")
    return {
        "name": plain,
        "type": "integer" if plain in numbers else "string",
        "format": "name" if plain == "Name" else "",
        "description": "",
        "priority": 1 if name.startswith("*") else 0,
    }


def human_duration(span: timedelta) -> str:
    """k8s.io/apimachinery/pkg/util/duration.HumanDuration: two digits of precision that people can read."""
    seconds = int(span.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 0:
        return "0s"
    minutes, hours = seconds // 60, seconds // 3600
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    return _days(hours)


def _days(hours: int) -> str:
    days = hours // 24
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(first: int, unit: str, second: int, smaller: str) -> str:
    return f"{first}{unit}{second}{smaller}" if second else f"{first}{unit}"


def since(text: str | None) -> str:
    """The age of a moment, or <unknown>."""
    if not text:
        return "<unknown>"
    return human_duration(datetime.now(UTC) - parsed_time(text))


def age(obj: Json) -> str:
    return since(dig(obj, "metadata", "creationTimestamp"))


def name(obj: Json) -> str:
    return str(obj["metadata"].get("name", ""))


def joined(values: Sequence[str]) -> str:
    return ",".join(values) or "<none>"


def labels_text(labels: Json | None) -> str:
    return joined([f"{key}={value}" for key, value in sorted((labels or {}).items())])


def selector_text(selector: Json | None) -> str:
    """metav1.FormatLabelSelector."""
    if not selector:
        return "<none>"
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for term in selector.get("matchExpressions") or ():
        values = ",".join(term.get("values") or ())
        forms = {"In": f"{term['key']} in ({values})", "NotIn": f"{term['key']} notin ({values})"}
        terms.append(
            forms.get(term["operator"], ("!" if term["operator"] == "DoesNotExist" else "") + term["key"])
        )
    return joined(terms)


def containers_of(spec: Json | None) -> Cells:
    """The names and the images of a pod specification."""
    containers = (spec or {}).get("containers") or []
    return [",".join(c.get("name", "") for c in containers), ",".join(c.get("image", "") for c in containers)]


def access_modes(modes: Sequence[str] | None) -> str:
    short = {
        "ReadWriteOnce": "RWO",
        "ReadOnlyMany": "ROX",
        "ReadWriteMany": "RWX",
        "ReadWriteOncePod": "RWOP",
    }
    return ",".join(short.get(mode, mode) for mode in modes or ())
