"""`diagnose latent` finds hidden windows that are known to be hidden, and no other windows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build_model, build_tokenizer, save_model
from subjects_latent import P, S, Taught, part_of, random_ids, subject_of, teach, train
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.diagnose.latent.judging import above_controls
from memaudit.diagnose.latent.known_run import known_windows
from memaudit.diagnose.latent.measure import (
    NLL,
    Population,
    gather,
    nll_before,
    select_unextracted,
)
from memaudit.diagnose.latent.scores import read_scores
from memaudit.diagnose.latent.settings import LatentSettings
from memaudit.diagnose.passes import Pass
from memaudit.diagnose.protocol import diagnose
from memaudit.diagnose.subject import Part, Subject, open_subject
from memaudit.errors import UsageError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Cell, Diagnosis
from memaudit.run.load import read_run
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

RESAMPLES = Resamples(0.95, 200, 0)
MARKS = "~^|{}@#$%&*+<>?!_`'-/]["
"""Characters that the tiny tokenizer never joins."""
RUN = Path("run")
SHORT = LatentSettings(run=RUN, draws=3, strength=0.1, top=20)


@pytest.fixture(scope="session")
def taught() -> Taught:
    return teach()


@pytest.fixture(scope="session")
def subject(taught: Taught) -> Subject:
    """All lessons, which the other attack finds, and as many windows that it does not."""
    ids = np.concatenate([taught.lessons, taught.fresh])
    data = part_of(taught.checkpoint, ids, np.arange(len(ids)) < len(taught.lessons))
    controls = taught.controls
    extracted = np.zeros(len(controls), dtype=bool)
    return subject_of(
        taught.checkpoint, data, part_of(taught.checkpoint, controls, extracted, first_cluster=900)
    )


def rows_of(diagnosis: Diagnosis, name: str) -> dict[Cell, dict[str, Cell]]:
    """A table's rows by their first cell."""
    (table,) = (table for table in diagnosis.tables if table.name == name)
    names = [column.name for column in table.columns]
    return {row[0]: dict(zip(names, row, strict=True)) for row in table.rows}


def measure(cell: Cell) -> tuple[float, float, float]:
    assert isinstance(cell, Estimate)
    assert cell.value is not None
    assert cell.low is not None
    assert cell.high is not None
    return cell.value, cell.low, cell.high


def test_hidden_lessons_are_told_from_windows_never_seen(subject: Subject) -> None:
    extracted = subject.data.extracted
    assert extracted.sum() > 5
    assert subject.data.hidden.sum() > 20
    diagnosis = diagnose("latent", subject, SHORT, Silent())
    rows = rows_of(diagnosis, "hidden")
    value, low, _ = measure(rows[NLL]["ROC AUC"])
    assert value > 0.97
    assert low > 0.9
    assert measure(rows[NLL]["precision, top 20"])[0] > 0.95
    chance, low, high = measure(rows["random numbers (control)"]["ROC AUC"])
    assert low < 0.5 < high
    assert abs(chance - 0.5) < 0.2
    assert measure(rows_of(diagnosis, "data-among-controls")[NLL]["ROC AUC"])[0] < value
    (row,) = (row for row in tables(diagnosis, "beyond") if row[:2] == (NLL, "none"))
    excess = row[6]
    assert isinstance(excess, Estimate)
    assert excess.low is not None
    hidden = int(subject.data.hidden.sum())
    assert excess.low > hidden / 2
    assert (excess.value or 0) <= hidden
    familiar = [sentence for sentence in diagnosis.findings if "more than expected" in sentence]
    assert familiar == diagnosis.findings[:1]
    assert "It does not show that they can be extracted" in familiar[0]
    texts = (*diagnosis.findings, *diagnosis.notes, *(table.says for table in diagnosis.tables))
    assert not any(" none does" in text or "none extracts" in text for text in texts)


def tables(diagnosis: Diagnosis, name: str) -> list[Sequence[Cell]]:
    return [tuple(row) for table in diagnosis.tables if table.name == name for row in table.rows]


def test_perturbed_weights_bring_lessons_back_and_nothing_else(subject: Subject) -> None:
    settings = SHORT.model_copy(update={"draws": 8})
    before = {
        name: weight.clone() for name, weight in subject.checkpoint.model.state_dict().items()
    }
    diagnosis = diagnose("latent", subject, settings, Silent())
    after = subject.checkpoint.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    rows = rows_of(diagnosis, "recovered")
    assert rows["another attack extracts"]["come out"] > 0  # type: ignore[operator]
    assert rows["other windows of the data"]["come out"] == rows["controls"]["come out"] == 0
    assert measure(rows["the plain prefix extracts"]["with one, mean"])[0] > 0.3


