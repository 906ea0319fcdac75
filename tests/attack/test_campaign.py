from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build_model, build_tokenizer
from made_windows import windows_of
from numpy.typing import NDArray

from memaudit.attack.campaign import AttackOutcome, Campaign
from memaudit.attack.extraction import Extraction, Extractor
from memaudit.attack.journal import Advance
from memaudit.attack.parts import Side
from memaudit.attack.prompts import FittedPrompt, NoPrompt, SoftPrompt
from memaudit.attack.tuning import Tuner, TuningData
from memaudit.config.settings import (
    AttackName,
    ConstantSettings,
    DynamicSettings,
    ProtocolSettings,
    ScanConfig,
    ScoreSettings,
    WindowSettings,
)
from memaudit.data.clusters import find_clusters
from memaudit.data.folds import assign_controls, fold_of, make_folds
from memaudit.data.windows import Windows
from memaudit.errors import UsageError
from memaudit.target.checkpoint import Checkpoint

P, S, RUN = 6, 6, 4


class Quiet:
    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda done: None


class SpyExtractor(Extractor):
    """Notes which prompt met which windows."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.scored: list[tuple[SoftPrompt, NDArray[np.int32]]] = []

    def extract_each(
        self,
        prompt: SoftPrompt,
        parts: Sequence[NDArray[np.int32]],
        advance: Advance = lambda done: None,
    ) -> Iterator[Extraction]:
        self.scored.append((prompt, np.concatenate(parts)))
        return super().extract_each(prompt, parts, advance)


def as_windows(ids: NDArray[np.int32]) -> Windows:
    return windows_of(ids, P)


def near_duplicates(rng: np.random.Generator, clusters: int, sizes: int) -> NDArray[np.int32]:
    """Windows of which some share a run of RUN tokens with others."""
    rows = []
    for _ in range(clusters):
        first = rng.integers(3, VOCABULARY, P + S)
        for _ in range(1 + int(rng.integers(sizes))):
            row = rng.integers(3, VOCABULARY, P + S)
            start, place = rng.integers(P + S - RUN + 1, size=2)
            row[place : place + RUN] = first[start : start + RUN]
            rows.append(row)
        rows.append(first)
    return np.array(rows, dtype=np.int32)


class Setup:
    """A campaign over random windows, with what its protocol has to keep apart."""

    def __init__(self, *, folds: int = 3, seed: int = 0, **changes: Any) -> None:
        rng = np.random.default_rng(seed)
        everything = near_duplicates(rng, clusters=14, sizes=4)
        self.data = everything[rng.permutation(len(everything))]
        # Half of the controls are near-duplicates of data: the worst case for the protocol.
        self.controls = near_duplicates(rng, clusters=4, sizes=2)
        self.controls[::2, :RUN] = self.data[: len(self.controls[::2]), :RUN]
        both = find_clusters([as_windows(self.data), as_windows(self.controls)], RUN)
        self.clusters, self.control_clusters = np.split(both, [len(self.data)])
        protocol = ProtocolSettings(
            folds=folds, cluster_run=RUN, select_fraction=0.2, least_select=1
        )
        self.folds = make_folds(self.clusters, protocol, rng)
        self.fold = fold_of(self.folds, len(self.data))
        self.control_fold = assign_controls(
            np.arange(len(self.controls)), self.control_clusters, self.clusters, self.folds, rng
        )
        self.config = make_config(protocol=protocol, **changes)

    def campaign(self, **changes: Any) -> Campaign:
        model = build_model("gpt2").requires_grad_(False)
        checkpoint = Checkpoint(
            model=model,
            tokenizer=build_tokenizer(),
            name="gpt2",
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self.extractor = SpyExtractor(checkpoint, P, ScoreSettings(), 8)
        given: dict[str, Any] = {
            "data": Side(self.data, self.fold),
            "controls": Side(self.controls, self.control_fold),
            "fitted": {},
        }
        return Campaign(self.extractor, self.config, self.folds, **(given | changes))

    def clusters_of(self, ids: NDArray[np.int32]) -> set[int]:
        """The clusters of windows, which are found again by their ids."""
        known = {row.tobytes(): int(c) for row, c in zip(self.data, self.clusters, strict=True)}
        known |= {
            row.tobytes(): int(c)
            for row, c in zip(self.controls, self.control_clusters, strict=True)
        }
        return {known[np.ascontiguousarray(row).tobytes()] for row in ids}


def make_config(**changes: Any) -> ScanConfig:
    short: dict[str, Any] = {"num_virtual_tokens": 2, "epochs": 1, "min_steps": 0, "batch_size": 8}
    given: dict[str, Any] = {
        "model": "gpt2",
        "data": "data.jsonl",
        "windows": WindowSettings(prefix_tokens=P, suffix_tokens=S),
        "constant": ConstantSettings(**short),
        "dynamic": DynamicSettings(**short),
    }
    return ScanConfig(**(given | changes))


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SoftPrompt, FittedPrompt, TuningData]]:
    """Record the data of every fit, and the prompt that audits afterwards."""
    notes: list[tuple[SoftPrompt, FittedPrompt, TuningData]] = []
    fit = Tuner.fit

    def noting(self: Tuner, prompt: FittedPrompt, data: TuningData, *rest: Any) -> Any:
        done = fit(self, prompt, data, *rest)
        notes.append((done.prompt, done.fitted, data))
        return done

    monkeypatch.setattr(Tuner, "fit", noting)
    return notes


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize(
    ("attack", "start"),
    [("constant", "vocabulary"), ("dynamic", "vocabulary"), ("dynamic", "constant")],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_window_is_scored_by_a_prompt_that_saw_its_cluster(
    tuned: list[tuple[SoftPrompt, FittedPrompt, TuningData]],
    attack: AttackName,
    start: str,
    share: float,
    seed: int,
) -> None:
    short: dict[str, Any] = {
        "num_virtual_tokens": 2,
        "epochs": 1,
        "min_steps": 0,
        "fit_share": share,
    }
    dynamic = DynamicSettings(start=start, **short)
    setup = Setup(seed=seed, constant=ConstantSettings(**short), dynamic=dynamic)
    campaign = setup.campaign()
    campaign.run("none", Quiet())  # it has seen nothing, and chooses the windows for `share`
    setup.extractor.scored.clear()
    campaign.run(attack, Quiet())
    # Everything a prompt depends on: its own fit, and the constant prompt that it started from.
    fits = 2 if start == "constant" else 1
    assert len(tuned) == fits * len(setup.folds)
    clusters_by_prompt: dict[int, set[int]] = {}
    for number, (prompt, _, data) in enumerate(tuned):
        windows = np.concatenate([data.fit_ids, data.select_ids])
        fold = number % len(setup.folds)
        clusters_by_prompt.setdefault(fold, set()).update(setup.clusters_of(windows))
        fit, select = setup.clusters_of(data.fit_ids), setup.clusters_of(data.select_ids)
        assert not fit & select
        clusters_by_prompt[id(prompt)] = clusters_by_prompt[fold]

    scored = 0
    for prompt, ids in setup.extractor.scored:
        assert not clusters_by_prompt[id(prompt)] & setup.clusters_of(ids)
        scored += len(ids)
    assert scored == len(setup.data) + len(setup.controls)


def test_controls_that_resemble_data_are_scored_apart_from_it() -> None:
    setup = Setup()
    shared = np.isin(setup.control_clusters, setup.clusters)
    assert shared.any()
    assert not shared.all()


@pytest.mark.parametrize("attack", ["none", "dynamic-hard"])
def test_untrained_attacks_score_every_window_once(attack: AttackName) -> None:
    setup = Setup()
    outcome = setup.campaign().run(attack, Quiet())
    (_, data), (_, controls) = setup.extractor.scored
    np.testing.assert_array_equal(data, setup.data)
    np.testing.assert_array_equal(controls, setup.controls)
    assert (outcome.data.continuation_ids >= 0).all()
    assert np.isfinite(outcome.data.suffix_nll).all()


def test_copy_knows_only_what_other_folds_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()
    calls = []

    def noting(known: NDArray[np.int32], prefixes: NDArray[np.int32], count: int) -> Any:
        calls.append((known, prefixes))
        return np.full((len(prefixes), count), -1, dtype=np.int32)

    monkeypatch.setattr("memaudit.attack.campaign.copy_continuations", noting)
    setup.campaign().run("copy", Quiet())
    whole = np.concatenate([setup.data, setup.controls])
    assert sum(len(prefixes) for _, prefixes in calls) == len(whole)
    for known, prefixes in calls:
        rows = [row for row in whole if (row[:P] == prefixes).all(axis=1).any()]
        assert not setup.clusters_of(known) & setup.clusters_of(np.array(rows))


def run(attacks: Sequence[AttackName], setup: Setup) -> dict[AttackName, AttackOutcome]:
    campaign = setup.campaign()
    return {attack: campaign.run(attack, Quiet()) for attack in attacks}


def assert_same_outcome(first: AttackOutcome, second: AttackOutcome) -> None:
    assert first.controls is not None
    assert second.controls is not None
    for left, right in ((first.data, second.data), (first.controls, second.controls)):
        np.testing.assert_array_equal(left.continuation_ids, right.continuation_ids)
        np.testing.assert_array_equal(left.suffix_nll, right.suffix_nll)
        np.testing.assert_array_equal(left.log_p_z, right.log_p_z)
    assert first.fits.keys() == second.fits.keys()
    for number, fit in first.fits.items():
        state, twin = fit.fitted.state_dict(), second.fits[number].fitted.state_dict()
        assert state.keys() == twin.keys()
        assert all(torch.equal(state[name], twin[name]) for name in state)


@pytest.mark.parametrize("start", ["vocabulary", "constant"])
def test_leaving_attacks_out_changes_nothing_for_the_others(start: str) -> None:
    short: dict[str, Any] = {"num_virtual_tokens": 2, "epochs": 1, "min_steps": 0, "fit_share": 0.5}
    dynamic = DynamicSettings(start=start, **short)
    setup = Setup(constant=ConstantSettings(**short), dynamic=dynamic)
    whole = run(["none", "copy", "dynamic-hard", "constant", "dynamic"], setup)
    for attack in ("none", "dynamic-hard", "constant", "dynamic"):
        assert_same_outcome(run([attack], setup)[attack], whole[attack])


@pytest.mark.parametrize("order", [("none", "dynamic"), ("dynamic", "none"), ("dynamic",)])
def test_choosing_the_likeliest_windows_costs_one_extraction_at_most(
    order: tuple[AttackName, ...],
) -> None:
    short: dict[str, Any] = {"num_virtual_tokens": 2, "epochs": 1, "min_steps": 0, "fit_share": 0.5}
    setup = Setup(constant=ConstantSettings(**short), dynamic=DynamicSettings(**short))
    chosen = [fit.prompt for fit in run(order, setup)["dynamic"].fits.values()]
    plain = [
        ids
        for prompt, ids in setup.extractor.scored
        if isinstance(prompt, NoPrompt) and not any(prompt is fitted for fitted in chosen)
    ]
    assert sum(len(ids) for ids in plain) == len(setup.data) + len(setup.controls)


def test_prompts_fitted_earlier_are_used_as_they_are() -> None:
    setup = Setup()
    prompts: dict[int, SoftPrompt] = {fold: NoPrompt() for fold in range(3)}
    campaign = setup.campaign(fitted={"constant": prompts})
    outcome = campaign.run("constant", Quiet())
    assert outcome.fits == {}
    for prompt, ids in setup.extractor.scored:
        fold = next(number for number, candidate in prompts.items() if candidate is prompt)
        expected = (setup.data[setup.fold == fold], setup.controls[setup.control_fold == fold])
        assert any(np.array_equal(ids, part) for part in expected)


def test_an_attack_without_prompts_or_folds_is_refused() -> None:
    setup = Setup()
    setup.folds = ()
    with pytest.raises(UsageError, match="--generator"):
        setup.campaign(fitted={"constant": {}}).run("dynamic", Quiet())
