"""How what may be personal data or a secret is written, and what judges it: the table behind `personal`.

A number is listed where its check digits or its form leave no doubt, or beside the word that people write before it:
of any nine digits, one in eleven would do as a Dutch citizen's number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from include.workloads.dataset import personal_numbers as numbers
from include.workloads.dataset.personal_numbers import Judge, by_stdnum

#: What a number is apart from: it is no part of a longer one, of a path, of a name or of a fraction.
_BEFORE, _AFTER = r"(?<![\w.,/+*#-])(?<!\d )", r"(?![\w/+*=-])(?![.,:]\d)(?! \d)"


@dataclass(frozen=True)
class Form:
    """How something is written.

    :param core: its pattern, in what Python and RE2 both read, without groups that capture. A digit is one of ASCII.
    :param judge: whether such a text is one; None where its form says so.
    :param words: one of them stands before it where it is counted. They are read without regard to case.
    :param apart: whether it is no part of something longer.
    """

    core: str
    judge: Judge | None = None
    words: str = ""
    apart: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "core", self.core.replace(r"\d", "[0-9]"))

    def spans(self, text: str, gap: int) -> Iterator[tuple[int, int]]:
        """Where a text has it, with at most so many characters between a word and its number."""
        for match in _compiled(self, gap).finditer(text):
            if self.judge is None or self.judge(match[1]):
                yield match.span(1)


@functools.cache
def _compiled(form: Form, gap: int) -> re.Pattern[str]:
    core = f"{_BEFORE}({form.core}){_AFTER}" if form.apart else f"({form.core})"
    return re.compile(rf"(?i:{form.words})[^0-9]{{0,{gap}}}{core}" if form.words else core)


def _worded(words: str, module: str, core: str) -> Form:
    return Form(core, by_stdnum(module), words)


_EMAIL = r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
_PHONE_WORDS = (
    r"\b(?:tel|phone|mobile|fax|cell|call|dial|contact|whatsapp|sms|telefon|handy|portable|t[eé]l[eé]phone|celular"
    r"|cellulare|m[oó]vil|tel[eé]fono|telefone|telefoon|kom[oó]rka)\b|電話|电话|手机|тел|फ़ोन"
)
_PHONES = (
    r"(?:\+|00)[1-9](?:[ ./-]?\(?\d\)?){6,14}",
    r"\(\d{2,5}\) ?\d{2,4}(?:[ -]?\d{2,4}){1,3}",
    r"(?:1[ .-])?(?:\d{3}-\d{3}-\d{4}|\d{3}\.\d{3}\.\d{4}|\d{3} \d{3} \d{4})",
    r"0\d{1,4}[ /-]\d{5,8}",
    r"0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,4}",
    r"0\d(?:[ .]\d\d){4}",
)
_IBAN = r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
_NINO = r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"
_TAX_ID = r"\bsteuer-?id|identifikationsnummer|steuernummer|\bidnr\b|\btax id"

#: By the name that the report gives them.
FORMS: Mapping[str, tuple[Form, ...]] = {
    "email addresses": (Form(_EMAIL, numbers.is_email, apart=False),),
    "phone numbers": (
        *(Form(core, numbers.is_phone) for core in _PHONES),
        Form(r"\d(?:[ .()/-]{0,2}\d){6,13}", numbers.is_phone, _PHONE_WORDS),
    ),
    "payment card numbers": (
        Form(r"\d{14,16}", numbers.is_card),
        Form(r"\d{4}(?:[ -]\d{4}){3}", numbers.is_card),
        Form(r"\d{4}[ -]\d{6}[ -]\d{4,5}", numbers.is_card),
    ),
    "bank account numbers (IBAN)": (Form(_IBAN, by_stdnum("iban")),),
    "national identity numbers": (
        Form(r"\d{3}-\d{2}-\d{4}", by_stdnum("us.ssn")),
        Form(r"[12] \d{2} \d{2} \d[0-9AB] \d{3} \d{3} \d{2}", by_stdnum("fr.nir")),
        Form(r"\d{8}-?[A-Z]", by_stdnum("es.dni")),
        Form(r"[XYZ]-?\d{7}-?[A-Z]", by_stdnum("es.nie")),
        Form(r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", by_stdnum("it.codicefiscale")),
        Form(r"\d{3}\.\d{3}\.\d{3}-\d{2}", by_stdnum("br.cpf")),
        Form(r"\d{6}(?:19|20)\d{9}[0-9X]", by_stdnum("cn.ric")),
        Form(r"\d{6}-[1-8]\d{6}", by_stdnum("kr.rrn")),
        Form(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", by_stdnum("mx.curp")),
        Form(r"756\.\d{4}\.\d{4}\.\d{2}", by_stdnum("ch.ssn")),
        Form(r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", by_stdnum("be.nn")),
        _worded(r"\bnir\b|sécurité sociale|n° ?sécu", "fr.nir", r"[12]\d{4}\d[0-9AB]\d{8}"),
        _worded(r"\bcpf\b", "br.cpf", r"\d{11}"),
        _worded(_TAX_ID, "de.idnr", r"\d{2} ?\d{3} ?\d{3} ?\d{3}"),
        _worded(r"\bbsn\b|burgerservicenummer|sofinummer", "nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}"),
        _worded(r"\bnhs\b", "gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}"),
        _worded(r"aadh?aar|आधार", "in_.aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}"),
        _worded(r"\bpesel\b", "pl.pesel", r"\d{11}"),
        _worded(r"social insurance|\bsin number", "ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}"),
        _worded(r"personnummer", "se.personnummer", r"(?:\d{2})?\d{6}[+-]?\d{4}"),
        _worded(r"kimlik|\btckn\b", "tr.tckimlik", r"\d{11}"),
        Form(_NINO, words=r"\bnino\b|national insurance|\bni number"),
    ),
    "IP addresses": (
        Form(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", numbers.is_public_address),
        Form(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}", numbers.is_public_address),
    ),
    "keys and tokens": (
        Form(
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"
            r"|\bhf_[A-Za-z0-9]{30,40}\b|\bsk-[A-Za-z0-9_-]{20,}",
            apart=False,
        ),
    ),
}