def test_no_noise_leaves_every_figure_as_it_was(subject: Subject) -> None:
    diagnosis = diagnose("latent", subject, SHORT.model_copy(update={"strength": 0.0}), Silent())
    rows = rows_of(diagnosis, "hidden")
    for name in ("perturbed: least NLL", "perturbed: mean NLL"):
        assert measure(rows[name]["ROC AUC"])[0] == measure(rows[NLL]["ROC AUC"])[0]
    assert measure(rows["perturbed: rise of NLL"]["ROC AUC"])[0] == 0.5
    for row in rows_of(diagnosis, "recovered").values():
        assert row["NLL rise, mean"] == Estimate(0.0, None, None)


def test_the_same_seed_says_the_same_and_another_perturbs_otherwise(subject: Subject) -> None:
    first, second = (diagnose("latent", subject, SHORT, Silent()) for _ in range(2))
    assert first == second
    other = diagnose("latent", subject, SHORT.model_copy(update={"seed": 1}), Silent())
    assert tables(other, "recovered") != tables(first, "recovered")
    settings = SHORT.model_copy(update={"windows": 12})
    part = diagnose("latent", subject, settings, Silent())
    rows = rows_of(part, "hidden")
    assert rows[NLL]["windows"] == len(subject.data) - subject.data.extracted.sum()
    assert rows["perturbed: least NLL"]["windows"] == 24
    assert rows_of(part, "recovered")["controls"]["windows"] == 12


def test_scores_are_those_of_the_papers() -> None:
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    logits[0, 0, 3] = -math.inf
    tokens = torch.randint(0, 3, (3, 5), generator=torch.Generator().manual_seed(1))
    scores = read_scores(Pass(logits, tokens, None), 0.4)
    for row in range(3):
        log_p = torch.log_softmax(logits[row].double(), -1)
        own = log_p[torch.arange(5), tokens[row]]
        p = log_p.exp()
        known = torch.where(p > 0, log_p, 0.0)
        mean = (p * known).sum(-1)
        normed = (own - mean) / ((p * known**2).sum(-1) - mean**2).sqrt()
        assert float(scores["nll"][row]) == pytest.approx(-float(own.mean()), rel=1e-5)
        assert float(scores["min_k"][row]) == pytest.approx(float(own.sort()[0][:2].mean()), 1e-5)
        plus = float(normed.sort()[0][:2].mean())
        assert float(scores["min_k_plus"][row]) == pytest.approx(plus, rel=1e-4)


def test_an_impossible_token_makes_no_score_infinite() -> None:
    logits = torch.zeros(2, 5, 7)
    logits[0, 1, 2] = -math.inf
    scores = read_scores(Pass(logits, torch.full((2, 5), 2), None), 0.4)
    assert all(torch.isfinite(score.double()).all() for score in scores.values())
    assert float(scores["nll"][0]) == pytest.approx((100 + 4 * math.log(7)) / 5)


def test_a_score_that_is_missing_for_a_window_is_left_out_by_name(subject: Subject) -> None:
    rows = subject.data.rows.assign(log_p_z_none=math.nan)
    part = replace(subject, data=Part(subject.data.ids, rows, subject.data.attacks))
    diagnosis = diagnose("latent", part, SHORT.model_copy(update={"draws": 0}), Silent())
    assert "log p_z" not in rows_of(diagnosis, "hidden")
    assert any(note.endswith("lacks the score: log p_z.") for note in diagnosis.notes)


def test_curves_start_where_one_of_the_windows_looked_at_stands(subject: Subject) -> None:
    diagnosis = diagnose("latent", subject, SHORT.model_copy(update={"windows": 12}), Silent())
    (plot,) = (plot for plot in diagnosis.plots if plot.name == "roc")
    starts = {line.name: line.x[0] for line in plot.lines}
    assert starts[NLL] < 1 / 12 <= starts["perturbed: rise, share of NLL"] * (1 + 1e-9)


