from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import build_model, build_tokenizer, save_model
from scanned import assert_same_figures, figures, make_texts, run, write_samples

from memaudit.attack.prompt_files import to_bytes
from memaudit.data.plan import SEEN_REASON
from memaudit.errors import DataError, TargetError, UsageError
from memaudit.pipeline.scan import ScanOutcome


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build_model("gpt2"), build_tokenizer(), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = make_texts(24, seed=1)
    return write_samples(tmp_path_factory.mktemp("data") / "data.jsonl", [*texts, *texts[:4]])


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = make_texts(9, seed=2)
    return write_samples(tmp_path_factory.mktemp("controls") / "controls.jsonl", texts)


@pytest.fixture(scope="module")
def outcome(model_folder: Path, data: Path, controls: Path) -> ScanOutcome:
    return run(model_folder, data, controls=str(controls))


def test_a_scan_scores_every_window_by_every_attack(outcome: ScanOutcome) -> None:
    result = outcome.result
    attacks = [attack.attack for attack in result.attacks]
    assert attacks == ["none", "copy", "dynamic-hard", "constant", "dynamic"]
    assert result.controls is not None
    for attack in result.attacks:
        assert len(attack.data.exact) == len(result.data.windows) == 28
        assert attack.controls is not None
        assert len(attack.controls.exact) == len(result.controls.windows) == 9
        assert attack.summary.attack == attack.attack
        assert attack.permuted.n > 0
    assert {(fit.attack, fit.fold) for fit in result.fits} == {
        (attack, fold) for attack in ("constant", "dynamic") for fold in (0, 1)
    }
    assert sum(sizes.audit for sizes in result.fold_sizes) == 28
    assert result.run.seconds.keys() >= {"reading files", "scoring", "copy: matching"}
    assert result.revealed == {}


def test_near_duplicates_are_in_one_fold_and_cannot_be_copied(outcome: ScanOutcome) -> None:
    corpus = outcome.result.data
    np.testing.assert_array_equal(corpus.clusters[:4], corpus.clusters[24:])
    np.testing.assert_array_equal(corpus.folds[:4], corpus.folds[24:])
    copy = outcome.result.attack("copy")
    assert copy is not None
    assert not copy.data.exact.any()


def test_the_same_seed_gives_the_same_figures_and_prompts(
    outcome: ScanOutcome, model_folder: Path, data: Path, controls: Path
) -> None:
    again = run(model_folder, data, controls=str(controls))
    assert_same_figures(outcome, again)
    for before, after in zip(outcome.prompts, again.prompts, strict=True):
        assert to_bytes(before) == to_bytes(after)
    other_seed = run(
        model_folder,
        data,
        protocol={"cluster_run": 8, "seed": 1, "least_select": 1},
        attacks=["constant"],
    )
    assert to_bytes(other_seed.prompts[0]) != to_bytes(outcome.prompts[0])


def test_the_batch_size_changes_no_verdict(
    outcome: ScanOutcome, model_folder: Path, data: Path, controls: Path
) -> None:
    small = run(model_folder, data, controls=str(controls), extraction={"batch_size": 3})
    assert small.result.run.batch_size == 3
    assert small.result.run.batch_size_reason == "as configured"
    assert_same_figures(outcome, small, close=True)


def test_leaving_attacks_out_leaves_the_others_alone(
    outcome: ScanOutcome, model_folder: Path, data: Path, controls: Path
) -> None:
    fewer = run(model_folder, data, controls=str(controls), attacks=["none", "dynamic"])
    whole = figures(outcome)
    for name, values in figures(fewer).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.fixture(scope="module")
