"""Quantities (`500m`, `1Gi`) in the canonical form in which a real API server stores them."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SHAPE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))((?:[KMGTPE]i)|[numkMGTPE]|(?:[eE][+-]?\d+))?")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_NAMES = {power: name for name, power in _BINARY.items()}
_DECIMAL_NAMES = {power: name for name, power in _DECIMAL.items()}

RULE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def canonical(text: str | int | float) -> str:
    """The same quantity as k8s.io/apimachinery prints it; raises ValueError with the server's words."""
    found = _SHAPE.fullmatch(str(text))
    if not found:
        raise ValueError(RULE)
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix in _BINARY:
        value = number * 1024 ** _BINARY[suffix]
        if abs(value) >= 1024 and value == value.to_integral_value():
            return _binary(int(value))
        return _decimal(value)
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return _exponent(number * Decimal(10) ** int(suffix[1:]))
    return _decimal(number * Decimal(10) ** _DECIMAL[suffix])


def amount(text: str | int | float) -> Decimal:
    """The quantity as a number."""
    found = _SHAPE.fullmatch(str(text))
    if not found:
        raise ValueError(RULE)
    suffix = found[2] or ""
    if suffix in _BINARY:
        return Decimal(found[1]) * Decimal(1024 ** _BINARY[suffix])
    exponent = int(suffix[1:]) if suffix[:1] in ("e", "E") and len(suffix) > 1 else _DECIMAL[suffix]
    return Decimal(found[1]).scaleb(exponent)


def _binary(value: int) -> str:
    power = 0
    while value and value % 1024 == 0 and power < max(_BINARY_NAMES):
        value //= 1024
        power += 1
    return f"{value}{_BINARY_NAMES.get(power, '')}"


def _scaled(value: Decimal) -> tuple[int, int]:
    """Mantissa and a power of ten that is a multiple of three; finer than nano is rounded up."""
    nano = int((value * 10**9).to_integral_value(rounding=ROUND_CEILING))
    power = -9
    while nano and nano % 1000 == 0 and power < 18:
        nano //= 1000
        power += 3
    return (nano, power) if nano else (0, 0)


def _decimal(value: Decimal) -> str:
    mantissa, power = _scaled(value)
    return f"{mantissa}{_DECIMAL_NAMES[power]}"


def _exponent(value: Decimal) -> str:
    mantissa, power = _scaled(value)
    return f"{mantissa}e{power}" if power else str(mantissa)
