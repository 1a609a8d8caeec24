"""The form of a dataset's digest: only digests of one form tell whether rows are the same.

A digest names its form before its colon. Releases before took it from the rows in JSON (`sha256:`).
"""

from __future__ import annotations

#: Before the digits of a digest that is taken from the columns: a SHA-256 too, of something else.
FORM = "sha256+columns"
#: Digits of a digest that people are shown, and may ask by.
SHORT = 12


def written(hexadecimal: str) -> str:
    """The digest with its form."""
    return f"{FORM}:{hexadecimal}"


def digits(digest: str) -> str:
    """The digits alone, of a digest with its form or without."""
    return digest.rpartition(":")[2]


def short(digest: str) -> str:
    """A digest as people compare it: the first of its digits."""
    return digits(digest)[:SHORT]


def comparable(one: str, other: str) -> bool:
    """Whether two digests are of one form, so that other digits mean other rows."""
    return one.rpartition(":")[0] == other.rpartition(":")[0]
