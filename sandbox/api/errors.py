"""Every way in which the API refuses a request, in the words and codes of a real API server.

Clients decide by `reason` and `code`, people by `message`, so both follow k8s.io/apimachinery/pkg/api/errors.
This module builds refusals; it must never decide them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]

REQUIRED, INVALID, UNSUPPORTED = "FieldValueRequired", "FieldValueInvalid", "FieldValueNotSupported"
FORBIDDEN, DUPLICATE, NOT_FOUND = "FieldValueForbidden", "FieldValueDuplicate", "FieldValueNotFound"
TOO_LONG, TOO_MANY, TYPE_INVALID = "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"

_TITLES = {
    REQUIRED: "Required value",
    INVALID: "Invalid value",
    UNSUPPORTED: "Unsupported value",
    FORBIDDEN: "Forbidden",
    DUPLICATE: "Duplicate value",
    NOT_FOUND: "Not found",
    TOO_LONG: "Too long",
    TOO_MANY: "Too many",
    TYPE_INVALID: "Invalid value",
}
_WITHOUT_VALUE = {REQUIRED, FORBIDDEN, TOO_LONG}

#: As the value of a FieldError: it is not printed (field.OmitValueType).
OMITTED = object()


@dataclass(frozen=True)
class FieldError:
    """One fault in one field, as `field.Error` prints it."""

    field: str
    reason: str
    value: object = None
    detail: str = ""

    @property
    def message(self) -> str:
        text = _TITLES[self.reason]
        if self.reason not in _WITHOUT_VALUE and self.value is not OMITTED:
            text += f": {json.dumps(self.value, ensure_ascii=False, separators=(',', ':'))}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ApiError(Exception):
    """A refusal with its HTTP code; `status()` is the Status object that clients read."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Json | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after = retry_after

    def status(self) -> Json:
        body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        details = dict(self.details)
        if self.retry_after is not None:
            details["retryAfterSeconds"] = self.retry_after
        if details:
            body["details"] = details
        body["code"] = self.code
        return body


def qualified(plural: str, group: str) -> str:
    """`deployments.apps`, or `pods` for the core group: how messages name a resource."""
    return f"{plural}.{group}" if group else plural


def _details(plural: str, group: str, name: str) -> Json:
    details = {"name": name, "group": group, "kind": plural}
    return {k: v for k, v in details.items() if v}


def not_found(plural: str, group: str, name: str) -> ApiError:
    return ApiError(
        404, "NotFound", f'{qualified(plural, group)} "{name}" not found', _details(plural, group, name)
    )


def already_exists(plural: str, group: str, name: str) -> ApiError:
    return ApiError(
        409,
        "AlreadyExists",
        f'{qualified(plural, group)} "{name}" already exists',
        _details(plural, group, name),
    )


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(plural: str, group: str, name: str, why: str = MODIFIED) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(plural, group, name))


def forbidden(plural: str, group: str, name: str, why: str, causes: Sequence[Json] = ()) -> ApiError:
    named = f'{qualified(plural, group)} "{name}" is forbidden: {why}'
    message = named if name else f"{qualified(plural, group)} is forbidden: {why}"
    details = _details(plural, group, name)
    if causes:
        details["causes"] = list(causes)
    return ApiError(403, "Forbidden", message, details)


def invalid(kind: str, group: str, name: str, faults: Iterable[FieldError]) -> ApiError:
    """422 with every fault at once; `kind` is the Kind, not the plural, as the real server has it."""
    listed = list(faults)
    texts = list(dict.fromkeys(str(fault) for fault in listed))
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    titled = f"{kind}.{group}" if group else kind
    details = _details(kind, group, name)
    details["causes"] = [{"reason": f.reason, "message": f.message, "field": f.field} for f in listed]
    return ApiError(422, "Invalid", f'{titled} "{name}" is invalid: {joined}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed() -> ApiError:
    return ApiError(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
    )


def internal(message: str) -> ApiError:
    return ApiError(
        500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]}
    )


def not_implemented(message: str) -> ApiError:
    return ApiError(501, "NotImplemented", message)


def success(plural: str, group: str, name: str, uid: str) -> Json:
    """The Status that answers a finished deletion."""
    details = _details(plural, group, name) | {"uid": uid}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
