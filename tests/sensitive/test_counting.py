"""Detectors with and without the packages of the extra, and counts by window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from memaudit.errors import UsageError
from memaudit.sensitive.categories import CATEGORIES
from memaudit.sensitive.counting import count_content
from memaudit.sensitive.detectors import (
    Detector,
    Kind,
    check_region,
    choose_detectors,
    make_detectors,
    not_searched,
)
from memaudit.sensitive.shapes import Span

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")


def count_text(text: str, detectors: tuple[Detector, ...], prompt: str = "") -> list[int]:
    texts, rows = [text, prompt], np.array([[0], [1]], dtype=np.int32)
    decode = lambda ids: ["".join(texts[number] for number in row) for row in ids]  # noqa: E731
    return count_content(rows[:1], rows[1:], decode, detectors)[0].tolist()


def counted(text: str, detectors: tuple[Detector, ...], prompt: str = "") -> dict[str, int]:
    """The counts by category, without those that are 0."""
    numbers = count_text(text, detectors, prompt)
    return {one.category: n for one, n in zip(detectors, numbers, strict=True) if n}


@pytest.mark.parametrize(
    ("prompt", "phones"),
    [
        ("", 2),
        ("Call me at +49 30 901820.", 1),
        ("+49 30 901820, +49 30 901821", 0),
        ("+49 30 9018201 or x+49 30 901820", 2),  # parts of longer ones give nothing away
        ("+4930901820", 2),  # written otherwise: still the model's own words
    ],
)
def test_items_that_the_prompt_holds_do_not_count(prompt: str, phones: int) -> None:
    text = "Shall we call +49 30 901820 or +49 30 901821?"
    assert count_text(text, make_detectors("DE"), prompt)[-1] == phones


@pytest.mark.parametrize(("text", "phones"), [("call +49 30 90182", 0), ("+49 30 90182 now", 1)])
def test_an_item_cut_off_by_the_end_is_part_of_the_prompts(text: str, phones: int) -> None:
    prompt = "My number is +49 30 901820."
    assert count_text(text, make_detectors("DE"), prompt)[-1] == phones


TEXTS = [
    "nothing here, not even 12.5 %. ",
    "ann@example.org and bob@example.org, +49 30 901820",
    "IBAN DE89370400440532013000, card 4111 1111 1111 1111, (415) 555-2671",
    "postgres" + "://ann:secret1@example.org:5432 or tel. 556-555-0142",
]


@pytest.mark.parametrize("packages", [True, False])
def test_what_is_looked_for_and_what_is_not(packages: bool) -> None:
    detectors = choose_detectors(make_detectors("US", packages=packages), ["all"])
    missing = not_searched(detectors)
    assert [one.category for one in detectors] + [*missing] == [*CATEGORIES][1:]  # no list given
    assert [*missing] == ["national-id", "name", "address"]
    assert "memaudit-dsp[presidio]" in missing["national-id"]
    some = choose_detectors(detectors, ["phone", "email"])
    assert [one.category for one in some] == ["email", "phone"]
    assert not_searched(some)["card"] == "sensitive.categories leaves it out"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fax", "no detector for fax; choose from all, account, birth"), ("name", "entity_model")],
)
def test_a_category_without_a_detector_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"sensitive\.categories: .*{reason}"):
        choose_detectors(make_detectors("US"), ["all", name])


def marker(category: str, kind: Kind, word: str) -> Detector:
    def find(texts: Sequence[str]) -> list[list[Span]]:
        places = [text.find(word) for text in texts]
        return [[Span(at, at + len(word))] if at >= 0 else [] for at in places]

    return Detector(category, kind, f"finds {word}", find)


def test_a_category_has_one_detector_and_the_users_claim_first() -> None:
    added = (marker("staff-id", "recognizers", "+49 30"), marker("email", "recognizers", "ann at"))
    detectors = choose_detectors((*make_detectors("DE"), *added), ["phone"])
    assert [(one.category, one.title) for one in detectors] == [
        ("staff-id", "staff ids"),
        ("email", "e-mail addresses"),
        ("phone", "phone numbers"),
    ]
    assert detectors[1].method == "finds ann at"  # its own rule was left out
    joined = choose_detectors((*make_detectors("DE"), *added), ["all"])
    assert counted("ann at x.org, bob@x.org, +49 30 901820", joined) == {"staff-id": 1, "email": 2}


def test_the_word_before_a_number_may_stand_in_the_prefix() -> None:
    detectors = make_detectors("US")
    assert counted("4711.", detectors) == {}
    assert counted("4711.", detectors, "Your PIN is ") == {"code": 1}
    assert counted("4711 now", detectors, "PIN 4711, again: PIN ") == {}  # the prompt gave it
    # A number that begins in the prefix is the suffix's if most of it is there.
    assert counted("-555-2671 x", detectors, "call 415") == {"phone": 1}
    assert counted("2671 x", detectors, "call 415-555-") == {}
    assert counted("zoe@q.example", detectors, "some words") == {"email": 1}  # joined as they are


def test_the_method_says_what_was_used() -> None:
    plain = {one.category: one.method for one in make_detectors("US", packages=False)}
    assert plain["phone"] == "form: international with +, or North American in groups"
    assert plain["account"] == "IBAN: form and check digits (mod 97)"
    better = {one.category: one.method for one in make_detectors("DE")}
    assert "national of DE (phonenumbers " in better["phone"]
    assert "(python-stdnum " in better["account"]


@pytest.mark.parametrize(
    ("packages", "last"),
    # 556 is no area code: a numbering plan knows, a rule does not.
    [(True, [1, 0, 0, 0, 0]), (False, [1, 0, 0, 0, 1])],
)
def test_counts(packages: bool, last: list[int]) -> None:
    detectors = make_detectors("US", packages=packages)
    counts = [count_text(text, detectors) for text in TEXTS]
    # The address of the URL's server is part of its password, and counted once.
    assert [row[:4] + row[-1:] for row in counts] == [
        [0] * 5,
        [0, 2, 0, 0, 1],
        [0, 0, 1, 1, 1],
        last,
    ]


def test_national_numbers_are_those_of_the_region() -> None:
    text = "Tel. 030 901820"
    assert count_text(text, make_detectors("DE"))[-1] == 1
    assert count_text(text, make_detectors("US"))[-1] == 0


def test_a_country_that_there_is_not_is_refused() -> None:
    check_region("DE")
    with pytest.raises(UsageError, match=r"sensitive\.region = XX: phonenumbers does not know"):
        check_region("XX")


def test_bare_digits_and_dates_are_no_phone_numbers() -> None:
    assert count_text("6502530000 2125550142", make_detectors("US"))[-1] == 0
    assert count_text("at 2013.05.02 10:30, 2012/11/05 2130", make_detectors("US"))[-1] == 0
    assert count_text("650.253.0000 +49 30 90 18 20", make_detectors("US"))[-1] == 2


def test_a_country_has_its_own_structure() -> None:
    rest = "WEST12345698765432"
    number = int("".join(str(int(sign, 36)) for sign in f"{rest}XX00"))
    nowhere = f"XX{98 - number % 97:02}{rest}"  # right digits, and no such country
    assert count_text(nowhere, make_detectors("US", packages=False))[2] == 1
    assert count_text(nowhere, make_detectors("US"))[2] == 0


def test_windows_are_counted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memaudit.sensitive.counting._CHUNK", 3)
    held: list[int] = []

    def decode(ids: Sequence[np.ndarray] | np.ndarray) -> list[str]:
        held.append(len(ids))
        return ["".join(TEXTS[number] for number in row) for row in ids]

    ids = np.array([[0], [1], [2], [3], [1], [0], [2], [1]], dtype=np.int32)
    prefixes = np.array([[0]] * 7 + [[1]], dtype=np.int32)
    counts = count_content(ids, prefixes, decode, make_detectors("US"))
    assert held == [3, 3, 2, 3, 3, 2, 2, 2, 2]  # whole prefixes only where something follows
    assert counts.dtype == np.uint16
    assert counts[:, 1].tolist() == [0, 2, 0, 0, 2, 0, 0, 0]


def test_more_than_can_be_counted_is_the_most() -> None:
    assert count_text("a@b.de " * 70_000, make_detectors("US", packages=False))[1] == 65535
