"""Memory that runs out, at every stage: a smaller batch goes on to the same verdicts, and where
none can, one line says what to do.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import build_model, build_tokenizer, save_model
from scanned import SHORT, figures, make_texts, run, write_samples
from typer.testing import CliRunner

from memaudit.attack import decoding, extraction, passes
from memaudit.cli.app import app
from memaudit.errors import MemauditError, RunError, TargetError
from memaudit.pipeline.scan import ScanOutcome
from memaudit.system.memory import is_out_of_memory, short_of_memory

pytestmark = pytest.mark.slow

CPU_FULL = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tri"


def numpy_error() -> MemoryError:
    """Numpy's own kind, whose class is private: 4 EiB are more than any machine addresses."""
    with pytest.raises(MemoryError) as refused:
        np.empty((1 << 40, 1 << 19))
    return refused.value


ERRORS: dict[str, BaseException] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError(CPU_FULL),
    "python": MemoryError(),
    "numpy": numpy_error(),
}
FLOAT = SHORT | {"precision": "float32"}


@pytest.fixture(params=["cpu", "numpy"])  # the rest are subclasses of theirs, and told alike below
def error(request: pytest.FixtureRequest) -> BaseException:
    return ERRORS[request.param]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build_model("gpt2"), build_tokenizer(), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data") / "data.jsonl", make_texts(24, seed=1))


def scan(folder: Path, data: Path, **values: Any) -> ScanOutcome:
    return run(folder, data, **({"constant": FLOAT, "dynamic": FLOAT} | values))


@pytest.fixture(scope="module")
def undisturbed(folder: Path, data: Path) -> ScanOutcome:
    return scan(folder, data)


def assert_same_verdicts(first: ScanOutcome, second: ScanOutcome) -> None:
    left, right = figures(first), figures(second)
    assert left.keys() == right.keys()
    for name, values in left.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, right[name], rtol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(values, right[name], err_msg=name)


