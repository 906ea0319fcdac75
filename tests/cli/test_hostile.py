"""What a hostile file, folder or name must not do, through the commands a user types."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import build_model, build_tokenizer, save_model
from made_result import make_result
from stored import store
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.cli.errors import exit_on_error
from memaudit.config.sources import collect_layers, resolve
from memaudit.data import packing, parquet_rows
from memaudit.data.forms import Naming
from memaudit.data.pieces import LONGEST_PIECE, cut_text
from memaudit.data.samples import check_samples, read_samples
from memaudit.errors import DataError, TargetError, UsageError
from memaudit.report.wording import json_text, neutral, no_commands
from memaudit.target.checkpoint import load_tokenizer
from memaudit.target.gguf_header import check_gguf

pytestmark = pytest.mark.slow

MARK = "Qzsecret"
"""Stands in every audited text, and nowhere else."""
PLAIN = ["--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"]
FAST = [
    word
    for attack in ("constant", "dynamic")
    for setting in ("epochs=1", "min_steps=0", "num_virtual_tokens=4")
    for word in ("--set", f"{attack}.{setting}")
]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        build_model("gpt2"), build_tokenizer(), tmp_path_factory.mktemp("m") / "model"
    )


def write(path: Path, count: int = 30, **more: Any) -> Path:
    rows = [
        {"id": f"r{n}", "text": f"{MARK}{n} anna {n * 7919} and more of {n}"} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    return path


# Memory and time.


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        check_samples(path, skip_bad_lines=True)
    assert MARK not in str(error.value)
    return str(error.value)


def test_lines_rows_and_files_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("raw_files", "records", "csv_rows"):
        monkeypatch.setattr(f"memaudit.data.{module}.LONGEST", 1 << 20)
    monkeypatch.setattr("memaudit.data.records.LONGEST_ARRAY", 1 << 20)
    good, long = b'{"text":"a"}\n', b"x" * (1 << 20)
    contents = {
        "a.jsonl": (good + long + b"x\n", "a.jsonl:2: the line is longer than 1 MiB"),
        "a.txt": (b"a\n" + long + b"x\n", "a.txt:2: the line is longer than 1 MiB"),
        "a.csv": (b'text\n"' + b"x\n" * (1 << 20), "is longer than 1 MiB; check its quotes"),
        "a.json": (b'["' + long + b'"]', "is longer than 1 MiB; name one object per line .jsonl"),
        "a.jsonl.gz": (gzip.compress(good + long + b"x\n"), "a.jsonl.gz:2: the line is longer"),
    }
    for name, (content, said) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert said in refused(path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_bytes(long + b"x")
    assert "a.txt: is longer than 1 MiB; split it into several files" in refused(tmp_path / "docs")


def test_archives_that_unpack_to_what_no_text_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(packing, "FREELY_UNPACKED", 1 << 20)
    bomb = tmp_path / "a.jsonl.gz"
    bomb.write_bytes(gzip.compress(b'{"text":"a"}\n' + b" \t" * (2 << 20)))
    assert "unpacks to more than 200 times its size, as no text does" in refused(bomb)
    many = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 500), pyarrow.array(["y" * 99999])
    )
    for name, column in (("rows", pyarrow.array(["y" * 99999] * 50)), ("dictionary", many)):
        path = tmp_path / f"{name}.parquet"
        table = pyarrow.table({"text": column})
        pyarrow.parquet.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=name == "dictionary",
            dictionary_pagesize_limit=1 << 30,
            store_schema=False,
        )
        assert path.stat().st_size < 20_000
        assert "unpacks to more than 200 times its size" in refused(path)


def test_parquet_values_without_a_form_are_bad_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    twice = pyarrow.StructArray.from_arrays([pyarrow.array([1])] * 2, names=["x", "x"])
    values = {
        "date": pyarrow.array([2**31 - 1], pyarrow.int32()).cast(pyarrow.date32()),
        "time": pyarrow.array([2**62]).cast(pyarrow.timestamp("us")),
        "zone": pyarrow.array([1]).cast(pyarrow.timestamp("us", "No/Where")),
        "span": pyarrow.array([2**62]).cast(pyarrow.duration("s")),
        "twice": twice,
    }
    for name, column in values.items():
        path = tmp_path / "a.parquet"
        table = pyarrow.table({"text": ["a", "b"], name: pyarrow.chunked_array([column, column])})
        pyarrow.parquet.write_table(table, path)
        (first, _) = read_samples(path, skip_bad_lines=True)
        assert getattr(first, "reason", "") == (
            f"column {name} holds a value that exists only in Parquet"
        )
    path.write_bytes(path.read_bytes().replace(b"twice", b"tw\xff\xfee"))
    assert "not a Parquet file, or damaged" in refused(path)
    assert parquet_rows.MAX_ROWS == 1024


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_values_nested_as_deep_as_python_goes(tmp_path: Path, opening: str) -> None:
    """At some depth a value can be read and no more be written: it is passed through as a word."""
    closing = {"[": "]", '{"a":': "}"}[opening]
    path, extras = tmp_path / "a.jsonl", set()
    for depth in range(700, 1000):
        value = opening * depth + "1" + closing * depth
        path.write_text(f'{{"text":"t","x":{value},"id":{value}}}\n')
        (item,) = read_samples(path, skip_bad_lines=True, naming=Naming(keep=None))
        extras.add(item.extra.get("x", "unread")[:8])
    assert extras >= {(8 * opening)[:8], "unread"} or "[nested " in extras


def test_a_text_in_pieces_is_the_text(tmp_path: Path) -> None:
    for text in ("", "a", "ab " * 50, "x" * 100, " " * 100, "a\n" * 60, "ab" * 9 + " " + "c" * 99):
        pieces = cut_text(text, 20)
        assert "".join(pieces) == text
        assert all(0 < len(piece) <= 20 for piece in pieces) or text == ""
    assert cut_text("ab cd " * 10, 20)[1].startswith(" ")
    assert LONGEST_PIECE == 1 << 20


def test_a_text_in_pieces_has_the_tokens_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from memaudit.data import encoding, pieces
    from memaudit.data.samples import Sample

    tokenizer = build_tokenizer()
    words = " ".join(f"anna {n} lazy fox" for n in range(300))
    samples = [Sample("1", 1, text=words), Sample("2", 2, prefix=words, suffix=f" {words}")]
    whole = encoding.Encoder(tokenizer).encode(samples)
    monkeypatch.setattr(encoding, "LONGEST_PIECE", 100)
    monkeypatch.setattr(encoding, "cut_text", lambda text: pieces.cut_text(text, 100))
    for fast in (True, False):
        cut = encoding.Encoder(tokenizer)
        if not fast:
            monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
        for one, other in zip(whole, cut.encode(samples), strict=True):
            np.testing.assert_array_equal(one.ids, other.ids)
            assert (one.border, one.shifted) == (other.border, other.shifted)


# Pipes and devices, links and names.


@pytest.mark.parametrize("name", ["data.jsonl", "docs/a.txt"])
def test_a_pipe_is_no_data(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    failed = run("scan", "no-model", tmp_path / name.partition("/")[0])
    assert failed.exit_code == 2
    assert "not a regular file" in failed.stderr or "no .txt or .md file" in failed.stderr


@pytest.mark.parametrize(
    "flag", ["--config", "--profile", "--key-file", "--generator", "--baseline"]
)
def test_a_pipe_is_no_file_of_ours(run: Run, model: Path, tmp_path: Path, flag: str) -> None:
    path = tmp_path / "generator-1.safetensors.toml"
    if flag == "--generator":
        path = tmp_path / "prompts"
        path.mkdir()
        os.mkfifo(path / "generator-0.safetensors")
    else:
        os.mkfifo(path)
    words = ["--max-new", "0"] if flag == "--baseline" else []
    failed = run("scan", model, write(tmp_path / "d.jsonl"), *PLAIN, flag, path, *words)
    assert failed.exit_code == 2, failed.stderr
    assert failed.stderr.count("\n") <= 8


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_a_models_folder(run: Run, model: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(model, tmp_path / "other")
    (tmp_path / "other" / file).unlink()
    os.mkfifo(tmp_path / "other" / file)
    failed = run("scan", tmp_path / "other", write(tmp_path / "d.jsonl"), *PLAIN)
    assert failed.exit_code == 3


@pytest.mark.parametrize("file", ["report.json", "samples.csv", "windows.csv", "manifest.json"])
def test_a_pipe_in_a_run_folder(run: Run, tmp_path: Path, file: str) -> None:
    folder = store(tmp_path / "run", make_result(n=4, hits={"none": 2}))
    (folder / "manifest.json").write_text("{}")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    for command in ("report", "verify"):
        assert run(command, folder).exit_code in (0, 2)


def test_names_that_are_no_text_are_refused_before_the_audit(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "d.jsonl")
    odd = os.fsdecode(b"\xff.jsonl")
    shutil.copy(data, tmp_path / odd)
    for words, name in (
        ((model, odd), "data"),
        ((model, data, "--out", os.fsdecode(b"\xfe")), "out"),
    ):
        failed = run("scan", *words, *PLAIN)
        assert failed.exit_code == 2
        assert f"{name} is not UTF-8 text; rename the file or folder" in failed.stderr


# Settings.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = " + "[" * 5000, "a number is too long or brackets are nested too deep"),
        (".".join("a" * 5000) + " = 1", "sections are nested more than 20 deep"),
        ("x = " + "1" * 5000, "a number is too long or brackets are nested too deep"),
        ("x = '" + "y" * (1 << 20) + "'", "larger than 1 MiB; not a settings file"),
        (f"[windows]\nprefix_tokens = '{'y' * 9999}'", "y…"),
        ("[dynamic]\nlearning_rate = inf", "finite number"),
        ('"\\u001b[31m" = 1', "\\x1b[31m"),
    ],
)
def test_settings_that_are_an_attack(run: Run, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    failed = run("scan", "m", write(tmp_path / "d.jsonl"), "--config", "a.toml")
    assert failed.exit_code == 2
    assert said in failed.stderr
    assert "\x1b" not in failed.stderr
    assert len(failed.stderr) < 500


@pytest.mark.parametrize("value", ["true", "1", "1.0", "'true'", "'yes'", "'on'", "[true]"])
@pytest.mark.parametrize(
    "name", ["reveal", "target.allow_pickle", "target.trust_remote_code", '"target.allow_pickle"']
)
def test_no_spelling_of_true_lifts_a_safeguard(
    run: Run, tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.memaudit]\n{name} = {value}\n")
    failed = run("scan", "m", write(tmp_path / "d.jsonl"))
    assert failed.exit_code == 2
    assert "can only be set by the flag --" in failed.stderr


@pytest.mark.parametrize(
    "given", ["x=" + "[" * 5000, "a." * 5000 + "b=1", "x=" + "[" * 30 + "]" * 30]
)
def test_a_set_without_end(given: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(
            collect_layers(
                {"model": "m", "data": "d"}, profile=None, config_file=None, sets=[given]
            )
        )
    assert len(str(error.value)) < 200


# What is shown.


def test_what_ci_systems_act_on_is_shown_as_text() -> None:
    assert neutral("a ##[error]b ##vso[x]y ###[z]") == r"a \x23#[error]b \x23#vso[x]y #\x23#[z]"
    assert neutral("## [a] C## #[") == "## [a] C## #["
    assert neutral(neutral("##[a]\x1b")) == neutral("##[a]\x1b")
    assert no_commands("::error::x\n  ::a::\nstd::x") == "\\x3a:error::x\n  \\x3a:a::\nstd::x"
    assert json.loads(json_text(["####[a]::"])) == ["####[a]::"]
    assert "##" not in json_text(["####[a]::", "###"])


HOSTILE = "::stop-commands::x ##[error]\x1b[31m\u202e##vso[task.setvariable variable=a]b"


def test_errors_notes_and_tables_are_harmless(run: Run, model: Path, tmp_path: Path) -> None:
    from fuzz.oracles import check_harmless

    data = write(tmp_path / f"{HOSTILE.replace('/', '')}.jsonl", id=HOSTILE, column=HOSTILE)
    missing = run("scan", HOSTILE, data, *PLAIN)
    listed = run("profiles", f"{HOSTILE}.toml")
    done = run("scan", model, data, *PLAIN, "--attacks", "none", "--out", HOSTILE, "--verbose")
    assert (missing.exit_code, listed.exit_code, done.exit_code) == (3, 2, 0), done.stderr
    for result in (
        missing,
        listed,
        done,
        run("inspect", model, data, *PLAIN),
        run("report", HOSTILE),
    ):
        check_harmless(result.stdout, "stdout")
        check_harmless(result.stderr, "stderr")


def test_what_is_no_exception_is_told_like_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A panic in a tokenizer's Rust is a BaseException, and its message may quote the text."""

    class PanicException(BaseException):
        pass

    with pytest.raises(typer.Exit) as stopped, exit_on_error(verbose=False):
        raise PanicException(f"inside of `{MARK}`")
    assert stopped.value.exit_code == 3
    shown = capsys.readouterr().err
    assert "internal error: PanicException at test_hostile.py" in shown
    assert MARK not in shown


