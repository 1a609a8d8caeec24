"""Numbers of things as people write them."""

from __future__ import annotations


def plural(number: object, noun: str) -> str:
    """1, "GPU node" -> "1 GPU node"; 3, "process" -> "3 processes". A number may be a text, such as "0.5" or "1,200".

    :param noun: one that takes an s in the plural, or es where it ends with such a sound.
    """
    if str(number) == "1":
        return f"{number} {noun}"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'sh', 'ch', 'x', 'z')) else 's'}"
