"""Secrets of a list: found in any Unicode form, and shown nowhere."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from memaudit.errors import UsageError
from memaudit.sensitive.listed_secrets import read_secrets


def sign(sha256: str) -> str:
    assert len(sha256) == 64
    return "ab" * 32


def written(folder: Path, content: str, name: str = "secrets.txt") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def items(path: Path, text: str) -> dict[str, list[str]]:
    return {
        one.category: [text[span.start : span.end] for span in next(iter(one.find([text])))]
        for one in read_secrets(path, sign)
    }


def test_exact_strings_are_found(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffHilde 4711\n\n  47-11  \nHilde\n")
    assert items(path, "hilde, Hilde 4711, Hildegard; 47-11") == {
        "secrets": ["Hilde 4711", "Hilde", "47-11"]
    }
    (detector,) = read_secrets(path, sign)
    assert detector.method == "exact strings: 3 of secrets.txt (HMAC-SHA256 abababababababab)"
    assert (detector.kind, detector.title) == ("secrets", "listed secrets")
    assert "Hilde" not in repr(detector)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_every_unicode_form_is_found(tmp_path: Path, form: str, listed: str) -> None:
    secret = "Zoë Løfgrén 각힣ﬁ"
    path = written(tmp_path, unicodedata.normalize(listed, secret))  # type: ignore[arg-type]
    text = unicodedata.normalize(form, f"e\u0301 {secret}, e\u0301")  # type: ignore[arg-type]
    wanted = unicodedata.normalize(form, secret)  # type: ignore[arg-type]
    assert items(path, text) == {"secrets": [wanted]}


def test_full_width_digits_are_digits(tmp_path: Path) -> None:
    path = written(tmp_path, "471123")
    assert items(path, "a４７１１２３b") == {"secrets": ["４７１１２３"]}
    assert items(path, "a４７１１２３４b") == {"secrets": []}


@pytest.mark.parametrize("text", ["14711", "47110", "x14711x", "147110", "٤4711", "4711٤"])
def test_a_number_in_a_longer_number_is_another(tmp_path: Path, text: str) -> None:
    assert items(written(tmp_path, "4711"), f"{text}, 4711.") == {"secrets": ["4711"]}
    assert items(written(tmp_path, "4711"), text) == {"secrets": []}


def test_a_table_has_categories(tmp_path: Path) -> None:
    table = 'value,category\n"Doe, Jane",customer\nBlue Heron,\n,\n4711-22,order-id\n'
    path = written(tmp_path, table, "list.csv")
    assert items(path, "Doe, Jane of Blue Heron: 4711-22") == {
        "customer": ["Doe, Jane"],
        "secrets": ["Blue Heron"],
        "order-id": ["4711-22"],
    }


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "Hilde\nnor\n", ":2: shorter than 4 characters"),
        ("a.txt", "e\u0301e\u0301x\n", ":1: shorter than 4 characters"),
        ("a.txt", "\n \n", ": holds no secret"),
        ("a.csv", "Hilde\nJorun\n", ": a .csv has the columns value and category, and no others"),
        ("a.csv", "value,note\nHilde,x\n", ": a .csv has the columns value and category"),
        ("a.csv", "value,category\nHilde,Norvaleson\n", ":2: a category is small letters"),
        ("a.csv", "value,category\nHilde,a,b\n", ":2: a category is small letters"),
        ("a.csv", 'value\n"Hilde', ": not a CSV table"),
    ],
)
def test_bad_files_are_refused_without_their_content(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(UsageError) as error:
        read_secrets(path, sign)
    message = str(error.value)
    assert message.startswith(f"--secrets {path}{reason}")
    assert not any(word in message for word in ("Hilde", "nor\n", "Jorun", "Norvaleson"))


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"Hild\xe9\n")
    for bad, reason in (
        (path, "not UTF-8"),
        (tmp_path, "not a regular"),
        (tmp_path / "b", "cannot"),
    ):
        with pytest.raises(UsageError, match=reason):
            read_secrets(bad, sign)


def test_many_secrets_take_little_time(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(f"client-{number:06}" for number in range(100_000)))
    (detector,) = read_secrets(path, sign)
    text = "client-000001 " * 1000 + "client-9" * 1000
    (spans,) = detector.find([text])
    assert len(list(spans)) == 1000
