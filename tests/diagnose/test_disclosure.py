"""Disclosure limits of all diagnoses without --reveal: small groups, positions, digits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from subjects_groups import P, S, subject_of_groups, windows_of
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.diagnose import protocol
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.disclosure import (
    DIGITS,
    FEWEST_CLUSTERS,
    STRETCH,
    Disclosure,
    round_digits,
)
from memaudit.diagnose.latent.settings import LatentSettings
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.protocol import diagnose, examine
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.subject import Subject
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.errors import UsageError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis, Plot
from memaudit.report.diagnosis_json import diagnosis_text

METHODS: dict[Any, DiagnoseSettings] = {
    "latent": LatentSettings(run="run", draws=2, strength=0.02),
    "layers": LayersSettings(run="run"),
    "neurons": NeuronsSettings(run="run", trials=2, random_sets=2),
    "sweep": SweepSettings(run="run", prefix_lengths=(4, 8)),
    "signals": SignalsSettings(run="run"),
    "attention": AttentionSettings(run="run"),
}
WITHHELD = ("Withheld", "Figures of windows")
LARGE = {"extracted": 24, "hidden": 24, "untouched": 40, "controls": 30}
SMALL = {"extracted": 3, "hidden": 2, "untouched": 40, "controls": 30}
ALL_SMALL = {"extracted": 2, "hidden": 1, "untouched": 3, "controls": 2}


def written(name: Any, subject: Subject, **settings: Any) -> Diagnosis:
    """Run a diagnosis and return what is written."""
    given = METHODS[name].model_copy(update=settings)
    diagnosis = diagnose(name, subject, given, Silent())
    return subject.disclosure.apply(diagnosis)


def plot_of(diagnosis: Diagnosis, name: str) -> Plot:
    return next(plot for plot in diagnosis.plots if plot.name == name)


# The attack: with the model, figures of a window at each position give its tokens one by one.


@torch.no_grad()
def predict(model: Any, rows: list[list[int]]) -> tuple[Any, Any]:
    """log p (B,X) of the token after each row, and its entropy (B,)."""
    log_p = torch.log_softmax(model(torch.tensor(rows)).logits[:, -1].double(), dim=-1)
    return log_p.numpy(), -(log_p.exp() * log_p).sum(dim=-1).numpy()


def decode(model: Any, entropy: Any, log_p: Any, near: tuple[Any, Any]) -> list[list[int]]:
    """Decode every window with these figures at each position, within ``near`` (positions)."""
    rows = [[token] for token in range(model.config.vocab_size)]
    _, entropies = predict(model, rows)
    known = np.abs(entropies - entropy[0]) < near[0][0]
    rows = [row for row, is_near in zip(rows, known, strict=True) if is_near]
    for place in range(len(log_p)):
        if not rows or len(rows) > 3000:
            return []
        log_ps, entropies = predict(model, rows)
        rows = [
            [*row, int(token)]
            for row, own_entropy, likely in zip(rows, entropies, log_ps, strict=True)
            if abs(own_entropy - entropy[place]) < near[0][place]
            for token in np.flatnonzero(np.abs(likely - log_p[place]) < near[1][place])
        ]
    return rows


def curves(diagnosis: Diagnosis, group: str) -> list[list[float]] | None:
    """Entropy and log p of a group over the positions; None where they are not written."""
    lines = [
        line.y
        for name in ("border-entropy", "border-log-p")
        for plot in diagnosis.plots
        if plot.name == name
        for line in plot.lines
        if line.name == group
    ]
    return [list(line) for line in lines] if lines else None


def test_a_window_alone_in_its_group_is_decoded_only_from_what_reveal_writes() -> None:
    sizes = {"extracted": 1, "untouched": 40, "controls": 30}
    subject = subject_of_groups(sizes, reveal=True)
    revealed = curves(written("signals", subject, border=3), "extracted")
    assert revealed is not None
    entropy, log_p = revealed
    near = np.full(P + S - 1, 1e-4)
    texts = decode(subject.checkpoint.model, entropy, log_p, (near, near))
    assert subject.data.ids[0].tolist() in texts

    found = written("signals", subject_of_groups(sizes))
    assert curves(found, "extracted") is None
    assert all("extracted" not in [c.name for c in table.columns] for table in found.tables)
    assert all(row[0] != "extracted" for table in found.tables for row in table.rows)
    (named,) = [note for note in found.notes if note.startswith("Withheld")]
    assert "extracted: 1 window in 1 cluster" in named


def test_whoever_knows_the_rest_of_a_group_cannot_decode_the_last_window() -> None:
    """The difference of two nested groups: ten windows, and the nine of them that are known."""
    sizes = {"extracted": FEWEST_CLUSTERS, "untouched": 40}

    def last_window(found: Diagnosis) -> list[list[int]]:
        """Decoded from a mean of ten, rounded, less the nine known."""
        published = curves(found, "extracted")
        assert published is not None
        model, known = subject.checkpoint.model, subject.data.ids[1:FEWEST_CLUSTERS]
        figures, near = [], []
        for line, rest in zip(published, known_figures(model, known), strict=True):
            curve = np.array(line)
            if len(line) < P + S - 1:  # nothing better than to take it for every position
                curve = np.interp(np.arange(P + S - 1), np.linspace(0, P + S - 2, len(line)), line)
            means = np.array([round_digits(float(one)) for one in curve])
            step = 10.0 ** (np.floor(np.log10(np.abs(means))) - DIGITS + 1)
            figures.append(FEWEST_CLUSTERS * means - rest)
            near.append(FEWEST_CLUSTERS * step / 2 + 1e-3)
        return decode(model, figures[0], figures[1], (near[0], near[1]))

    subject = subject_of_groups(sizes, reveal=True)
    truth = subject.data.ids[0].tolist()
    assert truth in last_window(written("signals", subject))  # digits alone do not help
    found = written("signals", subject_of_groups(sizes))
    assert truth not in last_window(found)
    for name in ("border-entropy", "border-log-p"):
        lines = plot_of(found, name).lines
        assert {len(line.x) for line in lines} == {2}
        assert [row[0] for t in found.tables if t.name == name for row in t.rows] == [
            f"{1 - P} to -1",
            f"0 to {S - 1}",
        ]


@torch.no_grad()
def known_figures(model: Any, ids: Any) -> tuple[Any, Any]:
    """Sums over windows of entropy and log p at each position."""
    tokens = torch.as_tensor(ids, dtype=torch.long)
    log_p = torch.log_softmax(model(tokens).logits[:, :-1].double(), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    own = log_p.gather(-1, tokens[:, 1:, None])[..., 0]
    return entropy.sum(dim=0).numpy(), own.sum(dim=0).numpy()


def test_no_narrow_border_is_compared() -> None:
    with pytest.raises(UsageError, match=r"border=3: .* or --reveal"):
        written("signals", subject_of_groups(LARGE), border=3)
    assert written("signals", subject_of_groups(LARGE), border=STRETCH).tables


# Every diagnosis.


def figures_of(diagnosis: Diagnosis) -> Iterator[float]:
    """Every figure of tables and plots that is no count."""
    for table in diagnosis.tables:
        for row in table.rows:
            for cell, column in zip(row, table.columns, strict=True):
                if column.unit == "count" or isinstance(cell, str) or cell is None:
                    continue
                ends = (
                    (cell,) if isinstance(cell, (int, float)) else (cell.value, cell.low, cell.high)
                )
                yield from (float(end) for end in ends if end is not None)
    for plot in diagnosis.plots:
        for line in plot.lines:
            for numbers in (line.y, line.low or (), line.high or ()):
                yield from (float(one) for one in numbers if one == one)
            yield from (float(at) for at in line.x if at != int(at))


def digits(number: str) -> int:
    """Significant digits as they are written."""
    mantissa = number.partition("e")[0]
    return len(re.sub(r"[^0-9]", "", mantissa).lstrip("0").rstrip("0") or "0")


@pytest.mark.parametrize("name", METHODS)
def test_every_figure_has_few_digits(name: str) -> None:
    found = written(name, subject_of_groups(LARGE))
    figures = list(figures_of(found))
    assert len(figures) > 20
    assert {repr(one) for one in figures if digits(repr(one)) > DIGITS} == set()
    texts = [*found.findings, *found.notes]
    texts += [part.says for parts in (found.tables, found.plots) for part in parts]
    for text in texts:
        for number in re.findall(r"(?<![\w.])\d[\d,]*\.\d+", text):
            assert digits(number) <= DIGITS or f"arXiv {number}" in text, text
    assert any("--reveal" in note for note in found.notes)


@pytest.mark.parametrize("name", METHODS)
def test_small_groups_are_named_and_have_no_figures(name: str) -> None:
    found = written(name, subject_of_groups(SMALL))
    lines = [line.name for plot in found.plots for line in plot.lines]
    assert not {"extracted", "hidden", "another attack extracts"} & {
        line for line in lines if name != "sweep"
    }
    note = " ".join(note for note in found.notes if note.startswith(WITHHELD))
    if name != "sweep":
        assert "3 windows in 3 clusters" in note or name == "latent"
    assert "--reveal" in note


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("sweep", "signals")])
def test_nothing_that_is_written_depends_on_the_text_of_a_small_group(name: str) -> None:
    """Two runs whose extracted windows have other texts, and are otherwise alike."""
    one, other = (
        written(name, subject_of_groups(SMALL, texts={"extracted": seed})) for seed in (0, 77)
    )
    assert one == other
    revealed, changed = (
        written(name, subject_of_groups(SMALL, reveal=True, texts={"extracted": seed}))
        for seed in (0, 77)
    )
    assert revealed != changed or name == "neurons"  # none of them comes out there


@pytest.mark.parametrize("name", METHODS)
def test_without_a_group_that_is_large_enough_nothing_is_written(name: str) -> None:
    found = written(name, subject_of_groups(ALL_SMALL))
    assert not [one for one in figures_of(found) if one != one or name != "layers"]
    assert not [line for plot in found.plots for line in plot.lines]


@pytest.mark.parametrize("name", METHODS)
def test_a_group_that_one_cluster_dominates_counts_as_small(name: str) -> None:
    clusters = {"extracted": [900] * 7 + list(range(17))}
    found = written(name, subject_of_groups(LARGE, clusters=clusters))
    note = " ".join(note for note in found.notes if note.startswith(WITHHELD))
    assert "24 windows in 18 clusters, 7 of them in one" in note or name in ("sweep", "latent")
    lines = [line.name for plot in found.plots for line in plot.lines]
    assert "extracted" not in lines or name == "sweep"


@pytest.mark.parametrize("name", METHODS)
def test_few_windows_drawn_of_a_large_group_are_a_small_group(name: str) -> None:
    settings = {"windows": 4} | ({"unit_windows": 4} if name == "neurons" else {})
    found = written(name, subject_of_groups(LARGE), **settings)
    # All windows are scored by `latent`, and what the run counted of all by `sweep`.
    if name not in ("latent", "sweep"):
        assert list(figures_of(found)) == []
    assert any(note.startswith(WITHHELD) for note in found.notes)


def test_a_diagnosis_is_written_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LayersSettings(run="run")
    texts = {}
    for reveal in (False, True):
        subject = subject_of_groups(SMALL, reveal=reveal)
        monkeypatch.setattr(protocol, "open_subject", lambda given, made=subject: made)
        texts[reveal] = diagnosis_text(examine("layers", settings, "", Silent()).record)
    long = re.compile(r"\d\.\d{7}")
    assert long.search(texts[True])
    assert not long.search(texts[False])
    assert "Withheld" in json.dumps(json.loads(texts[False])["diagnosis"]["notes"])


def test_rounding_keeps_what_is_no_figure() -> None:
    disclosure = Disclosure()
    assert disclosure.admits("windows", np.arange(FEWEST_CLUSTERS))
    assert not disclosure.admits("few", np.arange(FEWEST_CLUSTERS - 1))
    found = disclosure.apply(
        replace(
            written("layers", subject_of_groups(LARGE, reveal=True)),
            findings=["Of 12,345 windows 98.765 % (0.012345 to -9.9951) in 1.0e+06; 1,234.5."],
        )
    )
    assert found.findings == ["Of 12,345 windows 98.8 % (0.0123 to -10.0) in 1.0e+06; 1,230."]
    assert [row[0] for row in found.tables[0].rows] == [0, 1]
    assert [round_digits(one) for one in (0.0, -1.23456, 98765.4)] == [0.0, -1.23, 98800.0]


def test_a_diagnosis_that_asks_for_no_group_is_not_written() -> None:
    found = written("layers", subject_of_groups(LARGE, reveal=True))
    with pytest.raises(RuntimeError, match="asked for no group"):
        Disclosure().apply(found)


def test_only_the_flag_reveals() -> None:
    for name in METHODS:
        said = CliRunner().invoke(app, ["diagnose", name, "run", "--set", "reveal=true"])
        assert said.exit_code == 2
        assert "--set reveal=true: write NAME=VALUE; names: " in said.stderr
        assert "reveal" not in said.stderr.partition("names: ")[2]


def test_windows_of_the_helpers_are_unlike() -> None:
    assert len(np.unique(windows_of(50, 1), axis=0)) == 50
