"""What happens to input that is neither right nor wrong: each case as a user would meet it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import VOCABULARY, build_model, build_tokenizer, save_model
from typer.testing import CliRunner, Result

from memaudit.cli.app import app

pytestmark = pytest.mark.slow

PLAIN = ["--attacks", "none", "--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"]
NAMES = ["anna", "bert", "carla", "model", "lazy", "fox", "wizard", "prefix", "line", "toxic"]
Scan = Callable[..., Result]


def records(count: int, **more: Any) -> list[dict[str, Any]]:
    """Records long enough for a window, no two alike."""
    return [
        {"id": f"r{n}", "text": f"{NAMES[n % 10]} {n * 7919} {NAMES[n // 10 % 10]} and some more"}
        | more
        for n in range(count)
    ]


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(folder: str = "run", name: str = "samples.csv") -> list[dict[str, str]]:
    with Path(folder, name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        build_model("gpt2"), build_tokenizer(), tmp_path_factory.mktemp("m") / "model"
    )


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    monkeypatch.chdir(tmp_path)

    def run(model: Path, data: Path, *words: object, out: str = "run") -> Result:
        given = ["scan", model, data, *PLAIN, "--out", out, *words]
        return CliRunner().invoke(app, [str(word) for word in given])

    return run


# Numbers that are none.


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has no number for one token, ``~``, and for all that follows it."""
    import torch

    tokenizer, model = build_tokenizer(), build_model("gpt2")
    head = model.transformer.wte.weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    (token,) = tokenizer("~", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.transformer.wte.weight[token] = torch.nan
    return save_model(model, tokenizer, tmp_path_factory.mktemp("nan") / "model")


def test_one_window_without_numbers_ends_the_run_by_its_line(scan: Scan, broken: Path) -> None:
    rows = records(30)
    assert scan(broken, write("good.jsonl", rows), out="good").exit_code == 0
    rows[16]["text"] = "a ~ b " + rows[16]["text"]
    failed = scan(broken, write("data.jsonl", rows))
    assert failed.exit_code == 3
    assert "gives logits that are not finite in float32" in said(failed)
    assert said(failed).endswith("or remove the records that fail (data.jsonl:17)")
    assert not Path("run").exists()
    controls = scan(broken, Path("good.jsonl"), "--controls", "data.jsonl")
    assert said(controls).endswith("(data.jsonl:17)")


# Controls that show nothing.


def test_dead_controls_are_refused_before_the_model_loads(scan: Scan, tmp_path: Path) -> None:
    data = write("data.jsonl", records(30))
    Path("empty.jsonl").touch()
    write("bad.jsonl", [{"text": 1}] * 3)
    for name, why in (
        ("empty.jsonl", "empty.jsonl: holds no records"),
        ("bad.jsonl", "bad.jsonl:1: field text is a number, not a string; none of the 3 records"),
    ):
        failed = scan(tmp_path / "no-model", data, "--controls", name, "--skip-bad-lines")
        assert (failed.exit_code, why in said(failed)) == (2, True)


def test_controls_that_are_too_short_or_in_the_data(scan: Scan, model: Path) -> None:
    data = write("data.jsonl", records(30))
    write("short.jsonl", [{"text": "ab"}] * 3)
    failed = scan(model, data, "--controls", "short.jsonl")
    assert failed.exit_code == 2
    assert "short.jsonl: none of 3 samples gives a window of 8+6 tokens" in said(failed)
    same = scan(model, data, "--controls", write("part.jsonl", records(29)))
    assert same.exit_code == 0
    assert "29 of 29 controls are near-duplicates of audited samples, so they are not text" in (
        " ".join(same.stdout.split())
    )
    # All controls extracted is exit 4: test_exit_4_when_controls_come_out_too.


# Tokenizers.


def word_level(**more: Any) -> Any:
    """Knows words alone: what it has not seen is one and the same token, and never comes back."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["?", *NAMES, "and", "some", "more", *map(str, range(200))]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", **more)


def prefixing() -> Any:
    """Puts a blank before every text."""
    from tokenizers import pre_tokenizers

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def python_only() -> Any:
    """A tokenizer without a fast backend, so without offsets."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "neither BOS nor PAD": lambda: build_tokenizer(bos=False, pad=False),
    "none of BOS, EOS and PAD": word_level,
    "a blank before every text": prefixing,
    "no fast backend": python_only,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_cuts_windows(scan: Scan, tmp_path: Path, name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    assert len(tokenizer) <= VOCABULARY
    model = save_model(build_model("gpt2"), tokenizer, tmp_path / "other")
    texts = [f"{row['text']} " * 3 for row in records(20)]
    rows = [{"text": text} for text in texts] + [{"prefix": one, "suffix": one} for one in texts]
    shown = ["--attacks", "none,dynamic-hard", "--reveal"]
    done = scan(model, write("data.jsonl", rows), *shown)
    assert done.exit_code == 0, done.stderr
    found = table()
    assert [row["status"] for row in found] == ["scored"] * 40
    if name != "none of BOS, EOS and PAD":
        assert {row["text_suffix"] for row in table(name="windows.csv")} != {""}


def test_a_suffix_that_gives_no_token_is_skipped(scan: Scan, tmp_path: Path) -> None:
    from tokenizers import normalizers

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    model = save_model(build_model("gpt2"), tokenizer, tmp_path / "other")
    text = "anna bert carla model lazy fox"
    odd = [
        {"prefix": text, "suffix": "\u200b" * 20},
        {"prefix": text, "suffix": ""},
        {"prefix": "", "suffix": text},
        {"prefix": "", "suffix": ""},
        {"prefix": text, "suffix": " \n" * 20},
        {"text": "\t \u3000" * 30},
        {"text": ""},
    ]
    done = scan(model, write("data.jsonl", [*records(12), *odd]))
    assert done.exit_code == 0, done.stderr
    assert [row["reason"] for row in table()][12:] == [
        "suffix of 0 tokens, the window needs 6",
        "suffix of 0 tokens, the window needs 6",
        "prefix of 0 tokens, the window needs 1",
        "prefix of 0 tokens, the window needs 1",
        "the suffix is only white space",
        "the text is only white space",
        "0 tokens, the window needs 14",
    ]


@pytest.mark.parametrize("flag", ["--suffix-tokens", "--prefix-tokens"])
def test_a_window_of_less_than_nothing_is_a_usage_error(scan: Scan, model: Path, flag: str) -> None:
    failed = scan(model, write("data.jsonl", records(3)), flag, "-1")
    assert failed.exit_code == 2
    assert said(failed).endswith("= -1 (flag): input should be greater than or equal to 0")


# Ids and columns.


def test_ids_of_every_kind(scan: Scan, model: Path) -> None:
    given = [1, 1.5, None, "", True, {"a": [1]}, ["x"], "y" * 4096, "z" * 4097, "\ud800", "=1+1"]
    rows = [row | {"id": one} for row, one in zip(records(11), given, strict=True)]
    assert scan(model, write("data.jsonl", rows)).exit_code == 0
    assert [row["sample_id"] for row in table()] == [
        *("1", "1.5", "3", "4", "true", '{"a":[1]}', '["x"]', "y" * 4096, "9"),
        *("\\ud800", "'=1+1"),
    ]


def test_equal_ids_are_told_apart_by_line_and_role(scan: Scan, model: Path) -> None:
    data = write("data.jsonl", records(20, id="same"))
    controls = write("controls.jsonl", records(19, id="same"))
    done = scan(model, data, "--controls", controls, "--attacks", "none,copy")
    assert done.exit_code == 0, done.stderr
    rows = table()
    assert len({(row["role"], row["line"]) for row in rows}) == 39
    assert len({(row["role"], row["fingerprint"]) for row in rows}) == 39
    again = CliRunner().invoke(app, ["compare", "run", "run"])
    assert again.exit_code == 0, again.stderr


def test_equal_names_in_folders_are_told_apart_by_their_path(scan: Scan, model: Path) -> None:
    for number, row in enumerate(records(20)):
        folder = Path("docs", str(number))
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(row["text"])
    assert scan(model, Path("docs")).exit_code == 0
    assert len({row["sample_id"] for row in table()}) == 20


def test_a_column_with_a_name_without_end_is_cut_off(scan: Scan, model: Path) -> None:
    name = "k" * 100_000
    rows = [
        row | {name: "v"} | {f"c{n}-{place}": "w" for place in range(150)}
        for n, row in enumerate(records(10))
    ]
    done = scan(model, write("data.jsonl", rows), "--keep-columns", f"{name},c3-7")
    assert done.exit_code == 0, done.stderr
    assert len(Path("run/samples.csv").read_text().splitlines()[0]) < 2_000
    assert list(table()[3])[-2:] == ["k" * 79 + "… 1", "c3-7"]
    assert [row["c3-7"] for row in table()] == ["", "", "", "w"] + [""] * 6
    again = CliRunner().invoke(app, ["report", "run"])
    assert again.exit_code == 0, again.stderr


# Long texts.


def test_a_line_of_a_million_characters(scan: Scan, model: Path) -> None:
    import resource

    rows = records(20)
    rows[3]["text"] += " lazy" * 400_000
    rows[4]["text"] = "x" * 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    done = scan(model, write("data.jsonl", rows), "--placement", "end")
    assert done.exit_code == 0, done.stderr
    assert [row["status"] for row in table()] == ["scored"] * 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20


# Encodings.

GOOD = "anna bert carla model lazy fox wizard"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"text":"a"}\n{"text":"\xe9"}\n', "a.jsonl:2: not UTF-8 text"),
        ("a.jsonl", b'{"text":"a"}\n\0{"text":"b"}\n', "a.jsonl:2: not valid JSON (column 1)"),
        ("a.jsonl", b'{"text":"\\udc80"}\n', "a.jsonl:1: field text holds half a surrogate pair"),
    ],
)
def test_mixed_encodings_are_named_by_their_line(
    scan: Scan, tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    Path(name).write_bytes(content)
    failed = scan(tmp_path / "no-model", Path(name))
    assert failed.exit_code == 2
    assert problem in said(failed)


def test_odd_signs_inside_a_record_stay_as_they_are(scan: Scan, model: Path) -> None:
    odd = [f"{GOOD}\r\n{GOOD}", f"{GOOD}\u2028{GOOD}", f"{GOOD}\0{GOOD}", f"{GOOD}\ufeff{GOOD}"]
    lines = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in odd)
    Path("data.jsonl").write_bytes(lines.encode())
    done = scan(model, Path("data.jsonl"), "--reveal", "--placement", "end")
    assert done.exit_code == 0, done.stderr
    assert [row["line"] for row in table()] == ["1", "2", "3", "4"]
    (_,) = {row["text_suffix"] for row in table(name="windows.csv")}
