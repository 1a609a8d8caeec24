"""Numbers of things as people write them."""

from __future__ import annotations


def plural(number: object, noun: str) -> str:
    """1, "GPU node" -> "1 GPU node"; 3, "GPU node" -> "3 GPU nodes". A number may be a text, such as "0.5".

    :param noun: one that takes an s in the plural.
    """
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"
