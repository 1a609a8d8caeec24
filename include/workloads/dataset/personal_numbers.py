"""Whether digits are somebody's number: judged by phonenumbers (Google's libphonenumber), python-stdnum and ipaddress.

Only what was found by its form is judged, as a judgement takes some microseconds, and no library is imported before.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import re
from collections.abc import Callable

Judge = Callable[[str], bool]

#: Where a number without a country's code may be at home: countries of the languages that most rows are in.
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "BR", "IN", "JP", "AU", "PL")
#: Of these, the ones where it begins with a zero.
_TRUNK_ZERO = ("GB", "DE", "FR", "IT", "NL", "IN", "JP", "AU")
#: What is written like a phone number, and is none: dates, years, and the postal code of the United States.
_NO_PHONE = re.compile(
    r"\d{1,2}([./-])\d{1,2}\1\d{2,4}|(?:19|20)\d\d([./-])\d{1,2}\2\d{1,2}"
    r"|(?:19|20)\d\d ?[-/] ?(?:19|20)\d\d|\d{5}-\d{4}|\d\.\d+"
)
_FILES = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json", "html"))
#: What issuers give out (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay.
_ISSUED = re.compile(
    r"4\d{15}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|352[89]|35[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14}"
)


@functools.lru_cache(maxsize=4096)
def is_phone(text: str) -> bool:
    """Whether somebody can have this phone number, with its country's code or as it is written at home."""
    import phonenumbers

    if _NO_PHONE.fullmatch(text):
        return False
    plain = re.sub(r"^00", "+", text.replace("(0)", ""))
    first = plain.lstrip("(")[:1]
    for region in (None,) if first == "+" else _TRUNK_ZERO if first == "0" else REGIONS:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(plain, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


def is_email(text: str) -> bool:
    """Whether this is somebody's address: no picture for large screens (`a@2x.png`), and no way to a repository."""
    return text.rpartition(".")[2].lower() not in _FILES and not text.startswith("git@")


def is_card(text: str) -> bool:
    """Whether an issuer gives out cards with such a number, and its check digit is right."""
    from stdnum import luhn

    digits = re.sub(r"\D", "", text)
    return len(set(digits)) > 1 and _ISSUED.fullmatch(digits) is not None and luhn.is_valid(digits)


def is_public_address(text: str) -> bool:
    """Whether this is the address of one machine in the Internet: no private one, no network, and no version."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if not address.is_global or address.is_multicast:
        return False
    return address.version == 6 or (not text.endswith(".0") and sum(map(len, text.split("."))) > 6)


def by_stdnum(module: str) -> Judge:
    """The judgement of a module of python-stdnum, such as "de.idnr"."""

    def judge(text: str) -> bool:
        return bool(importlib.import_module(f"stdnum.{module}").is_valid(text))

    return judge