def run_folder(outcome: ScanOutcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for fold in outcome.prompts:
        (folder / f"generator-{fold.fold}.safetensors").write_bytes(to_bytes(fold))
    return folder


def test_saved_prompts_give_the_same_figures_on_the_same_file(
    outcome: ScanOutcome, run_folder: Path, model_folder: Path, data: Path
) -> None:
    again = run(
        model_folder, data, generator=str(run_folder), attacks=["none", "constant", "dynamic"]
    )
    np.testing.assert_array_equal(again.result.data.folds, outcome.result.data.folds)
    whole = figures(outcome)
    for name, values in figures(again).items():
        # The same prompts over the same windows; only the batches may be others.
        np.testing.assert_allclose(
            values.astype(float), whole[name].astype(float), rtol=1e-4, err_msg=name
        )
    assert again.prompts == ()
    assert again.result.fold_sizes == ()


def test_saved_prompts_skip_what_all_of_them_have_seen(
    run_folder: Path, model_folder: Path, data: Path, tmp_path: Path, outcome: ScanOutcome
) -> None:
    prompt_file = run_folder / "generator-0.safetensors"
    rows = np.flatnonzero(outcome.result.data.folds != 0)
    texts = [json.loads(line)["text"] for line in data.read_text("utf-8").splitlines()]
    mixed = write_samples(
        tmp_path / "new.jsonl", [texts[rows[0]], *make_texts(3, seed=5), "x " + texts[rows[1]]]
    )
    again = run(model_folder, mixed, generator=str(prompt_file), attacks=["none", "dynamic"])
    windows = again.result.data.windows
    assert windows.line.tolist() == [2, 3, 4]
    assert {record.line: record.reason for record in windows.skipped} == {
        1: SEEN_REASON,
        5: SEEN_REASON,
    }
    only_seen = write_samples(tmp_path / "seen.jsonl", [texts[rows[0]]])
    with pytest.raises(DataError, match="near-duplicate"):
        run(model_folder, only_seen, generator=str(prompt_file), attacks=["none", "dynamic"])


def test_saved_prompts_that_do_not_fit_are_refused(
    run_folder: Path, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--prefix-tokens 8"):
        run(
            model_folder,
            data,
            generator=str(run_folder),
            windows={"prefix_tokens": 7, "suffix_tokens": 6},
        )
    with pytest.raises(UsageError, match="no generator-"):
        run(model_folder, data, generator=str(tmp_path))


def test_saved_prompts_without_the_attack_are_refused(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    first = run(model_folder, data, attacks=["constant"])
    for fold in first.prompts:
        (tmp_path / f"generator-{fold.fold}.safetensors").write_bytes(to_bytes(fold))
    with pytest.raises(UsageError, match="holds no prompt of dynamic"):
        run(model_folder, data, generator=str(tmp_path), attacks=["none", "dynamic"])


def test_a_prompt_longer_than_the_model_is_refused(model_folder: Path, data: Path) -> None:
    long = {"num_virtual_tokens": 250}
    with pytest.raises(UsageError, match="264 tokens"):
        run(model_folder, data, constant=long, dynamic=long)


def test_ids_that_the_model_does_not_have_are_refused(tmp_path: Path, data: Path) -> None:
    model = build_model("gpt2")
    model.resize_token_embeddings(100)
    folder = save_model(model, build_tokenizer(), tmp_path / "small")
    with pytest.raises(TargetError, match="embeddings for 100"):
        run(folder, data, attacks=["none"])


def test_text_is_revealed_only_on_request(model_folder: Path, data: Path) -> None:
    audit = run(model_folder, data, reveal=True, attacks=["none", "copy"]).result
    first = json.loads(data.read_text("utf-8").splitlines()[0])["text"]
    revealed = audit.revealed["data"]
    assert first.startswith(revealed.prefix[0] + revealed.suffix[0])
    assert revealed.output.keys() == {"none", "copy"}


def test_random_folds_are_called_no_evidence(model_folder: Path, data: Path) -> None:
    result = run(
        model_folder, data, attacks=["none"], protocol={"split": "random", "cluster_run": 8}
    ).result
    assert any("not evidence" in note for note in result.notes)
    assert any("No controls" in note for note in result.notes)


def test_few_windows_are_enough_where_nothing_is_fitted(model_folder: Path, tmp_path: Path) -> None:
    texts = make_texts(1, seed=3)
    data = write_samples(tmp_path / "one.jsonl", texts)
    controls = write_samples(tmp_path / "controls.jsonl", make_texts(2, seed=4))
    outcome = run(model_folder, data, attacks=["none", "dynamic-hard"], controls=str(controls))
    result = outcome.result
    assert result.fold_sizes == ()
    assert result.data.folds.tolist() == [0]
    assert [len(attack.data.exact) for attack in result.attacks] == [1, 1]
    with pytest.raises(DataError, match="has 1 cluster of near-duplicates"):
        run(model_folder, data, attacks=["copy"])


def test_too_few_windows_for_being_short_say_which_would_fit(
    model_folder: Path, tmp_path: Path
) -> None:
    data = write_samples(tmp_path / "short.jsonl", [*make_texts(2, seed=3), *["fox dog"] * 9])
    with pytest.raises(
        DataError, match=r"has 2 clusters.*9 of 11 samples are too short.*would fit"
    ):
        run(model_folder, data, attacks=["copy", "dynamic"])
