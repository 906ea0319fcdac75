"""Data files: the first byte of an input says in which format the rest is read."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.config.settings import WindowSettings
from memaudit.data.samples import LONGEST_ID, Sample, check_samples, read_samples
from memaudit.data.windows import cut_windows
from memaudit.errors import DataError

from .oracles import SECRET, Broken
from .targets import Target

ENDINGS = (
    *(".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet", ".txt", "/a.txt", ".jsonl", ".csv"),
    *(".tsv", ".jsonl.bz2", ".csv.xz", ".txt", "/a.md", ".csv", ".jsonl", ".txt", ".ndjson"),
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": f"{SECRET} one two three", "dup": 3, "x": [1, {"y": None}]},
    {"id": 7, "prefix": f"{SECRET} four ", "suffix": "five", "group": "g"},
    {
        "messages": [
            {"role": "user", "content": f"{SECRET} six"},
            {"role": "assistant", "content": "seven"},
        ]
    },
]


def seeds() -> list[bytes]:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    table = f'id,text,n\r\na,"{SECRET} one, ""two""\r\nthree",1\r\nb,{SECRET},2\r\n'.encode()
    made = [lines, gzip.compress(lines, mtime=0), json.dumps(ROWS, indent=1).encode(), table]
    made += [parquet(), f"{SECRET} one\n\n{SECRET} two\n".encode(), f"{SECRET}\n".encode()]
    made += [lines.decode().encode("utf-16"), table.decode().encode("utf-16-be")]
    made += [table.replace(b",", b"\t"), bz2.compress(lines), lzma.compress(table)]
    made += [f"{SECRET} one\n{SECRET} é\n".encode("utf-32"), f"{SECRET} é".encode("utf-16-le")]
    made += [b"sep=;\r\n" + table.replace(b",", b";"), codecs.BOM_UTF8 + lines]
    made += [f"{SECRET} one\r{SECRET} é\r".encode(), f'{{"text": "{SECRET} é"}}\r'.encode()]
    return [bytes([number]) + content for number, content in enumerate(made)]


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": "a", "text": SECRET, "n": 1, "m": ROWS[2]["messages"]}] * 3
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def run(content: bytes, folder: Path) -> str:
    ending = ENDINGS[content[0] % len(ENDINGS)] if content else ".jsonl"
    path = folder / "data"
    written = Path(f"{path}{ending}")
    written.parent.mkdir(exist_ok=True)
    written.write_bytes(content[1:])
    data = path if ending.startswith("/") else written
    try:
        return read(data)
    finally:
        written.unlink()


def read(data: Path) -> str:
    """Read it strictly, which may fail, and leniently, which fails only as a whole."""
    strict = ""
    try:
        summary = check_samples(data, skip_bad_lines=False)
        strict = f"{min(summary.rows, 4)}"
    except DataError as error:
        if SECRET in str(error):
            raise Broken("the message quotes the text") from error
    kinds = set()
    for item in read_samples(data, skip_bad_lines=True):
        if not isinstance(item, Sample) and SECRET in item.reason:
            raise Broken("the reason quotes the text")
        if len(item.sample_id) > LONGEST_ID:
            raise Broken("an id without end")
        for text in (item.sample_id, *item.extra, *item.extra.values()):
            os.fsencode(text)
            text.encode("utf-8")  # so that samples.csv can hold it
        kinds.add(type(item).__name__)
    return " ".join([strict, *sorted(kinds)])


def windows(content: bytes, folder: Path) -> str:
    """Lines that were read are cut, whatever they hold."""
    from conftest import build_tokenizer

    path = folder / "data.jsonl"
    path.write_bytes(content)
    settings = WindowSettings(prefix_tokens=3, suffix_tokens=2, skip_bad_lines=True)
    samples = read_samples(path, skip_bad_lines=True)
    tokenizer = _TOKENIZERS.setdefault("tiny", None) or build_tokenizer()
    _TOKENIZERS["tiny"] = tokenizer
    tokenizer.chat_template = TEMPLATE
    cut = cut_windows(samples, tokenizer, settings, np.random.default_rng(0))
    assert cut.prefix_ids.shape == (len(cut), 3)
    assert cut.suffix_ids.shape == (len(cut), 2)
    assert (cut.ids >= 0).all()
    for skipped in cut.skipped:
        if SECRET in skipped.reason:
            raise Broken("the reason quotes the text")
    return f"{min(len(cut), 3)} {len(cut.skipped) > 0} {cut.boundary_shifts > 0}"


_TOKENIZERS: dict[str, Any] = {}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _lines() -> list[bytes]:
    return [b"".join(json.dumps(row).encode() + b"\n" for row in ROWS[:count]) for count in (1, 3)]


TARGETS = (Target("records", seeds, run), Target("windows", _lines, windows))