def test_what_lies_above_the_controls_is_counted_with_their_own_share() -> None:
    """200 of 1,000 windows like 400 controls are moved above all controls."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=1400)
    scores[:200] += 20
    no = np.zeros(1400, dtype=bool)
    population = Population(
        {"s": scores}, np.arange(1400), np.ones(1400), np.arange(1400) >= 1000, no, no
    )
    counted = above_controls(population, "s", 0.01, RESAMPLES)
    assert counted.controls == 4
    assert counted.of_hidden.value is None
    low, high = counted.excess.low, counted.excess.high
    assert low is not None
    assert high is not None
    assert low < 200 < high
    assert low > 150
    alike = replace(population, scores={"s": rng.normal(size=1400)})
    assert above_controls(alike, "s", 0.01, RESAMPLES).excess.low == 0
    none = above_controls(population, "s", 0.0, RESAMPLES)
    assert none.controls == 0
    assert none.of_controls.high == pytest.approx(0.00918, abs=1e-4)


def test_without_controls_nothing_is_said_to_be_remembered(subject: Subject) -> None:
    diagnosis = diagnose("latent", replace(subject, controls=None), SHORT, Silent())
    assert {table.name for table in diagnosis.tables} == {"hidden", "recovered", "roc", "nll"}
    assert any("There are no controls" in note for note in diagnosis.notes)
    assert not any("more than expected" in sentence for sentence in diagnosis.findings)


def test_where_no_other_attack_was_run_the_controls_alone_are_told_from(subject: Subject) -> None:
    data = Part(subject.data.ids, subject.data.rows, ("none",))
    diagnosis = diagnose("latent", replace(subject, data=data), SHORT, Silent())
    assert not tables(diagnosis, "hidden")
    assert tables(diagnosis, "data-among-controls")
    assert "no window is known to be hidden" in diagnosis.notes[0]


def test_too_few_hidden_windows_are_no_ground_for_a_figure(subject: Subject) -> None:
    rows = subject.data.rows.copy()
    rows["exact_constant"] = (np.arange(len(rows)) == len(rows) - 1).astype(float)
    few = replace(subject, data=Part(subject.data.ids, rows, subject.data.attacks))
    diagnosis = diagnose("latent", few, SHORT.model_copy(update={"draws": 0}), Silent())
    assert not tables(diagnosis, "hidden")
    assert not tables(diagnosis, "recovered")
    assert any("1 window" in sentence and "too few" in sentence for sentence in diagnosis.findings)
    rows["cluster"] = 0
    clustered = replace(few, data=Part(subject.data.ids, rows, subject.data.attacks))
    diagnosis = diagnose("latent", clustered, SHORT.model_copy(update={"draws": 0}), Silent())
    assert not tables(diagnosis, "data-among-controls")


def test_where_everything_comes_out_nothing_is_latent(taught: Taught) -> None:
    part = part_of(taught.checkpoint, taught.lessons)
    with pytest.raises(UsageError, match="the plain prefix extracts every window"):
        diagnose(
            "latent",
            subject_of(taught.checkpoint, part.take(part.extracted), None),
            SHORT,
            Silent(),
        )


def test_where_nothing_is_to_be_judged_it_is_refused(taught: Taught) -> None:
    subject = subject_of(taught.checkpoint, part_of(taught.checkpoint, taught.fresh), None)
    with pytest.raises(UsageError, match="nothing to judge by"):
        diagnose("latent", subject, SHORT.model_copy(update={"draws": 0}), Silent())
    diagnosis = diagnose("latent", subject, SHORT, Silent())
    assert {table.name for table in diagnosis.tables} == {"recovered", "nll"}


def _text(seed: int, number: int) -> str:
    rng = np.random.default_rng([seed, number])
    return "".join(rng.choice(list(MARKS), P + S))


def _scan(folder: Path, model: str, out: str) -> Path:
    ended = CliRunner().invoke(
        app,
        [
            *("scan", str(folder / model), str(folder / "data.jsonl"), "-q"),
            *("--controls", str(folder / "controls.jsonl"), "--out", str(folder / out)),
            *("--prefix-tokens", str(P), "--suffix-tokens", str(S), "--device", "cpu"),
            *("--attacks", "none,dynamic-hard", "--set", "protocol.cluster_run=10"),
            *("--set", "scores.bootstrap=100", "--set", "dynamic.num_virtual_tokens=3"),
        ],
    )
    assert ended.exit_code == 0, ended.output
    return folder / out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was taught 35 texts, and then others, and a run on each of the two."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = build_tokenizer()
    for name, seed, count in (("data", 1, 60), ("controls", 2, 30)):
        lines = [json.dumps({"text": _text(seed, number)}) for number in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    taught = [tokenizer.encode(_text(1, number))[: P + S] for number in range(35)]
    model = build_model("gpt2")
    save_model(model, tokenizer, folder / "before")
    with torch.random.fork_rng(devices=[]):
        train(model, np.array(taught, dtype=np.int32), 120)
        save_model(model, tokenizer, folder / "first")
        train(model, random_ids(40, seed=9), 5)
    save_model(model, tokenizer, folder / "later")
    _scan(folder, "first", "run-first")
    _scan(folder, "later", "run-later")
    return folder


def test_a_known_run_and_a_reference_are_taken_up(runs: Path) -> None:
    settings = LatentSettings(
        run=runs / "run-later",
        known=runs / "run-first",
        reference=str(runs / "before"),
        draws=2,
        top=10,
    )
    subject = open_subject(settings)
    diagnosis = diagnose("latent", subject, settings, Silent())
    later, first = (
        pd.read_csv(runs / f"run-{name}" / "windows.csv") for name in ("later", "first")
    )
    data = later["role"] == "data"
    known = data & (first["exact_none"] == 1) & (later["exact_none"] == 0)
    assert known.sum() >= 10
    assert next(table for table in diagnosis.tables if table.name == "known").says.startswith(
        f"{known.sum()} of {(data & (later['exact_none'] == 0)).sum()} windows"
    )
    auc = measure(rows_of(diagnosis, "known")["NLL against the reference"]["ROC AUC"])
    assert auc[0] > 0.9
    assert diagnosis.settings["known"] == str(runs / "run-first")


def test_windows_are_told_by_their_place_where_the_key_is_another(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(runs / "run-later")
    rows = run.scored("data")
    by_fingerprint = known_windows(runs / "run-first", run, rows)
    monkeypatch.setenv("MEMAUDIT_KEY", "f" * 64)
    other = _scan(runs, "first", "run-first-again")
    assert set(read_run(other).windows["fingerprint"]).isdisjoint(rows["fingerprint"])
    assert (known_windows(other, run, rows) == by_fingerprint).all()
    assert by_fingerprint.sum() >= 10
    backwards = rows.iloc[::-1]
    assert (known_windows(other, run, backwards) == by_fingerprint[::-1]).all()


def test_the_reference_of_the_run_serves_where_none_is_named(subject: Subject) -> None:
    def with_reference(part: Part) -> Part:
        rows = part.rows.assign(reference_suffix_nll_none=part.rows["suffix_nll_none"] + 1.5)
        return Part(part.ids, rows, part.attacks)

    assert subject.controls is not None
    report: Any = SimpleNamespace(reference=())
    referenced = replace(
        subject,
        run=replace(subject.run, report=report),
        data=with_reference(subject.data),
        controls=with_reference(subject.controls),
    )
    unextracted = select_unextracted(referenced)
    before = nll_before(referenced, unextracted, None, Silent())
    population = gather(referenced, unextracted, None, before, 0.2, lambda done: None)
    assert population.scores["NLL against the reference"] == pytest.approx(1.5, abs=1e-5)
    assert nll_before(subject, unextracted, None, Silent()) is None


def test_plots_have_a_table_each_and_are_short_enough_to_draw(subject: Subject) -> None:
    diagnosis = diagnose("latent", subject, SHORT, Silent())
    assert [plot.name for plot in diagnosis.plots] == ["roc", "nll"]
    for plot in diagnosis.plots:
        assert any(table.name == plot.name for table in diagnosis.tables)
        for line in plot.lines:
            assert line.name.isascii()
            assert len(line.x) == len(line.y) <= 100
            assert len(line.x) > 1
            assert np.isfinite(line.y).all()
            assert (np.diff(line.y) >= 0).all(), "both kinds of curve only rise"
    for table in diagnosis.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_known_run_on_other_windows_is_refused(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("before", "controls.jsonl"):
        (other / name).symlink_to(runs / name)
    lines = (runs / "data.jsonl").read_text().splitlines()
    (other / "data.jsonl").write_text("\n".join(lines[1:]) + "\n")
    out = _scan(other, "before", "run")
    settings = LatentSettings(run=runs / "run-later", known=out, draws=0)
    with pytest.raises(UsageError, match=r"1 of \d+ windows of this run are not in it"):
        diagnose("latent", open_subject(settings), settings, Silent())


def test_a_reference_that_is_the_model_itself_is_refused(runs: Path) -> None:
    settings = LatentSettings(run=runs / "run-later", reference=str(runs / "later"), draws=0)
    with pytest.raises(UsageError, match="is the audited model itself"):
        diagnose("latent", open_subject(settings), settings, Silent())
