"""What of a text is taken for personal data or a secret, what of ordinary text is not, and that all of it is masked."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.workloads.dataset import personal
from include.workloads.dataset.personal import GAP, KINDS, kinds_in_each, masked
from include.workloads.dataset.personal_forms import FORMS

EMAIL, PHONE, CARD, ACCOUNT, IDENTITY, ADDRESS, KEY = KINDS
#: The digits of Japanese forms.
WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}


def kinds_in(text: str) -> list[str]:
    """What a text holds by the forms alone, with no filter before them."""
    plain = text.translate(personal._TO_ASCII)
    return [kind for kind in KINDS if any(True for form in FORMS[kind] for _ in form.spans(plain, GAP))]


FOUND = [
    ("write to jane.doe+x@mail.example.org today", EMAIL),
    ("call +49 30 1234 5678", PHONE),
    ("or (030) 1234567", PHONE),
    ("+4930123456789", PHONE),
    ("Tel.: 0049 89 12345678", PHONE),
    ("Ruf an: 030 12345678.", PHONE),
    ("appelez le 06 12 34 56 78", PHONE),
    ("(212) 736-5000", PHONE),
    ("212-736-5000 ext. 7", PHONE),
    ("電話 03-1234-5678".translate(WIDE), PHONE),
    ("mi móvil es 612345678", PHONE),
    ("4111 1111 1111 1111", CARD),
    ("5555555555554444", CARD),
    ("3782 822463 10005", CARD),
    ("DE89 3704 0044 0532 0130 00", ACCOUNT),
    ("GB29NWBK60161331926819", ACCOUNT),
    ("SSN 536-90-4399", IDENTITY),
    ("Meine Steuer-ID lautet 36 574 261 809", IDENTITY),
    ("2 95 10 99 126 111 93", IDENTITY),
    ("numéro de sécurité sociale : 295109912611193", IDENTITY),
    ("54362315K", IDENTITY),
    ("X-2482300-W", IDENTITY),
    ("RCCMNL83S18D969H", IDENTITY),
    ("BSN: 111222333", IDENTITY),
    ("NHS number 943-476-5870", IDENTITY),
    ("National Insurance number: AB 12 34 56 C", IDENTITY),
    ("Aadhaar 2341 2341 2346", IDENTITY),
    ("390.533.447-05", IDENTITY),
    ("CPF 39053344705", IDENTITY),
    ("PESEL 44051401359", IDENTITY),
    ("social insurance number 123-456-782", IDENTITY),
    ("personnummer 880320-0016", IDENTITY),
    ("360426199101010071", IDENTITY),
    ("BOXW310820HNERXN09", IDENTITY),
    ("756.9217.0769.85", IDENTITY),
    ("from 129.22.8.215", ADDRESS),
    ("2001:4860:a005::68", ADDRESS),
    ("AKIAIOSFODNN7EXAMPLE", KEY),
    ("-----BEGIN RSA PRIVATE KEY-----", KEY),
    ("hf_" + "a" * 34, KEY),
]
PERSONAL = [text for text, _ in FOUND]
ORDINARY = [
    "user@host",
    "icon@2x.png and git@github.com:org/repo.git",
    "in 2024-11-29 12:30 we had 1234567 rows",
    "29.11.2024, 11/29/2024, 01-02-2024, 02-27-97, 2017-2022, 241129-1230",
    "version 1.2.3 of 10.0.0.1, 3.1415926535897932, 1.2.3.4, Chrome/120.0.0.0",
    "192.168.1.17, 127.0.0.1, 8.8.8.0/24, std::dec, fe80::1, 12:30:45",
    "4111 1111 1111 1112",
    "0000000000000000",
    "1732838400000 1732838400123456",
    "ISBN 978-3-16-148410-0, 9780306406157",
    "DE88 3704 0044 0532 0130 00",
    "price 1 234 567 890, 12,345,678.90 or 1.234.567,89",
    "Boston, MA 02110-1301",
    "c7 45 ec 01 00 00 00 00 01 02 03",
    "default_rng(628174795866951638)",
    "123456789 is nine digits, 36574261809 eleven, 44051401359 too",
    "DFARS 252.227-7013 (c)",
    "d41d8cd98f00b204e9800998ecf8427e 20240101T000000Z",
]


@pytest.mark.parametrize(("text", "kind"), FOUND)
def test_what_is_found_is_named_and_masked(text: str, kind: str) -> None:
    found = kinds_in(text)
    assert kind in found
    assert len(found) == 1 or "NHS" in text, "which is written as phone numbers of America are"
    assert kinds_in_each(["nothing", text]) == [[], found]
    [shown] = masked([text])
    assert kinds_in(shown) == []
    assert "[" in shown
    assert not re.search(r"\d", shown.replace("ext. 7", ""))


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_holds_nothing(text: str) -> None:
    assert kinds_in(text) == []
    assert kinds_in_each([text]) == [[]]


def _numbers(dice: random.Random) -> list[str]:
    """What code, logs, tables and bills are full of."""
    when = datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(10**9))
    money, digest = dice.uniform(0, 1e6), f"{dice.getrandbits(160):040x}"
    return [
        *(when.strftime(form) for form in ("%Y-%m-%d %H:%M:%S", "%d.%m.%Y", "%m/%d/%y", "%Y%m%dT%H%M%SZ")),
        *(f"{when.timestamp():.0f}", f"{when.timestamp() * 1000:.0f}", f"{when.timestamp():.6f}"),
        *(f"{money:,.2f} USD", f"{money:.15f}", f"{dice.randrange(10**9):,}".replace(",", " ")),
        *(
            f"v{dice.randrange(9)}.{dice.randrange(99)}.{dice.randrange(99)}",
            f"{dice.uniform(-180, 180):.6f}",
        ),
        *(digest, digest[:8], digest.upper(), str(uuid.UUID(int=dice.getrandbits(128)))),
        f"978-{dice.randrange(9)}-{dice.randrange(10**4):04d}-{dice.randrange(10**4):04d}-{dice.randrange(9)}",
        " ".join(str(dice.randrange(1000)) for _ in range(8)),
        "\t".join(f"{dice.gauss(0, 100):.3f}" for _ in range(6)),
        str(dice.randrange(10 ** dice.randrange(3, 20))),
    ]


def test_of_ordinary_numbers_next_to_none_is_taken_for_somebody_s() -> None:
    dice = random.Random(1)
    texts = [f"the value is {one} as said" for _ in range(500) for one in _numbers(dice)]
    wrong = [(text, kinds) for text, kinds in zip(texts, kinds_in_each(texts), strict=True) if kinds]
    assert len(texts) > 8000
    assert len(wrong) <= len(texts) // 1000, wrong


MASK = re.compile(r"\[(?:key|email address|account|card|identity number|phone|IP address)\]")


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.text(max_size=30) | st.sampled_from(PERSONAL), max_size=3).map(" ".join), max_size=6)
)
def test_re2_passes_over_nothing_and_all_is_masked(texts: list[str]) -> None:
    assert kinds_in_each(texts) == [kinds_in(text) for text in texts]
    assert not any(kinds_in(MASK.sub("-0-", shown)) for shown in masked(texts))


def test_a_number_whose_word_is_in_the_question_is_masked_too() -> None:
    asked, answer = "What is your BSN?<|im_end|>\n<|im_start|>assistant\n", "111222333, why?"
    assert kinds_in("What is your BSN?\n111222333, why?") == [IDENTITY]
    assert masked([asked, answer]) == [asked, "[identity number], why?"]
    assert masked([]) == []


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        # A mask's own words say nothing of the number behind it, and a masked number still ends what is before it.
        ("Call +1 650 253 0000 please. Order 2125551234", "Call [phone] please. Order 2125551234"),
        ("BSN: 111222333. Order 123456782", "BSN: [identity number]. Order 123456782"),
        ("BSN of a@example.com: 111222333", "BSN of [email address]: [identity number]"),
        ("phone@example.com: 2125551234", "[email address]: [phone]"),
        ("Call ٢١٢٥٥٥١٢٣٤ now", "Call [phone] now"),
        ("a@example.com\x1eb@example.com", "[email address] [email address]"),
        ("DE89 3704 0044 0532 0130 00", "[account]"),
    ],
)
def test_what_is_masked_in_a_row_is_what_is_counted_in_it(row: str, shown: str) -> None:
    assert masked([row]) == [shown]


def test_half_of_a_surrogate_pair_is_searched_as_well() -> None:
    assert kinds_in_each(["\ud800 a@example.com"]) == [[EMAIL]]


LAZY = """
import sys
from include.workloads.dataset.personal import kinds_in_each
assert kinds_in_each(["on 2024-11-29 12:30 there were 1234567 rows"]) == [[]]
assert not {"phonenumbers", "stdnum"} & set(sys.modules)
"""


def test_no_library_is_imported_for_rows_without_anything() -> None:
    """Both together take as long as a fifth of the pod's start."""
    root = Path(__file__).parents[4]
    run = subprocess.run([sys.executable, "-c", LAZY], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
