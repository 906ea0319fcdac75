"""Check digits of well-known numbers, by the entity names that privacy tools give them.

Knows how each is computed. Knows nothing of texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from memaudit.sensitive.shapes import luhn, mod_97

Check = Callable[[str], bool]
"""Return True if a number, without blanks and hyphens, has the right check digits."""

_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
"""Check letters of Spanish numbers, by the remainder of division by 23."""
_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21] * 2
        + [2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10]
        + [22, 25, 24, 23],
        strict=True,
    )
)
"""Values of the odd places of an Italian fiscal code (DM 23 December 1976)."""


def _weighted(number: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=False))


def _card(number: str) -> bool:
    return number.isdecimal() and luhn(number)


def _nhs(number: str) -> bool:
    if not re.fullmatch(r"\d{10}", number):
        return False
    return (11 - _weighted(number, range(10, 1, -1)) % 11) % 11 == int(number[9])


def _pesel(number: str) -> bool:
    if not re.fullmatch(r"\d{11}", number):
        return False
    return -_weighted(number[:10], (1, 3, 7, 9) * 3) % 10 == int(number[10])


def _nif(number: str) -> bool:
    match = re.fullmatch(r"([XYZ]?)(\d{7,8})([A-Z])", number.upper())
    if not match:
        return False
    first = "XYZ".find(match[1]) if match[1] else ""
    return _LETTERS[int(f"{first}{match[2]}") % 23] == match[3]


def _nir(number: str) -> bool:
    match = re.fullmatch(r"([1-478]\d{4}(?:\d\d|2[AB])\d{6})(\d\d)", number.upper())
    if not match:
        return False
    body = match[1].replace("2A", "19").replace("2B", "18")
    return 97 - int(body) % 97 == int(match[2])


def _german_tax_id(number: str) -> bool:
    if not re.fullmatch(r"[1-9]\d{10}", number):
        return False
    product = 10
    for digit in map(int, number[:10]):  # ISO 7064, MOD 11,10
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[10])


def _fiscal_code(number: str) -> bool:
    number, digit = number.upper(), "[0-9LMNP-V]"  # letters stand for digits if two people agree
    if not re.fullmatch(f"[A-Z]{{6}}{digit}{{2}}[A-Z]{digit}{{2}}[A-Z]{digit}{{3}}[A-Z]", number):
        return False
    even = sum(int(sign) if sign.isdecimal() else ord(sign) - 65 for sign in number[1:15:2])
    return chr(65 + (even + sum(_ODD[sign] for sign in number[:15:2])) % 26) == number[15]


CHECKS: Mapping[str, Check] = {
    "CREDIT_CARD": _card,
    "CA_SIN": _card,
    "IT_VAT_CODE": _card,
    "IBAN_CODE": lambda number: mod_97(number.upper()) if number.isalnum() else False,
    "UK_NHS": _nhs,
    "PL_PESEL": _pesel,
    "ES_NIF": _nif,
    "ES_NIE": _nif,
    "FR_NIR": _nir,
    "DE_TAX_ID": _german_tax_id,
    "IT_FISCAL_CODE": _fiscal_code,
}
"""Entity to its check."""


def check_of(entity: str) -> Check | None:
    """Return the check of an entity, None if it has none."""
    check = CHECKS.get(entity)
    return None if check is None else lambda item: check(re.sub(r"[\s./-]", "", item))
