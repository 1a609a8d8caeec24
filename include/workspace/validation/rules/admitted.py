"""What the API server refuses whoever asks it: the schema's limits, and labels and annotations (S7, S8).

The other rules say more about a value that they know, so of a field that one of them has named nothing is told here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from include.workspace.api import limits
from include.workspace.api.models import Workspace
from include.workspace.validation.faults import Fault
from include.workspace.validation.identity import is_label_key, is_label_value

#: Of all annotations of an object, keys and values together (apimachinery's TotalAnnotationSizeLimitB).
ANNOTATIONS_BYTES = 256 * 1024


def admission_faults(ws: Workspace, told: Collection[str]) -> list[Fault]:
    """What `kubectl apply` would be refused for.

    :param told: fields of which a fault is known already.
    """
    found = [*_beyond_limits(ws), *_metadata(ws)]
    return [fault for fault in found if fault.path not in told]


def _beyond_limits(ws: Workspace) -> Iterator[Fault]:
    """S7."""
    for path, value, message in limits.beyond(ws.to_dict()):
        yield Fault(path, value, "S7", message)


def _metadata(ws: Workspace) -> Iterator[Fault]:
    """S8."""
    for field, given in (("labels", ws.metadata.labels), ("annotations", ws.metadata.annotations)):
        for key, value in (given or {}).items():
            path = f"metadata.{field}[{key}]"
            # The API server takes annotations' keys in any letter case, in the domain too.
            if not is_label_key(key.lower() if field == "annotations" else key):
                yield Fault(path, None, "S8", "is not a key it can have", "write name or domain/name")
            elif field == "labels" and not is_label_value(value):
                hint = "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
                yield Fault(path, value, "S8", "is not a label value", hint)
    size = sum(len(text.encode(errors="replace")) for pair in ws.annotations.items() for text in pair)
    if size > ANNOTATIONS_BYTES:
        message = f"must have at most {ANNOTATIONS_BYTES} bytes (256 KiB) in all, keys and values together"
        yield Fault("metadata.annotations", size, "S8", message, "keep long texts in a ConfigMap")
