"""`diagnose signals` on models whose answer is known, on every architecture, and at limits."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from architectures import MATRIX, Architecture, make_model
from conftest import VOCABULARY, build_model
from subjects_signals import (
    RUN,
    SHARP,
    Knowing,
    P,
    S,
    checkpoint_of,
    part_of,
    random_ids,
    subject_of,
)

from memaudit.diagnose import protocol
from memaudit.diagnose.signals.measure import Chosen, read_prefix_signals
from memaudit.diagnose.signals.readings import (
    LEAST_LOG_P,
    figure_positions,
    passes_for,
    read_prefixes,
    read_windows,
)
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.subject import Subject
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis, FigureTable
from memaudit.score.estimate import Estimate

SETTINGS = SignalsSettings(run=RUN, border=3)
SURE = SHARP - math.log(math.exp(SHARP) + VOCABULARY - 1)
"""ln p of the tokens that the built model knows."""


def known_subject(since: int, count: int = 90, known: int = 30, **parts: Any) -> Subject:
    """``known`` of ``count`` windows are extracted from a model that knows just those."""
    ids = random_ids(count)
    extracted = np.arange(count) < known
    controls = part_of(
        random_ids(25, seed=9), np.zeros(25, dtype=bool), clusters=1000 + np.arange(25)
    )
    return subject_of(
        checkpoint_of(Knowing(ids[:known], since)),
        part_of(ids, extracted, **parts),
        controls,
    )


def diagnose(subject: Subject, settings: SignalsSettings = SETTINGS) -> Diagnosis:
    return protocol.diagnose("signals", subject, settings, Silent())


def table(diagnosis: Diagnosis, name: str) -> FigureTable:
    return next(table for table in diagnosis.tables if table.name == name)


def cells(diagnosis: Diagnosis, name: str) -> dict[Any, dict[str, Any]]:
    """Row name -> column name -> cell."""
    rows = table(diagnosis, name)
    names = [column.name for column in rows.columns]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows.rows}


def test_figures_are_those_of_the_formula_in_float64() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 50, generator=rng) * 4
    logits[:, :, 10:20] = -math.inf  # as masked rows of a vocabulary are
    tokens = torch.randint(0, 10, (3, 7), generator=rng)
    tokens[0, 0] = 12
    figures = figure_positions(logits, tokens)
    p = logits.double().exp() / logits.double().exp().sum(dim=-1, keepdim=True)
    entropy = -torch.where(p > 0, p * p.log(), 0.0).sum(dim=-1)
    torch.testing.assert_close(figures["entropy"].double(), entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(figures["top_p"].double(), p.amax(dim=-1), rtol=1e-5, atol=1e-6)
    log_p = p.gather(-1, tokens[..., None])[..., 0].log().clamp(min=LEAST_LOG_P)
    torch.testing.assert_close(figures["log_p"].double(), log_p, rtol=1e-5, atol=1e-5)
    assert figures["log_p"][0, 0] == LEAST_LOG_P
    assert torch.equal(figures["first"], p.argmax(dim=-1) == tokens)


def test_positions_in_parts_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(2, 9, 20, generator=rng), torch.randint(0, 20, (2, 9))
    whole = figure_positions(logits, tokens)
    monkeypatch.setattr("memaudit.diagnose.signals.readings._CELLS", 90)  # 2 positions at a time
    for name, values in figure_positions(logits, tokens).items():
        assert torch.equal(values, whole[name])


@pytest.mark.parametrize("bos", [False, True])
def test_each_figure_is_of_its_own_token(bos: bool) -> None:
    """Against the model's own logits of whole windows."""
    checkpoint, ids = checkpoint_of(build_model("gpt2"), bos), random_ids(6)
    passes = subject_of(checkpoint, part_of(ids, np.zeros(6, dtype=bool))).passes()
    start = np.zeros((6, int(bos)), dtype=np.int64)
    given = torch.as_tensor(np.concatenate([start, ids], axis=1), dtype=torch.long)
    with torch.no_grad():
        log_p = checkpoint.model(input_ids=given).logits.double().log_softmax(dim=-1)
    log_p = log_p[:, int(bos) :]  # (B,P+S,X), row c predicts token c+1
    true = log_p[:, :-1].gather(-1, torch.as_tensor(ids[:, 1:, None], dtype=torch.long))[..., 0]
    entropy = -(log_p.exp() * log_p).sum(dim=-1).numpy()
    figures = read_windows(passes, ids, lambda done: None)
    np.testing.assert_allclose(figures["log_p"], true.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(figures["entropy"], entropy[:, :-1], rtol=1e-3, atol=1e-3)
    reading = read_prefixes(passes, ids[:, :P], lambda done: None)
    np.testing.assert_allclose(reading.log_p, true[:, : P - 1].numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(reading.entropy, entropy[:, :P], rtol=1e-3, atol=1e-3)
    assert reading.state is not None
    assert reading.likeness is not None
    head = checkpoint.model.get_output_embeddings().weight.detach().numpy()
    logits = reading.state @ head.T  # what the head reads is what the next token comes from
    np.testing.assert_allclose(logits.argmax(axis=1), log_p[:, P - 1].argmax(dim=-1).numpy())


def test_likeness_is_the_mean_cosine_of_two_states() -> None:
    from memaudit.diagnose.signals.readings import mean_cosine

    states = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    unit = (states / states.norm(dim=-1, keepdim=True)).double()
    for row in range(2):
        pairs = [float(unit[row, a] @ unit[row, b]) for a in range(5) for b in range(a)]
        assert float(mean_cosine(states)[row]) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_entropy_falls_by_what_the_model_knows() -> None:
    """A model that knows suffixes only: ln X before the border, next to nothing after it."""
    diagnosis = diagnose(known_subject(since=P))
    border = cells(diagnosis, "border")
    p = math.exp(SURE)
    other = (1 - p) / (VOCABULARY - 1)
    sure = -p * SURE - (VOCABULARY - 1) * other * math.log(other)
    assert border["extracted"]["entropy before"].value == pytest.approx(math.log(VOCABULARY), 1e-4)
    assert border["extracted"]["entropy after"].value == pytest.approx(sure, 1e-3)
    assert border["extracted"]["log p after"].value == pytest.approx(SURE, 1e-3)
    for group in ("untouched", "controls"):
        assert border[group]["fall over the border"].value == pytest.approx(0, abs=1e-4)
    curve = next(plot for plot in diagnosis.plots if plot.name == "border-entropy")
    (line,) = (item for item in curve.lines if item.name == "extracted")
    assert list(line.x) == list(range(1 - P, S))
    assert [y > 3 for y in line.y] == [x < 0 for x in line.x]
    falls = next(item for item in diagnosis.findings if item.startswith("Fall of entropy"))
    assert falls.endswith(
        "extracted 5.69 (5.69 to 5.69), untouched 0.00 (0.00 to 0.00), controls 0.00 (0.00 to "
        "0.00); extracted minus untouched 5.69 (5.69 to 5.69), minus controls 5.69 (5.69 to 5.69)."
    )


def test_what_the_prefix_shows_is_predicted() -> None:
    """A model that knows the ends of prefixes too: the third that is extracted comes first."""
    diagnosis = diagnose(known_subject(since=3))
    triage = cells(diagnosis, "triage-none")
    assert triage["50 %"]["found"].value == 1
    assert triage["50 %"]["found"].low == pytest.approx(0.884, abs=1e-3)  # 30 of 30: exact
    assert triage["10 %"]["found"].value == pytest.approx(0.3)
    assert triage["10 %"]["extracted of them"].value == pytest.approx(1)
    assert triage["10 %"]["controls as risky"].value == 0
    assert cells(diagnosis, "needed")["99 %"]["none: all signals"].value == pytest.approx(0.33)
    rows = cells(diagnosis, "predictors")
    assert rows["none: all signals"]["AUC"].value == 1
    assert rows["none: log p of the prefix alone"]["AUC"].value == 1
    assert 0.25 < rows["none: all signals, labels permuted"]["AUC"].value < 0.75
    # P of P+S-1 tokens for every window, and those of the riskiest that are extracted.
    whole = 90 * (P + S - 1) + 60 * (S - 1)
    assert triage["10 %"]["tokens"] == pytest.approx((90 * P + 9 * (P + S - 1)) / whole)
    apart = cells(diagnosis, "telling-apart")
    above, below = apart["prefix: log p"], apart["prefix: entropy"]
    bound = pytest.approx(0.884, abs=1e-3)  # 30 of 30: exact
    assert above["AUC, not extracted"].value == above["AUC, not extracted"].high == 1
    assert above["AUC, not extracted"].low == bound
    assert (below["AUC, controls"].value, below["AUC, controls"].low) == (0, 0)
    assert triage["10 %"]["extracted of them"].low == pytest.approx(0.664, abs=1e-3)  # 9 of 9
    (cost,) = (finding for finding in diagnosis.findings if finding.startswith("A pass over"))
    assert "After a full scan of 90 windows to fit it" in cost
    assert next(plot.name for plot in diagnosis.plots) == "triage-none"


def test_what_only_another_attack_brings_is_a_second_target() -> None:
    hidden = (np.arange(90) >= 30) & (np.arange(90) < 55)
    diagnosis = diagnose(known_subject(since=3, hidden=hidden))
    assert {"triage-none", "triage-any"} <= {table.name for table in diagnosis.tables}
    assert cells(diagnosis, "border")["hidden"]["windows"] == 25
    assert cells(diagnosis, "predictors")["any: all signals"]["AUC"].value < 1


def test_no_signal_of_a_prefix_sees_a_suffix() -> None:
    """Other suffixes change nothing, and their tokens never reach the model."""
    ids = random_ids(20)
    other = ids.copy()
    other[:, P:] = random_ids(20, seed=5, tokens=(200, 300))[:, P:]
    readings = []
    for windows in (ids, other):
        model = Knowing(ids[:5], since=3)
        part = part_of(windows, np.zeros(20, dtype=bool))
        controls = part_of(windows, np.zeros(20, dtype=bool), clusters=50 + np.arange(20))
        subject = subject_of(checkpoint_of(model), part, controls)
        chosen = Chosen(np.arange(20), np.arange(10))
        readings.append(read_prefix_signals(subject, chosen, np.arange(20), 3, Silent()))
        assert model.seen <= set(ids[:, :P].ravel().tolist())
    for first, second in zip(readings[0].signals, readings[1].signals, strict=True):
        assert first.name == second.name
        np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(readings[0].states, readings[1].states)
    assert len(readings[0].signals) == 17


AUDITED = [one for one in MATRIX if one.refused is None]


@pytest.mark.parametrize("architecture", AUDITED, ids=lambda architecture: architecture.name)
def test_every_architecture_is_read(architecture: Architecture) -> None:
    model = make_model(architecture)
    if model is None:
        pytest.skip("transformers does not know it")
    extracted = np.arange(10) < 4
    part = part_of(random_ids(10), extracted)
    with torch.no_grad():  # RWKV scales its own weights once, at its first pass
        embedded = model.get_input_embeddings()(torch.ones(1, 4, dtype=torch.long))
        model(inputs_embeds=embedded, use_cache=False)
    before = copy.deepcopy(model.state_dict())
    subject = subject_of(checkpoint_of(model, architecture.adds_bos), part)
    diagnosis = diagnose(subject)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert "state: nearest of another cluster" in cells(diagnosis, "signals")
    entropy = cells(diagnosis, "border")["untouched"]["entropy after"].value
    assert 0 < entropy <= math.log(VOCABULARY) + 1e-4


def test_a_head_that_is_not_called_is_named() -> None:
    class Headless(Knowing):
        def get_output_embeddings(self) -> None:  # type: ignore[override]
            return None

    ids = random_ids(60)
    extracted = np.arange(60) < 30
    part = part_of(ids, extracted)
    diagnosis = diagnose(subject_of(checkpoint_of(Headless(ids[:30], 3)), part))
    assert any(note.startswith("Headless shows no state") for note in diagnosis.notes)
    assert "state: nearest of another cluster" not in cells(diagnosis, "signals")
    assert cells(diagnosis, "predictors")["none: all signals"]["AUC"].value == 1


def test_a_model_that_knows_nothing_predicts_nothing() -> None:
    """Every distribution even, every state the same: no warning, and chance."""
    ids = random_ids(80)
    model = Knowing(random_ids(1, seed=3), since=3)
    diagnosis = diagnose(subject_of(checkpoint_of(model), part_of(ids, np.arange(80) % 2 == 0)))
    rows = cells(diagnosis, "predictors")
    assert rows["none: log p of the prefix alone"]["AUC"] == Estimate(0.5, 0.5, 0.5)
    assert 0.25 < rows["none: all signals"]["AUC"].value < 0.75


def test_too_few_clusters_give_no_predictor() -> None:
    diagnosis = diagnose(known_subject(since=3, known=19))
    assert diagnosis.findings[0] == (
        "Too few windows are extracted by the plain prefix for a predictor: 19 windows in 19 "
        "clusters, of 90 windows sampled. A predictor needs 20 clusters."
    )
    names = [table.name for table in diagnosis.tables] + [plot.name for plot in diagnosis.plots]
    assert not any(name.startswith("triage") for name in names)
    # 30 windows, yet of 19 clusters
    clusters = np.where(np.arange(90) < 30, np.arange(90) % 19, np.arange(90))
    diagnosis = diagnose(known_subject(since=3, clusters=clusters))
    assert "30 windows in 19 clusters" in diagnosis.findings[0]


def test_nothing_extracted_and_no_controls() -> None:
    ids = random_ids(30)
    model = Knowing(ids[:1], 3)
    diagnosis = diagnose(subject_of(checkpoint_of(model), part_of(ids, np.zeros(30, dtype=bool))))
    assert "0 windows in 0 clusters" in diagnosis.findings[0]
    assert list(cells(diagnosis, "border")) == ["untouched"]
    assert "telling-apart" not in {table.name for table in diagnosis.tables}
    assert any("no controls" in note for note in diagnosis.notes)


def test_few_extracted_mark_nothing() -> None:
    """Nine windows apart by luck or not: an area, and neither an interval nor a best signal."""
    diagnosis = diagnose(known_subject(since=3, known=9))
    apart = cells(diagnosis, "telling-apart")["prefix: log p"]
    assert apart["AUC, controls"] == Estimate(1, None, None)
    assert any("can be named the best: extracted" in finding for finding in diagnosis.findings)
    assert not any("best: AUC" in finding for finding in diagnosis.findings)


def test_everything_extracted() -> None:
    diagnosis = diagnose(known_subject(since=3, count=30, known=30))
    assert (
        "Nearly every window is extracted by the plain prefix: the rest lie in 0 clusters"
        in (diagnosis.findings[0])
    )
    assert list(cells(diagnosis, "border")) == ["extracted", "controls"]
    apart = cells(diagnosis, "telling-apart")["prefix: log p"]
    assert apart["AUC, not extracted"] == Estimate(None, None, None)
    assert apart["AUC, controls"].value == 1


def test_one_cluster_has_no_intervals() -> None:
    ids = random_ids(30)
    part = part_of(ids, np.arange(30) < 10, clusters=np.zeros(30, dtype=np.int64))
    diagnosis = diagnose(subject_of(checkpoint_of(Knowing(ids[:10], P)), part))
    fall = cells(diagnosis, "border")["extracted"]["fall over the border"]
    assert fall.value is not None
    assert fall.low is None
    assert "state: nearest of another cluster" not in cells(diagnosis, "signals")
    assert any(
        "fewer than 10 clusters (extracted 1, untouched 1)" in note for note in diagnosis.notes
    )


def test_a_prefix_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subjects_signals.P", 1)
    ids = random_ids(60)
    extracted = np.arange(60) < 30
    diagnosis = diagnose(subject_of(checkpoint_of(Knowing(ids[:30], 1)), part_of(ids, extracted)))
    assert diagnosis.findings[0] == "A prefix of one token is too short for a predictor."
    assert cells(diagnosis, "border")["extracted"]["entropy before"].value is None


def numpy_state() -> list[int]:
    """State of numpy's global generator."""
    state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
    return [*state["state"]["key"].tolist(), state["state"]["pos"]]


def test_the_same_seed_gives_the_same() -> None:
    settings = SETTINGS.model_copy(update={"windows": 20, "predictor_windows": 80})
    subjects = [known_subject(since=3) for _ in range(3)]
    state = torch.random.get_rng_state(), numpy_state()
    first, second = (diagnose(subject, settings) for subject in subjects[:2])
    assert first == second
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert state[1] == numpy_state()
    other = diagnose(subjects[2], settings.model_copy(update={"seed": 1}))
    assert other.tables != first.tables


def test_plots_keep_to_what_a_page_takes() -> None:
    diagnosis = diagnose(known_subject(since=3))
    names = {table.name for table in diagnosis.tables}
    for plot in diagnosis.plots:
        assert plot.name in names
        assert len(plot.lines) <= 24
        for line in plot.lines:
            assert len(line.x) == len(line.y) <= 500
            assert line.name.isascii()
            assert len(line.name) <= 80


def test_more_logits_take_fewer_windows() -> None:
    passes = subject_of(
        checkpoint_of(build_model("gpt2")), part_of(random_ids(3), np.ones(3, bool))
    )
    assert passes_for(passes.passes(), P + S - 1, S).batch_size == 16 * S // (P + S - 1)
    assert passes_for(passes.passes(), 1000, S).batch_size == 1
