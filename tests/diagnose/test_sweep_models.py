"""Sweeps that ask a model: one whose memory is known, every architecture, and a whole run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import MATRIX, Architecture, make_model
from conftest import VOCABULARY
from subjects_sweep import (
    TableModel,
    checkpoint_of,
    make_part,
    make_run,
    make_subject,
    random_ids,
)

from memaudit.config.settings import ScanConfig, ScoreSettings
from memaudit.data.folds import fold_of
from memaudit.diagnose.protocol import diagnose
from memaudit.diagnose.subject import Subject, open_subject
from memaudit.diagnose.sweep.fits import (
    BUDGET,
    check_fits,
    choose_ground,
    plan_variants,
    whole_clusters,
)
from memaudit.diagnose.sweep.measure import short_name
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.windows import Asker
from memaudit.errors import UsageError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.estimate import Estimate
from memaudit.target.checkpoint import Checkpoint

P, S, K = 8, 6, 3


def rows_of(result: Diagnosis, name: str) -> list[list[Any]]:
    return [list(row) for table in result.tables if table.name == name for row in table.rows]


def known_subject() -> Subject:
    """A model that knows the first 30 of 50 windows by K tokens before each, and no control."""
    ids, other_ids = random_ids(50, P + S, 1), random_ids(20, P + S, 2)
    checkpoint = checkpoint_of(TableModel(K, ids[:30]))
    continuations = np.where(np.arange(50)[:, None] < 30, ids[:, P:], 0).astype(np.int32)
    data = make_part(ids, {"none": continuations}, S)
    controls = make_part(other_ids, {"none": np.zeros((20, S), np.int32)}, S)
    return make_subject(data, controls, checkpoint)


def test_windows_that_hang_on_k_tokens_come_out_from_k_on() -> None:
    subject = known_subject()
    given = SweepSettings(run=Path("run"), prefix_lengths=(1, 2, 3, 4, 7))
    result = diagnose("sweep", subject, given, Silent())
    rates = {row[0]: row[1].value for row in rows_of(result, "prefix-length")}
    assert rates == {p: (0.6 if p >= K else 0.0) for p in (1, 2, 3, 4, 7, 8)}
    still_extracted = {row[0]: row[3].value for row in rows_of(result, "prefix-length")[:-1]}
    assert still_extracted == {p: float(p >= K) for p in (1, 2, 3, 4, 7)}
    assert all(row[6].value == 0 for row in rows_of(result, "prefix-length"))
    assert "3 tokens are enough for 100 %" in " ".join(result.findings)


def test_a_window_that_needs_a_short_prefix_is_counted_as_such() -> None:
    subject = known_subject()
    data = subject.data
    data.rows.loc[:9, "exact_none"] = 0  # as if the whole prefix led the model astray
    data.rows.loc[:9, "matched_none"] = 0
    given = SweepSettings(run=Path("run"), prefix_lengths=(3,))
    row = rows_of(diagnose("sweep", subject, given, Silent()), "prefix-length")[0]
    assert row[4] == 10
    assert isinstance(row[2], Estimate)
    assert row[2].value == pytest.approx(0.2)


AUDITED = [case for case in MATRIX if case.refused is None]


@pytest.mark.parametrize("architecture", AUDITED, ids=[case.config for case in AUDITED])
def test_one_pass_with_a_shorter_prefix_says_what_decoding_says(architecture: Architecture) -> None:
    """Refused architectures never have a run (test_matrix)."""
    model = make_model(architecture)
    if model is None:
        pytest.skip("not in this transformers")
    bos = 0 if architecture.adds_bos else None
    checkpoint = Checkpoint(model, None, "m", torch.device("cpu"), torch.float32, bos_id=bos)
    rng, p, s = np.random.default_rng(0), 3, 4
    ids = rng.integers(3, VOCABULARY, (6, P + s)).astype(np.int32)
    embed = model.get_input_embeddings()
    with torch.no_grad():  # whole passes, one token at a time, after the last p prefix tokens
        text = torch.as_tensor(ids[:, P - p : P], dtype=torch.long)
        for _ in range(s):
            prompt = text if bos is None else torch.cat([torch.zeros(6, 1).long(), text], dim=1)
            logits = model(inputs_embeds=embed(prompt), use_cache=False).logits[:, -1]
            text = torch.cat([text, logits.argmax(dim=-1, keepdim=True)], dim=1)
    ids[:3, P:] = text[:3, p:].numpy()
    ids[3, P:] = text[3, p:].numpy()
    ids[3, P + 2] = (ids[3, P + 2] + 1) % VOCABULARY
    result = Asker(ScoreSettings(), s, 4).ask(checkpoint, ids, p)
    same = (text[:, p:].numpy() == ids[:, P:]).cumprod(axis=1).sum(axis=1)
    np.testing.assert_array_equal(result.matched, same)
    assert result.exact[:3].all()
    assert result.matched[3] == 2


# A whole run: a model that repeats its last token, audited on windows half of which do.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``none``, and another model beside it that knows nothing."""
    return make_run(tmp_path_factory.mktemp("sweep"))


