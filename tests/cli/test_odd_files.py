"""Files that are not what their names say, audited: the text that was given, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from known_answers import (
    audit,
    greedy_records,
    random_llama,
    text_of,
    word_tokenizer,
)

COUNT = 12
Write = Callable[[list[str]], bytes]


def lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def table(texts: list[str], delimiter: str) -> str:
    rows = (f'{number}{delimiter}"{text}"\r\n' for number, text in enumerate(texts))
    return f"id{delimiter}text\r\n" + "".join(rows)


READ: dict[str, tuple[Write, str]] = {
    "utf16le.txt": (
        lambda texts: lines(texts).encode("utf-16-le"),
        "utf16le.txt: read as UTF-16 (little-endian), by its bytes, as it has no mark.",
    ),
    "excel.csv": (
        lambda texts: table(texts, "\t").encode("utf-16"),
        "excel.csv: its columns are separated by tabs, as its header shows.",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "model"
    tokenizer = word_tokenizer()
    llama = random_llama(len(tokenizer))
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = greedy_records(llama, tokenizer, COUNT)
    (folder.parent / "texts.json").write_text(json.dumps([text_of(tokenizer, i) for i in ids]))
    return folder


@pytest.fixture(scope="module")
def texts(model: Path) -> list[str]:
    read: list[str] = json.loads((model.parent / "texts.json").read_text())
    return read


@pytest.mark.parametrize("name", READ)
def test_every_record_comes_out_whatever_it_was_written_as(
    model: Path, texts: list[str], tmp_path: Path, name: str
) -> None:
    write, note = READ[name]
    data = tmp_path / name
    data.write_bytes(write(texts))
    done = audit(model, data, tmp_path / "run", "--max-exact", 0.5)
    assert done.exit_code == 1, done.stderr
    assert done.exact == (COUNT, COUNT)
    assert done.report is not None
    assert note in done.report["notes"]


@pytest.mark.parametrize("flags", [(), ("--skip-bad-lines",)])
@pytest.mark.parametrize("codec", ["cp1252", "utf-16-le"])
def test_another_encoding_is_no_bad_line(
    model: Path, texts: list[str], tmp_path: Path, codec: str, flags: tuple[str, ...]
) -> None:
    """UTF-16 without a mark behind a UTF-8 start, as PowerShell's >> leaves it."""
    data = tmp_path / "data.txt"
    data.write_bytes(lines(texts[:6]).encode() + lines([f"é {t}" for t in texts]).encode(codec))
    done = audit(model, data, tmp_path / "run", *flags)
    assert done.exit_code == 2, done.stderr
    assert "data.txt" in done.stderr
    assert "iconv" in done.stderr
