"""Finds what looks like personal data or a secret in a text: a pattern finds its form, a library judges its number.

What is found is counted, or masked where a row is shown: a hint where to look, no proof. Names and addresses of people
are not recognised. RE2 passes over most rows first, in a twentieth of the time of Python's expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from include.workloads.dataset.personal_forms import FORMS, Form

#: What is looked for, by the name that the report gives it.
KINDS = tuple(FORMS)

#: Characters between a word and its number, in a row that is counted, and in one that is shown, where the tokens of the
#: chat template are between a question and its answer too.
GAP, SHOWN_GAP = 30, 120
#: In RE2's syntax: one of these is in every text that has anything, and the others are asked of such texts alone.
_ANYTHING = (
    r"@|\p{Nd}[\p{Nd} ().+/-]{6,}[\p{Nd}A-Z]|[A-Z]{2}\p{Nd}{2}|[XYZ]-?\p{Nd}{7}"
    r"|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2}|AKIA|gh[pousr]_|hf_|sk-|PRIVATE KEY-----"
)
#: The digits of Arabic, Persian, Hindi, and of Japanese forms, which are read as those of ASCII.
_OTHER_DIGITS = "".join(chr(first + digit) for first in (0x660, 0x6F0, 0x966, 0xFF10) for digit in range(10))
_TO_ASCII = str.maketrans(_OTHER_DIGITS, "0123456789" * 4)


def _filters(forms: Iterable[Form]) -> list[str]:
    """What finds at least all that these forms count, in two expressions: RE2 is slow where they are one."""
    alone = "|".join(form.core for form in forms if not form.words)
    words = "|".join(form.words for form in forms if form.words)
    return [*([alone] if alone else []), *([rf"(?i:{words})[^0-9]{{0,{GAP + 2}}}[0-9]"] if words else [])]


_FILTERS = {kind: _filters(forms) for kind, forms in FORMS.items()}


def kinds_in_each(texts: Sequence[str]) -> list[list[str]]:
    """For each text, the kinds of which it seems to hold at least one."""
    found: list[list[str]] = [[] for _ in texts]
    places = _places(_column(texts), [_ANYTHING])
    suspicious = [texts[place] for place in places]
    for odd in _places(_column(suspicious), [f"[{_OTHER_DIGITS}]"]):
        suspicious[odd] = suspicious[odd].translate(_TO_ASCII)
    searched = _column(suspicious)
    for kind, filters in _FILTERS.items():
        for hit in _places(searched, filters):
            if _has(kind, suspicious[hit]):
                found[places[hit]].append(kind)
    return found


def _column(texts: Sequence[str]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may have it
        return pa.array([one.encode("utf-8", "replace").decode() for one in texts], pa.large_string())


def _places(searched: Any, filters: Iterable[str]) -> list[int]:
    """Where one of the expressions is found."""
    import pyarrow.compute as pc

    if not len(searched):
        return []
    hits = set[int]()
    for one in filters:
        hits.update(pc.indices_nonzero(pc.match_substring_regex(searched, one)).to_pylist())
    return sorted(hits)


def _has(kind: str, text: str) -> bool:
    return any(True for form in FORMS[kind] for _ in form.spans(text, GAP))


_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", re.DOTALL
)
#: The first of these is looked for first: a part of an account's number may look like a phone's.
_MASKS = {
    "keys and tokens": "[key]",
    "email addresses": "[email address]",
    "bank account numbers (IBAN)": "[account]",
    "payment card numbers": "[card]",
    "national identity numbers": "[identity number]",
    "phone numbers": "[phone]",
    "IP addresses": "[IP address]",
}
#: Between pieces of a row, and in the place of what is found in it: no form has them.
_BETWEEN, _TAKEN = "\x1e", "\x1d"


def masked(pieces: Sequence[str]) -> list[str]:
    """The pieces of a row, each with a word in brackets in place of whatever `kinds_in_each` would name in the row."""
    text = _BETWEEN.join(_KEY_BLOCK.sub("[key]", one).replace(_BETWEEN, " ") for one in pieces)
    left, masks = text.translate(_TO_ASCII), dict[tuple[int, int], str]()
    while found := _spans(left):
        masks |= found
        left = _replaced(left, {span: _blank(left[span[0] : span[1]]) for span in found})
    return _replaced(text, masks).split(_BETWEEN) if pieces else []


def _spans(text: str) -> dict[tuple[int, int], str]:
    """Where a text has something, and its mask; of two that overlap, the one that is looked for first."""
    found, taken = dict[tuple[int, int], str](), bytearray(len(text))
    for kind, mask in _MASKS.items():
        for form in FORMS[kind]:
            for start, end in form.spans(text, SHOWN_GAP):
                if not any(taken[start:end]):
                    found[start, end] = mask
                    taken[start:end] = b"\1" * (end - start)
    return found


def _replaced(text: str, parts: Mapping[tuple[int, int], str]) -> str:
    """A text with others in the place of its parts."""
    pieces, at = list[str](), 0
    for (start, end), other in sorted(parts.items()):
        pieces += (text[at:start], other)
        at = end
    return "".join((*pieces, text[at:]))


def _blank(part: str) -> str:
    """As long a text without words and numbers; like a number, it ends what belongs to a word before it."""
    before, after = len(part) // 2, (len(part) - 1) // 2
    return _TAKEN * before + ("0" if re.search("[0-9]", part) else _TAKEN) + _TAKEN * after