FITS: dict[str, Any] = {
    "fits": True,
    "fit_windows": 60,
    "virtual_tokens": (1, 2, 400),
    "seeds": 2,
    "prefix_lengths": (4,),
}


@pytest.fixture(scope="module")
def swept(folder: Path) -> tuple[Subject, Diagnosis, bool]:
    """Subject and diagnosis, with fits; whether the weights are as before."""
    given = SweepSettings(run=folder / "run", models=(str(folder / "other"),), reveal=True, **FITS)
    subject = open_subject(given)
    before = weights(subject)
    result = diagnose("sweep", subject, given, Silent())
    return subject, result, weights(subject) == before


def weights(subject: Subject) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(subject.checkpoint.model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_another_model_is_held_beside_the_audited_one(
    swept: tuple[Subject, Diagnosis, bool],
) -> None:
    subject, result, _ = swept
    own, other = sorted(rows_of(result, "model-size"), key=lambda row: "audited" not in row[0])
    known = int(subject.data.extracted.sum())
    assert 40 <= known <= 60
    assert own[2].value == pytest.approx(known / 120)
    assert other[0] == "other"
    assert other[2].value == 0
    assert other[3].value == pytest.approx(-known / 120)
    assert other[4:6] == [0, known]
    assert other[6] < 0.02
    assert "other (" in " ".join(result.findings)


def test_a_model_that_reads_the_text_otherwise_is_refused(folder: Path) -> None:
    for model, why in (("stranger", "are different tokens"), ("model", "is the audited model")):
        given = SweepSettings(run=folder / "run", models=(str(folder / model),))
        with pytest.raises(UsageError, match=f"--with .*{model}: .*{why}"):
            diagnose("sweep", open_subject(given), given, Silent())


def test_a_revision_may_stand_behind_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def look(where: str, config: ScanConfig, own: ScanConfig, *rest: object) -> None:
        asked.append((own.model, own.target.revision))
        raise UsageError(where)

    monkeypatch.setattr("memaudit.diagnose.sweep.measure.check_tokenizer", look)
    (folder / "at@home").mkdir(exist_ok=True)
    for model in ("org/name@step3", "org/name", str(folder / "at@home")):
        given = SweepSettings(run=folder / "run", models=(model,))
        with pytest.raises(UsageError, match=model):
            diagnose("sweep", open_subject(given), given, Silent())
    assert asked == [("org/name", "step3"), ("org/name", None), (str(folder / "at@home"), None)]


def test_nothing_of_the_model_changes_and_nothing_hangs_on_chance(
    folder: Path, swept: tuple[Subject, Diagnosis, bool]
) -> None:
    subject, result, unchanged = swept
    assert unchanged
    given = SweepSettings(run=folder / "run", models=(str(folder / "other"),), reveal=True, **FITS)
    again = diagnose("sweep", subject, given, Silent())
    assert again.findings == result.findings
    assert again.plots == result.plots
    for case, other in zip(result.tables, again.tables, strict=True):
        timed = case.name == "fits"
        for row, other_row in zip(case.rows, other.rows, strict=True):
            assert list(row)[: len(row) - timed] == list(other_row)[: len(row) - timed]


def test_every_variant_is_fitted_and_scored_on_the_same_windows(
    swept: tuple[Subject, Diagnosis, bool],
) -> None:
    subject, result, _ = swept
    rows = rows_of(result, "fits")
    named = [(row[0], row[1], row[2]) for row in rows]
    assert named[0] == ("none", 0, None)
    ground = choose_ground(subject, 60, 0)
    assert rows[0][3].value == pytest.approx(subject.data.extracted[ground.rows].mean())
    kinds = {name for name, _, _ in named}
    assert kinds == {
        *("none", "constant", "dynamic", "dynamic, random start", "dynamic, depth 2"),
        *("constant, low rank 2", "dynamic, no low rank"),
    }
    assert {virtual for _, virtual, _ in named} == {0, 1, 2, 3}
    assert sum(row[0] == "dynamic, random start" for row in rows) == 2
    assert any("V = 400 was left out" in note for note in result.notes)
    for row in rows[1:]:
        gained, lost = row[6:8]
        assert row[4].value == pytest.approx((gained - lost) / len(ground.rows))
    identity, random = (
        next(row for row in rows if row[:3] == [name, 3, 0])
        for name in ("dynamic", "dynamic, random start")
    )
    column = next(
        [column.name for column in table.columns].index("select NLL before")
        for table in result.tables
        if table.name == "fits"
    )
    assert random[column] != identity[column]


def test_folds_are_those_of_the_run_and_no_cluster_crosses_them(
    swept: tuple[Subject, Diagnosis, bool],
) -> None:
    subject = swept[0]
    ground = choose_ground(subject, 60, 0)
    clusters = ground.data.clusters
    assert len(ground.data) <= 60
    audited = fold_of(ground.folds, len(ground.data))
    assert (audited >= 0).all()
    if ground.same_folds:
        np.testing.assert_array_equal(audited, ground.data.rows["fold"].to_numpy())
    for fold in ground.folds:
        parts = [set(clusters[part].tolist()) for part in (fold.fit, fold.select, fold.audit)]
        assert all(parts)
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]


