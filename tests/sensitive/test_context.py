"""Numbers that count only beside a word: birth dates, codes, numbers of orders and cases."""

from __future__ import annotations

import pytest

from memaudit.sensitive import context


def items(kind: str, text: str) -> list[str]:
    return [text[span.start : span.end] for span in getattr(context, kind)(text)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("I was born on March 3, 1984, in Ohio", ["March 3, 1984"]),
        ('"date_of_birth": "1984-03-12"', ["1984-03-12"]),
        ("Geb. 12.03.1984; am 1. Mai 1990 geboren", ["12.03.1984", "1. Mai 1990"]),
        (
            "née le 1er mars 1984, nacida el 3 de mayo de 1990",
            ["1er mars 1984", "3 de mayo de 1990"],
        ),
        ("nato a Roma il 3 marzo 1984", ["3 marzo 1984"]),
        ("Posted on 12.03.1984, born in Ohio in 1990", []),
        ("He was born to Mozart's age on 27 January 1756", []),  # nobody alive
    ],
)
def test_birth_dates(text: str, values: list[str]) -> None:
    assert items("birth_dates", text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Your PIN is 4711, not 4712", ["4711"]),
        ("483920 is your verification code", ["483920"]),
        ("Ihr Sicherheitscode: 123-456. TAN 9911", ["123-456", "9911"]),
        ("code d'accès 4711, código PIN: 9912, codice di accesso 3344", ["4711", "9912", "3344"]),
        ("CVV 123", ["123"]),
        ("The door opens with the code 4624. Der Code lautet 4711", ["4624", "4711"]),
        ("the code 404, the source code 2019, the code 2.0", []),
        ("error code 4040, ZIP code 90210, Code 4711, PIN 4711.50, PIN 123", []),
        ("The pins cost 1200 €, or 1,200", []),
    ],
)
def test_codes(text: str, values: list[str]) -> None:
    assert items("codes", text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Order number: ORD-2024-00731; invoice 4711234", ["ORD-2024-00731", "4711234"]),
        ('"customer_id": "48213"', ["48213"]),
        ("Kundennummer 100234, Rechnung Nr. 2024/17", ["100234", "2024/17"]),
        ("numéro de commande : 12345678, factura n.º 5845-675", ["12345678", "5845-675"]),
        ("numero di pratica AB-12345", ["AB-12345"]),
        ("order 12 of 2,400; case 3; in order 2019-2020; order 2024-05-01", []),
        ("{fileID: 2100000, guid: a8a57ae}", []),
    ],
)
def test_record_numbers(text: str, values: list[str]) -> None:
    assert items("record_numbers", text) == values


@pytest.mark.parametrize(
    "piece", ["1", "1 ", "pin ", "order number ", "born ", "1.1.", "a1-", "code d'", "geb. 1. mai "]
)
def test_hostile_text_takes_no_time(piece: str) -> None:
    for kind in ("birth_dates", "codes", "record_numbers"):
        items(kind, piece * 20_000)
