"""Recognizers of a file: what they find, and what of a file is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from memaudit.errors import UsageError
from memaudit.sensitive.check_digits import check_of
from memaudit.sensitive.recognizers import read_recognizers

BADGE = {
    "name": "badge",
    "supported_entity": "BADGE_NUMBER",
    "supported_language": "en",
    "patterns": [{"name": "form", "regex": r"\bB-\d{5}\b", "score": 0.8}],
}
WEAK = {
    "name": "zip",
    "supported_entity": "ZIP_CODE",
    "supported_languages": [{"language": "de", "context": ["plz"]}, "en"],
    "patterns": [{"name": "weak", "regex": r"\b\d{5}\b", "score": 0.05}],
    "context": ["zip"],
}


def write(folder: Path, *recognizers: Any, **top: Any) -> Path:
    path = folder / "own.yaml"
    content = json.loads(json.dumps(top | {"recognizers": list(recognizers)}))  # without aliases
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def items(path: Path, text: str) -> dict[str, list[str]]:
    return {
        one.category: [text[span.start : span.end] for span in next(iter(one.find([text])))]
        for one in read_recognizers(path)
    }


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        read_recognizers(path)
    message = str(error.value)
    assert message.startswith(f"--recognizers {path}: ")
    assert "\n" not in message
    return message.removeprefix(f"--recognizers {path}: ")


def test_patterns_context_and_deny_lists(tmp_path: Path) -> None:
    listed = {
        "name": "projects",
        "supported_entity": "PROJECT",
        "deny_list": ["Blue Heron", "Heron (old)"],
    }
    off = {**BADGE, "name": "off", "supported_entity": "OFF", "enabled": False}
    path = write(tmp_path, BADGE, WEAK, listed, off, global_regex_flags=2)
    text = f"b-12345, {60 * '-'} zip: 10115, 20000; blue heron and Heron (old), Herons. " + 60 * "-"
    assert items(path, text + "30000 PLZ 10117") == {
        "badge-number": ["b-12345"],
        "zip-code": ["10115", "20000", "30000", "10117"],
        "project": ["blue heron", "Heron (old)"],
    }
    assert items(path, "30000, " + 60 * "-" + " 20000")["zip-code"] == []  # no word beside them
    badge, *_ = read_recognizers(path)
    assert (badge.kind, badge.title, badge.method) == (
        "recognizers",
        "badge numbers",
        "badge of own.yaml",
    )


@pytest.mark.parametrize(
    ("entity", "right", "wrong"),
    [
        ("CREDIT_CARD", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("IBAN_CODE", "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00"),
        ("UK_NHS", "943 476 5919", "943 476 5918"),
        ("ES_NIF", "12345678Z", "12345678A"),
        ("ES_NIE", "X1234567L", "X1234567M"),
        ("PL_PESEL", "44051401359", "44051401358"),
        ("FR_NIR", "2 55 08 14 168 025 38", "2 55 08 14 168 025 39"),
        ("DE_TAX_ID", "86095742719", "86095742718"),
        ("IT_FISCAL_CODE", "RSSMRA85T10A562S", "RSSMRA85T10A562T"),
    ],
)
def test_well_known_entities_have_check_digits(
    tmp_path: Path, entity: str, right: str, wrong: str
) -> None:
    check = check_of(entity)
    assert check is not None
    assert check(right)
    assert not check(wrong)
    form = {"name": "any", "regex": r"[A-Z0-9][A-Z0-9 ]{7,}[A-Z0-9]", "score": 0.01}
    path = write(tmp_path, {"name": "n", "supported_entity": entity, "patterns": [form]})
    assert list(items(path, f"{right}; {wrong}").values()) == [[right]]


def test_a_pattern_that_takes_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memaudit.sensitive.patterns._SECONDS", 0.2)
    slow = {"name": "slow", "regex": r"(?:(?:a|aa)+c?)+d", "score": 0.9}
    path = write(tmp_path, {**BADGE, "patterns": [slow]})
    (detector,) = read_recognizers(path)
    with pytest.raises(UsageError, match="pattern slow takes too long on this text; write"):
        detector.find(["a" * 60])


def test_what_is_not_understood_is_refused_by_name(tmp_path: Path) -> None:
    def one(**changes: Any) -> str:
        return refusal(write(tmp_path, {**BADGE, **changes}))

    pattern = {"name": "form", "regex": "x", "score": 0.8}
    assert one(regexes=[]) == "recognizer badge: 'regexes' is not understood"
    assert one(patterns=[{**pattern, "flags": 2}]) == (
        "recognizer badge, pattern 1: 'flags' is not understood"
    )
    assert one(patterns=[{**pattern, "score": 7}]).endswith(
        "needs a regex, and a score from 0 to 1"
    )
    assert one(patterns=[]) == "recognizer badge: needs patterns or a deny_list"
    assert one(deny_list=[1234]).endswith("a list of words; write numbers in quotes")
    assert one(supported_entity="Größe").startswith("recognizer badge: supported_entity has to be")
    assert one(supported_entity=None) == "recognizer badge: needs one supported_entity"
    assert one(type="remote") == "recognizer badge: type has to be custom or predefined"
    assert one(global_regex_flags=4096).endswith("global_regex_flags 4096 are not understood")
    assert one(context="zip") == "recognizer badge: context has the wrong type"
    assert one(patterns=[{**pattern, "score": 0.1}]).endswith("give context, or a higher score")
    assert refusal(write(tmp_path, BADGE, ad_hoc=1)) == "the file: 'ad_hoc' is not understood"
    assert refusal(write(tmp_path, {**BADGE, "enabled": False})).startswith("holds no recognizer")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [secret-word", "line 1: not valid YAML"),
        ("recognizers: 5", "has to hold a list named recognizers"),
        ("recognizers: [5]", "recognizer 1 is not a mapping"),
        ("recognizers: &a [*a]", "line 1: aliases (*name) are not understood"),
        ("recognizers:\n- name: a\n  name: secret-word", "line 2: a key stands twice"),
        ("recognizers: !!python/object/apply:os.system ['true']", "line 1: not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
        ("\x00\xff", "not valid YAML"),
    ],
)
def test_files_that_are_not_understood_are_refused(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    assert refusal(path) == reason
    assert refusal(tmp_path) == "not a regular file"
    assert refusal(tmp_path / "none.yaml").startswith("cannot be read (No such file")


def test_a_bad_pattern_is_refused_without_its_text(tmp_path: Path) -> None:
    bad = {"name": "bad", "regex": "(secret-word", "score": 0.5}
    with pytest.raises(UsageError, match="badge: pattern bad is not a regular expression"):
        read_recognizers(write(tmp_path, {**BADGE, "patterns": [bad]}))


@pytest.mark.skipif(
    importlib.util.find_spec("presidio_analyzer") is not None, reason="presidio is installed"
)
def test_predefined_recognizers_need_the_extra_unless_they_are_built_in(tmp_path: Path) -> None:
    card = {"name": "CreditCardRecognizer", "type": "predefined"}
    assert [one.category for one in read_recognizers(write(tmp_path, BADGE, card))] == [
        "badge-number"
    ]
    path = write(tmp_path, "UsSsnRecognizer")
    with pytest.raises(UsageError, match=r"UsSsnRecognizer comes with presidio.*pip install"):
        read_recognizers(path)