def failing(function: Callable[..., Any], error: BaseException, too_much: Any) -> Any:
    """The function, out of memory for those arguments."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if too_much(*args, **kwargs):
            raise error
        return function(*args, **kwargs)

    return wrapper


def first(calls: int) -> Callable[..., bool]:
    """Too much are so many calls, and none after them."""
    left = iter(range(calls))
    return lambda *args, **kwargs: next(left, None) is not None


def wide_pass(checkpoint: Any, prompt: Any, ids: Any, *lengths: int, **options: Any) -> bool:
    return len(ids) > 3


def wide_step(checkpoint: Any, count: int, inputs: Any, **options: Any) -> bool:
    return count == 1 and len(inputs) > 3


def first_judging() -> Callable[..., bool]:
    few = first(2)
    return lambda extractor, prompt, ids, cache=None: cache is None and few()


GOES_ON: dict[str, tuple[Any, str, Callable[[], Any], str]] = {
    "verification": (extraction, "window_logits", lambda: wide_pass, "extraction"),
    "decoding": (decoding, "last_logits", lambda: wide_step, "extraction"),
    "cache": (
        decoding.RoomyLayer,
        "_room_for",
        lambda: lambda layer, states: layer._size[0] > 3,
        "extraction",
    ),
    "the size of a cache": (extraction.Extractor, "_make_cache", lambda: first(2), "extraction"),
    "judging": (extraction.Extractor, "_verify_stably", first_judging, "extraction"),
    "forward": (
        passes.TuningPasses,
        "window_nll",
        lambda: lambda passes, prompt, ids: len(ids) > 2,
        "tuning",
    ),
    "backward": (torch.autograd, "backward", lambda: first(2), "tuning"),
}
"""Stage -> where it allocates, what of it is too much, and whose batches it makes smaller."""


@pytest.mark.parametrize("stage", GOES_ON)
def test_a_smaller_batch_goes_on_to_the_same_verdicts(
    stage: str,
    error: BaseException,
    folder: Path,
    data: Path,
    undisturbed: ScanOutcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, too_much, kind = GOES_ON[stage]
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), error, too_much()))
    outcome = scan(folder, data)
    assert_same_verdicts(undisturbed, outcome)
    facts = outcome.result.run.batches[kind]
    assert facts.shortages >= 1
    assert facts.smallest < facts.planned
    assert "for lack of memory" in facts.remark
    other = outcome.result.run.batches["tuning" if kind == "extraction" else "extraction"]
    assert other.remark == ""


def test_what_was_found_is_kept_for_the_fits_and_attacks_that_follow(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = passes.TuningPasses.window_nll

    def window_nll(passes: Any, prompt: Any, ids: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 4:
            raise ERRORS["cuda"]
        return real(passes, prompt, ids)

    monkeypatch.setattr("memaudit.attack.memory.FIRST_PATIENCE", 10**6)
    monkeypatch.setattr(passes.TuningPasses, "window_nll", window_nll)
    outcome = scan(folder, data)
    assert len(outcome.result.fits) == 4
    assert [size for size in sizes if size > 4] == [8], "met once, by the first of the four fits"
    facts = outcome.result.run.batches["tuning"]
    assert (facts.planned, facts.smallest, facts.final, facts.shortages) == (8, 4, 4, 1)
    assert facts.remark == "planned 8, halved once for lack of memory, down to 4"


def test_recomputing_is_kept_too(
    folder: Path, data: Path, undisturbed: ScanOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, bool]] = []
    real = passes.TuningPasses.window_nll

    def window_nll(passes: Any, prompt: Any, ids: Any) -> Any:
        calls.append((len(ids), passes.recomputes))
        if not passes.recomputes:
            raise ERRORS["cpu"]
        return real(passes, prompt, ids)

    monkeypatch.setattr(passes.TuningPasses, "window_nll", window_nll)
    outcome = scan(folder, data)
    assert [size for size, recomputes in calls if not recomputes] == [8, 4, 2, 1]
    assert outcome.result.run.batches["tuning"].remark.endswith(
        "down to 1; activations recomputed in the backward pass"
    )
    assert_same_verdicts(undisturbed, outcome)


def test_a_copy_that_does_not_fit_is_done_without(
    error: BaseException, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = SHORT | {"precision": "bfloat16"}
    whole = run(folder, data, constant=half, dynamic=half, attacks=["none", "constant"])
    copies: list[int] = []

    def deepcopy(*args: Any) -> Any:
        copies.append(1)
        raise error

    monkeypatch.setattr(passes, "copy", SimpleNamespace(deepcopy=deepcopy))
    outcome = run(folder, data, constant=half, dynamic=half, attacks=["none", "constant"])
    assert copies
    assert {fit.record.precision for fit in outcome.result.fits} == {"bfloat16"}
    for name, values in figures(whole).items():
        if name.endswith(("exact", "matched")):
            np.testing.assert_array_equal(values, figures(outcome)[name], err_msg=name)


ENDS = {
    "memaudit.pipeline.prepare.make_plan": 'in the stage "clustering near-duplicates"',
    "memaudit.pipeline.scan.score_all": 'in the stage "scoring"',
    "memaudit.pipeline.prepare.find_sensitive": 'in the stage "looking for sensitive content"',
    "memaudit.pipeline.prepare.cut_files": 'in the stage "reading files"',
    "torch.optim.AdamW.step": 'in the stage "constant: fitting, fold 1 of 2"',
    "memaudit.attack.campaign.untrained_prompt": "out of memory; audit fewer",
    "memaudit.attack.extraction.choose_decoding": "out of memory; audit fewer",
    "memaudit.target.softprompt_check._logits": "for 8 tokens; use --device spread",
    "memaudit.attack.extraction.window_logits": "out of memory with a single window",
    "memaudit.attack.passes.window_logits": "out of memory tuning on a single window",
    "memaudit.report.model.json_text": "out of memory; audit fewer",
}


@pytest.mark.parametrize("place", ENDS)
def test_where_no_smaller_batch_helps_one_line_says_so(
    place: str, error: BaseException, folder: Path, data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(place, full)
    out = tmp_path / "run"
    result = invoke(folder, data, "--out", out)
    message = result.stderr.strip().splitlines()[-1]
    assert result.exit_code == 3, result.stderr
    assert message.startswith("memaudit: error: ")
    assert ENDS[place] in message
    assert "Traceback" not in result.stderr
    assert "internal error" not in result.stderr
    assert result.stdout == ""
    assert not (out / "report.json").exists()


def invoke(folder: Path, data: Path, *more: object) -> Any:
    sets = [
        *("windows.prefix_tokens=8", "windows.suffix_tokens=6", "protocol.cluster_run=8"),
        *(
            f"{part}.{key}={value}"
            for part in ("constant", "dynamic")
            for key, value in FLOAT.items()
        ),
        "scores.bootstrap=100",
    ]
    words = ["scan", str(folder), str(data), *map(str, more)]
    return CliRunner().invoke(app, [*words, *(w for s in sets for w in ("--set", s))])


def test_loading_says_what_to_do(
    error: BaseException, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    for device in ("cpu", "auto"):
        with pytest.raises(TargetError, match="not enough memory for the weights; use --device sp"):
            scan(folder, data, target={"device": device}, attacks=["none"])


def test_loading_is_tried_again_spread_where_the_device_was_not_named(
    error: BaseException,
    folder: Path,
    data: Path,
    undisturbed: ScanOutcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = transformers.AutoModelForCausalLM.from_pretrained
    maps: list[object] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        maps.append(kwargs["device_map"])
        if len(maps) == 1:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", once)
    outcome = scan(folder, data)
    assert maps == [{"": torch.device("cpu")}, "auto"]
    choice = outcome.result.target.choices["device"]
    assert (choice.value, choice.reason) == ("cpu", "auto: memory ran out on cpu")
    assert_same_verdicts(undisturbed, outcome)


def test_what_happened_is_in_the_reports(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name, too_much, _ in (GOES_ON["verification"], GOES_ON["forward"]):
        wrapped = failing(getattr(owner, name), ERRORS["cuda"], too_much())
        monkeypatch.setattr(owner, name, wrapped)
    out = tmp_path / "run"
    result = invoke(folder, data, "--out", out, "--exit-zero")
    assert result.exit_code == 0, result.stderr
    batches = json.loads((out / "report.json").read_text("utf-8"))["run"]["batches"]
    assert batches["extraction"]["planned"] == 16
    assert batches["extraction"]["smallest"] == 2
    assert batches["tuning"]["planned"] == 8
    assert batches["tuning"]["smallest"] == 2
    flat = " ".join(result.stdout.split())
    page = (out / "report.html").read_text("utf-8")
    for stage in ("extraction", "tuning"):
        remark = batches[stage]["remark"]
        assert "for lack of memory" in remark
        assert remark in flat
        assert remark in page


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        *((error, True) for error in ERRORS.values()),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
        (ValueError("out of memory"), False),
        (OSError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, lacks: bool) -> None:
    assert is_out_of_memory(error) == lacks
    with pytest.raises(RunError if lacks else type(error)) as caught, short_of_memory("here"):
        raise error
    if lacks:
        assert str(caught.value).startswith("out of memory here; audit fewer windows (--limit)")
        assert isinstance(caught.value, MemauditError)
        assert caught.value.exit_code == 3
