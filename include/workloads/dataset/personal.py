"""Finds what looks like personal data or a secret in a text, by simple patterns: a hint where to look, no proof.

What is found is counted, or masked where a row is shown. Names and addresses of people are not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_SEPARATED = r"(?:\(\d{2,4}\)[ .-]?|\d{2,4}[ .-])\d{3,4}[ .-]\d{3,4}"
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_PHONE = re.compile(rf"(?<![\w.+-])(?<!\d )(?:\+\d{{8,15}}|(?:\+\d{{1,3}}[ .-]?)?{_SEPARATED})(?![\w-]| \d)")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SECRET = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"
    r"|\bhf_[A-Za-z0-9]{30,40}\b|\bsk-[A-Za-z0-9_-]{20,}"
)

#: Part of every phone and card number; it begins with a digit, so most of a text is passed over quickly.
_DIGITS = re.compile(r"\d[\d ().+-]{6,}\d")
#: One of these is in every match: to look for them first takes a tenth of the time.
_MARKS = ("PRIVATE KEY-----", "AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "sk-")


def _has_card(text: str) -> bool:
    return _DIGITS.search(text) is not None and any(
        _luhn(re.sub(r"\D", "", match)) for match in _CARD.findall(text)
    )


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: every second digit from the right doubled, digits summed, a multiple of ten."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return len(set(digits)) > 1 and sum(number - 9 * (number > 9) for number in doubled) % 10 == 0


def _has_iban(text: str) -> bool:
    return any(_iban(match.replace(" ", "")) for match in _IBAN.findall(text))


def _iban(text: str) -> bool:
    """ISO 13616: the first four characters at the end, letters as 10 to 35, remainder 1 by 97."""
    return 15 <= len(text) <= 34 and int("".join(str(int(one, 36)) for one in text[4:] + text[:4])) % 97 == 1


#: What is looked for, by the name that the report gives it.
KINDS: dict[str, Callable[[str], bool]] = {
    "email addresses": lambda text: "@" in text and _EMAIL.search(text) is not None,
    "phone numbers": lambda text: _DIGITS.search(text) is not None and _PHONE.search(text) is not None,
    "payment card numbers": _has_card,
    "bank account numbers (IBAN)": _has_iban,
    "keys and tokens": lambda text: any(mark in text for mark in _MARKS) and _SECRET.search(text) is not None,
}


#: In the syntax of RE2, which searches twenty times as fast: one of these is in every text that has something of KINDS.
_ANYTHING = r"@|\p{Nd}[\p{Nd} ().+-]{6,}\p{Nd}|[A-Z]{2}\p{Nd}{2}|" + "|".join(_MARKS)


def may_hold(texts: Sequence[str]) -> list[bool]:
    """Whether `kinds_in` has to be asked of each text: False where it surely finds nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return list(pc.match_substring_regex(pa.array(texts, pa.large_string()), _ANYTHING).to_pylist())
    except UnicodeEncodeError:
        return [True] * len(texts)


def kinds_in(text: str) -> list[str]:
    """The kinds of which a text seems to hold at least one."""
    return [name for name, found in KINDS.items() if found(text)]


_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", re.DOTALL
)


def masked(text: str) -> str:
    """The text with a word in brackets in place of whatever `kinds_in` would name."""
    text = _SECRET.sub("[key]", _KEY_BLOCK.sub("[key]", text))
    text = _EMAIL.sub("[email address]", text)
    text = _IBAN.sub(lambda one: "[account]" if _iban(one[0].replace(" ", "")) else one[0], text)
    text = _CARD.sub(lambda one: "[card]" if _luhn(re.sub(r"\D", "", one[0])) else one[0], text)
    return _PHONE.sub("[phone]", text)
