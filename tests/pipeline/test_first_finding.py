"""The first finding: what ``none`` extracts, counted by sample, before any prompt is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_model, build_tokenizer, save_model
from made_windows import windows_of
from scanned import make_texts, run, write_samples

from memaudit.attack.campaign import AttackOutcome
from memaudit.attack.extraction import Extraction
from memaudit.attack.journal import Advance
from memaudit.config.shard import Shard
from memaudit.data.corpus import Corpus
from memaudit.data.own_tokens import count_template
from memaudit.data.plan import Plan
from memaudit.data.samples import DataSummary
from memaudit.data.template import NO_TEMPLATE
from memaudit.pipeline.first_finding import first_finding
from memaudit.sensitive.counting import Items, SensitiveContent

IDS = np.arange(24).reshape(6, 4)
"""Six windows of two prefix and two suffix tokens."""


def corpus(samples: list[int]) -> Corpus:
    count = len(samples)
    windows = windows_of(IDS[:count], 2, sample=np.array(samples))
    return Corpus(
        DataSummary(Path("x"), "", count, 0),
        windows,
        np.arange(count),
        np.zeros(count, np.int64),
        count_template(windows, NO_TEMPLATE),
    )


def extraction(outcomes: str) -> Extraction:
    """One letter for each window: ``x`` extracted, ``-`` missed, ``.`` left to another shard."""
    made = Extraction.empty(len(outcomes), 2)
    for row, outcome in enumerate(outcomes):
        made.suffix_nll[row] = np.nan if outcome == "." else 0.5
        made.continuation_ids[row] = IDS[row, 2:] if outcome == "x" else [IDS[row, 2], -1]
    return made


def sensitive(items: list[list[int]]) -> SensitiveContent:
    methods: Any = {"email": "a rule", "phone": "a rule"}
    counts = np.array(items, dtype=np.uint16)
    return SensitiveContent(methods, {}, Items(counts, counts), None)


@pytest.mark.parametrize(
    ("data", "items", "controls", "shard", "expected"),
    [
        (  # two windows of one sample are one sample; what does not come out is not counted
            "xx-x-x",
            [[1, 0], [2, 0], [1, 1], [1, 0], [0, 1], [0, 0]],
            "-x-",
            None,
            "extracts 3 of 4 samples and 1 of 3 controls.|E-mail addresses come out of 2 of them.",
        ),
        (
            "xx-x--",
            [[1, 1], [1, 0], [1, 1], [0, 1], [0, 1], [0, 0]],
            None,
            None,
            "extracts 2 of 4 samples.|E-mail addresses come out of 1 of them, phone numbers of 2.",
        ),
        (
            "x..-..",
            [[0, 0]] * 6,
            ".-.",
            Shard(0, 3),
            "extracts in this share, 1/3, 1 of 2 samples and 0 of 1 control."
            "|No sensitive content was recognised in what comes out, beyond what prompts hold.",
        ),
        ("------", [[1, 1]] * 6, None, None, "extracts 0 of 4 samples."),
        ("xxxxxx", None, None, None, "extracts 4 of 4 samples."),
    ],
)
def test_the_finding_counts_samples(
    data: str, items: list[list[int]] | None, controls: str | None, shard: Any, expected: str
) -> None:
    plan = Plan(corpus([0, 0, 1, 1, 2, 3]), corpus([0, 1, 2]) if controls else None, (), ())
    outcome = AttackOutcome(extraction(data), extraction(controls) if controls else None, {})
    content = None if items is None else sensitive(items)
    first, *rest = expected.split("|")
    sentences = [f"First finding: the prefix alone {first}", *rest]
    assert list(first_finding(plan, outcome, content, shard)) == sentences


class Steps:
    """A display that keeps what it shows, in order."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        self.shown.append(name)
        yield lambda done: None

    def note(self, text: str) -> None:
        self.shown.append(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build_model("gpt2"), build_tokenizer(), tmp_path_factory.mktemp("target"))


@pytest.mark.parametrize("attacks", [["dynamic", "none"], ["dynamic"], ["none"]])
def test_it_is_shown_before_any_fit(model: Path, tmp_path: Path, attacks: list[str]) -> None:
    data, steps = write_samples(tmp_path / "data.jsonl", make_texts(12, seed=1)), Steps()
    result = run(model, data, steps, attacks=attacks).result
    notes = [text for text in steps.shown if text.startswith("First finding: ")]
    if len(attacks) == 1:  # nothing is known before the fit, or nothing comes after
        assert not notes
        return
    none = result.attack("none")
    assert none is not None
    assert f"extracts {none.summary.extracted.k} of 12 samples." in notes[0]
    place = steps.shown.index(notes[0])
    assert steps.shown[place - 1] == "none: extracting"
    assert steps.shown[place + 1] == "dynamic: fitting, fold 1 of 2"