def test_clusters_are_drawn_whole() -> None:
    clusters = np.repeat(np.arange(30), np.arange(30) % 4 + 1)
    rows = whole_clusters(clusters, 40, np.random.default_rng(0))
    assert 36 <= len(rows) <= 40
    taken = np.unique(clusters[rows])
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(clusters, taken)))
    alone = whole_clusters(np.zeros(9, dtype=np.int64), 4, np.random.default_rng(0))
    assert len(alone) == 9


def test_constant_has_the_budget_of_dynamic_and_only_what_is_varied_differs() -> None:
    dynamic = {"epochs": 4, "fit_share": 0.5, "num_virtual_tokens": 5, "low_rank": 3}
    config = ScanConfig.model_validate(
        {"model": "m", "data": "d", "dynamic": dynamic, "constant": {"learning_rate": 0.5}}
    )
    variants = plan_variants(config, [1, 5], 2)
    for case in variants:
        settings = getattr(case.config, case.attack)
        assert settings.num_virtual_tokens == case.virtual_tokens
        assert all(getattr(settings, key) == getattr(config.dynamic, key) for key in BUDGET)
    constant = next(case for case in variants if case.name == "constant")
    assert constant.config.constant.learning_rate == 0.5
    assert len({(case.name, case.virtual_tokens, case.seed) for case in variants}) == len(variants)


def test_a_run_too_small_for_fits_says_so(folder: Path) -> None:
    given = SweepSettings(run=folder / "run", fits=True, fit_windows=2, prefix_lengths=(4,))
    result = diagnose("sweep", open_subject(given), given, Silent())
    assert "Fits: none was made" in result.findings[0]


def test_names_of_models_are_harmless() -> None:
    assert short_name("/a/b/tb7m/") == "tb7m"
    assert short_name("org/m\x1b[31m\n") == "m\\x1b[31m\\n"
    assert short_name("x" * 60) == "x" * 23 + "~"
    assert short_name("/").isascii()


def test_the_v_that_a_model_has_positions_for(swept: tuple[Subject, Diagnosis, bool]) -> None:
    result = check_fits(swept[0], [2, 2, 1000])
    assert result.lengths == (2, 3)  # 3 is the run's own
    assert result.notes[0].startswith("V = 1000 was left out")
    assert len(result.notes) == 1