def test_a_stream_that_cannot_show_a_sign_is_no_error(model: Path, tmp_path: Path) -> None:
    code = "from memaudit.cli.app import main; main()"
    words = [sys.executable, "-c", code, "scan", str(model), str(write(tmp_path / "d.jsonl"))]
    done = subprocess.run(
        [*words, *PLAIN, "--attacks", "none", "--exit-zero"],  # a random model proves nothing
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u2500" in done.stdout


# Models.


def test_a_tokenizer_prints_nothing_of_its_own(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    token = {"content": "<s>", "special": True, "\x1b[31m::error::x": True}
    settings["added_tokens_decoder"] = {"0": token}
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    from memaudit.config.settings import TargetSettings

    with contextlib.suppress(TargetError):
        load_tokenizer(str(other), TargetSettings(offline=True))
    assert "error::x" not in capfd.readouterr().out


def test_a_tokenizer_that_raises_anything_is_damaged(model: Path, tmp_path: Path) -> None:
    from memaudit.config.settings import TargetSettings

    other = shutil.copytree(model, tmp_path / "other")
    settings = json.loads((other / "tokenizer.json").read_text())
    settings["pre_tokenizer"] = {"type": "Nothing"}
    (other / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(TargetError, match="damaged or incomplete"):
        load_tokenizer(str(other), TargetSettings(offline=True))
    for name in ("x" * 5000, "/\0"):
        with pytest.raises(TargetError, match="no such folder or file"):
            load_tokenizer(name, TargetSettings(offline=True))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


COUNTS = {
    "numbers": text(b"a") + struct.pack("<IIQ", 9, 4, 2**40),
    "strings": text(b"a") + struct.pack("<IIQ", 9, 8, 2**40),
    "arrays": text(b"a") + struct.pack("<IIQ", 9, 9, 2**40),
    "a deep array": text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000,
    "a string": text(b"a") + struct.pack("<IQ", 8, 2**62),
    "a name": struct.pack("<Q", 2**62),
    "a type": text(b"a") + struct.pack("<I", 99),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_gguf_header_is_not_believed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.gguf"
    for tensors, values in ((0, 1), (0, 2**60), (2**60, 0)):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + COUNTS[name])
        with pytest.raises(TargetError, match=r"m\.gguf: its GGUF header is damaged or cut short"):
            check_gguf(str(path), path)
    path.write_bytes(b"GGUF")
    with pytest.raises(TargetError, match="GGUF header"):
        check_gguf(str(path), path)


def test_a_template_that_fails_in_any_way_skips_the_chat() -> None:
    from memaudit.data.encoding import Encoder
    from memaudit.data.samples import Sample

    tokenizer = build_tokenizer()
    chat = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    for template in (
        "{{ 1 / 0 }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ messages[9]['role'] }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ):
        tokenizer.chat_template = template
        (encoded,) = Encoder(tokenizer).encode([Sample("1", 1, messages=chat)])
        assert encoded.problem == "the chat template refuses these messages", template


# Secrets.


def test_audited_text_is_nowhere_after_a_real_run(model: Path, tmp_path: Path) -> None:
    """Not in streams, files, their names or the folder for temporary ones, however talkative."""
    data = write(tmp_path / "d.jsonl")
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    talkative = {
        "TMPDIR": str(temporary),
        "TRANSFORMERS_VERBOSITY": "debug",
        "HF_DEBUG": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONWARNINGS": "default",
        "PYTHONFAULTHANDLER": "1",
    }
    code = "import os; os.umask(0o022); from memaudit.cli.app import main; main()"
    words = [sys.executable, "-c", code, "scan", str(model), str(data), *PLAIN, *FAST]
    controls = tmp_path / "c.jsonl"
    controls.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    words += ["--controls", str(controls), "--verbose", "--out", "run", "--exit-zero"]
    done = subprocess.run(
        words, cwd=work, env=os.environ | talkative, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stdout + done.stderr
    for path in (*work.rglob("*"), *temporary.rglob("*")):
        assert MARK not in path.name
        if path.is_file():
            assert MARK.encode() not in path.read_bytes(), path
    assert stat.S_IMODE((work / "run").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (work / "run").iterdir()}
    assert modes == {0o600}
