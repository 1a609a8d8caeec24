"""x-kubernetes-validations: rules in the Common Expression Language, evaluated where the library for it is installed.

Kubernetes' own functions come from `cel_functions`. A rule that the library still cannot compile or run is skipped with
a log line, once: the sandbox must not refuse what a real cluster would accept.
"""

from __future__ import annotations

import logging
from functools import cached_property, lru_cache
from typing import Any

from sandbox.api.crd.cel_functions import FUNCTIONS
from sandbox.api.errors import INVALID, OMITTED, FieldError

Json = dict[str, Any]
log = logging.getLogger(__name__)


def faults(schema: Json, value: object, old: object, path: str = "") -> list[FieldError]:
    """The broken rules at and below a value. `old` None means the object is new, so transition rules do not apply."""
    scope = _Scope(value, old)
    result = [
        fault
        for rule in schema.get("x-kubernetes-validations") or ()
        if (fault := _broken(rule, scope, path))
    ]
    if isinstance(value, dict):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        before = old if isinstance(old, dict) else {}
        for name, item in value.items():
            inner = properties.get(name, extra)
            if isinstance(inner, dict):
                result += faults(inner, item, before.get(name), f"{path}.{name}" if path else name)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            result += faults(schema["items"], item, _counterpart(schema, item, old), f"{path}[{index}]")
    return result


def _counterpart(schema: Json, item: object, old: object) -> Any:
    """The old list item with the same map keys; only lists of type map correlate."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(old, list) or not isinstance(item, dict):
        return None
    return next((o for o in old if all(o.get(k) == item.get(k) for k in keys)), None)


class _Scope:
    """What rules at one place talk about; turned into the language's own values once for all of them."""

    def __init__(self, value: object, old: object) -> None:
        self.value, self.old = value, old

    @cached_property
    def names(self) -> Any:
        import cel as library

        variables = {"self": self.value, "oldSelf": self.old}
        return library.Context(variables=variables, functions=dict(FUNCTIONS))


def _broken(rule: Json, scope: _Scope, path: str) -> FieldError | None:
    text, value = rule["rule"], scope.value
    compares = "oldSelf" in text
    if compares and scope.old is None and not rule.get("optionalOldSelf"):
        return None
    if not compares and scope.old is not None and value == scope.old:
        return None  # what breaks a rule and was there before is forgiven (CRDValidationRatcheting)
    result = _evaluated(text, scope)
    if result is not False:
        return None
    message = rule.get("message") or f"failed rule: {text}"
    if expression := rule.get("messageExpression"):
        message = _evaluated(expression, scope) or message
    shown = OMITTED if isinstance(value, (dict, list)) else value
    where = (path + rule.get("fieldPath", "")).lstrip(".") or "<nil>"
    return FieldError(where, rule.get("reason", INVALID), shown, str(message).strip())


def _evaluated(text: str, scope: _Scope) -> Any:
    program = _program(text)
    if program is None:
        return None
    try:
        return program.execute(scope.names)
    except Exception as error:
        _say_once(text, str(error))
        return None


@lru_cache(maxsize=1024)
def _say_once(text: str, why: str) -> None:
    log.warning("CEL rule %r cannot be evaluated by the sandbox and is skipped: %s", text, why)


@lru_cache(maxsize=1024)
def _program(text: str) -> Any:
    try:
        import cel as library
    except ImportError:
        return None
    try:
        return library.compile(text)
    except Exception as error:
        log.warning("CEL rule %r is not understood by the sandbox and is skipped: %s", text, error)
        return None
