"""The national ids of presidio-analyzer's recognizers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("presidio_analyzer", reason="needs the extra presidio")

from memaudit.errors import UsageError
from memaudit.sensitive import presidio
from memaudit.sensitive.recognizers import read_recognizers


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def items(text: str) -> list[str]:
    (spans,) = presidio.national_ids().find([text])
    return [text[span.start : span.end] for span in spans]


def test_national_ids_are_found_beside_their_words() -> None:
    assert items("SSN 489-36-8350") == ["489-36-8350"]
    assert items("My NI number is AB 12 34 56 C") == ["AB 12 34 56 C"]
    assert items("Steuer-ID 86095742719") == ["86095742719"]
    assert items("86095742719, 12345678Z") == ["12345678Z"]  # digits alone need a word
    assert items("License v2.0, plate 34 ABC 123, Plz 10115 Berlin") == []


def test_the_note_names_the_recognizers() -> None:
    detector = presidio.national_ids()
    assert detector.kind == "presidio"
    assert "countries (presidio-analyzer 2." in detector.method
    assert "EsNif" in presidio.note()
    assert "Email" not in presidio.note()


def test_a_recognizer_may_be_asked_for_by_name(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("recognizers: [CryptoRecognizer, UkNinoRecognizer, EmailRecognizer]")
    assert [one.category for one in read_recognizers(path)] == ["crypto", "national-id"]
    path.write_text("recognizers: [NoSuchRecognizer]")
    with pytest.raises(UsageError, match="has no pattern recognizer NoSuchRecognizer"):
        read_recognizers(path)
