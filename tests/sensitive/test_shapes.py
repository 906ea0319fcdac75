"""Shapes: what is one, and what only looks like one. All numbers here are made up or published
as examples; keys are put together so that no scanner takes this file for a leak.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memaudit.sensitive import shapes


def found(kind: str, text: str) -> list[str]:
    return [text[span.start : span.end] for span in getattr(shapes, kind)(text)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("write to ann.lee+x@mail.example.org, please", ["ann.lee+x@mail.example.org"]),
        ("<a_b%c@example.co.uk>; c-d@x-y.museum.", ["a_b%c@example.co.uk", "c-d@x-y.museum"]),
        ("john@example.com.", ["john@example.com"]),
        ("a@b, @home, x@y.z, x@@y.com, a..b@c.d1", []),
        ("@decorator.name def f(): pass", []),
    ],
)
def test_emails(text: str, values: list[str]) -> None:
    assert found("emails", text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("card 4111 1111 1111 1111.", ["4111 1111 1111 1111"]),
        ("4111-1111-1111-1111 5555555555554444", ["4111-1111-1111-1111", "5555555555554444"]),
        ("amex 3782 822463 10005, 6011111111111117", ["3782 822463 10005", "6011111111111117"]),
        ("2223003122003222 3530111333300000", ["2223003122003222", "3530111333300000"]),
        ("4111 1111 1111 1112", []),  # check digit
        ("1111 1111 1111 1117", []),  # no network
        ("411111111111111", []),  # length
        ("4111 1111-1111 1111, 41 11 11 11 11 11 11 11", []),  # grouping
        ("0.4111111111111111 x4111111111111111 4111111111111111.5", []),  # inside something else
    ],
)
def test_cards(text: str, values: list[str]) -> None:
    assert found("cards", text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("to DE89370400440532013000 today", ["DE89370400440532013000"]),
        ("GB82 WEST 1234 5698 7654 32 AND MORE", ["GB82 WEST 1234 5698 7654 32"]),
        ("NO93 8601 1117 947, BE68 5390 0754 7034", ["NO93 8601 1117 947", "BE68 5390 0754 7034"]),
        ("DE88370400440532013000", []),
        ("XDE89370400440532013000", []),
        ("DE89", []),
    ],
)
def test_ibans(text: str, values: list[str]) -> None:
    assert found("ibans", text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("call +49 30 901820 or (415) 555-2671", ["+49 30 901820", "(415) 555-2671"]),
        ("callback 556-555-0142\n", ["556-555-0142"]),
        ("1-650-253-0000; 650.253.0000", ["1-650-253-0000", "650.253.0000"]),
        ("2011-10-17 12345678 555-0142 115-555-0142 6502530000", []),
        ("192.168.100.200 123-45-6789 +12", []),
    ],
)
def test_phones(text: str, values: list[str]) -> None:
    assert found("phones", text) == values


KEYS = {
    "amazon": "AKIA" + "IOSFODNN7EXAMPLE",
    "github": "ghp" + "_" + "a1B2" * 9,
    "slack": "xoxb" + "-" + "123456789012-abcdef",
    "stripe": "sk" + "_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "google": "AIza" + "SyA-1_" + "b" * 29,
    "hugging face": "hf" + "_" + "a" * 34,
    "web token": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + ".c2lnbmF0dXJl",
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "url": "postgres" + "://admin:hunter22@db",
}


@pytest.mark.parametrize("name", KEYS)
def test_keys(name: str) -> None:
    assert found("keys", f"key={KEYS[name]} end") == [KEYS[name]]


@pytest.mark.parametrize(
    "text",
    ["AKIA123", "YH69-SHH4-ZDTV", "sk_test", "-----BEGIN PUBLIC KEY-----", "https://example.org/a"],
)
def test_what_is_no_key(text: str) -> None:
    assert found("keys", text) == []


def test_check_digits() -> None:
    assert shapes.luhn("79927398713")
    assert not any(shapes.luhn(f"7992739871{digit}") for digit in "012456789")
    assert shapes.mod_97("GB82WEST12345698765432")
    assert not shapes.mod_97("GB82WEST12345698765423")
    assert not shapes.mod_97("GB82")


@given(st.text(st.sampled_from("aA0149+-. @:/_()DEGB\n"), max_size=300))
def test_spans_lie_in_the_text_one_after_another(text: str) -> None:
    for kind in ("emails", "cards", "ibans", "phones", "keys"):
        end = 0
        for span in getattr(shapes, kind)(text):
            assert end <= span.start < span.end <= len(text)
            end = span.end


@pytest.mark.parametrize("piece", ["a.", "a@", "a@a.", "1 ", "1234 ", "AB12", "sk-", "+1", "eyJ"])
def test_hostile_text_takes_no_time(piece: str) -> None:
    text = piece * 20_000
    for kind in ("emails", "cards", "ibans", "phones", "keys"):
        list(getattr(shapes, kind)(text))  # a rule that backtracks would take hours
