"""Assess extractions: scores, summaries, verdicts, and the text if requested.

Knows extractions, the plan and the score and gate rooms. Knows nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import AttackOutcome
from memaudit.attack.extraction import Extraction
from memaudit.attack.facts import FEW_TO_SELECT
from memaudit.config.settings import AttackName, ScanConfig
from memaudit.data.corpus import Corpus
from memaudit.data.folds import untrained_sentence
from memaudit.data.plan import Plan
from memaudit.gate import validity as validity_gate
from memaudit.gate.baseline import Baseline, count_missing, count_new, overlap_of
from memaudit.gate.thresholds import (
    GateVerdict,
    NewSamples,
    SensitiveCount,
    judge,
    judge_controls,
)
from memaudit.gate.validity import Validity
from memaudit.pipeline.detection import require_searched
from memaudit.report.leaks import count_leaks, counts_of
from memaudit.report.reading import untrained
from memaudit.report.result import AttackResult, FoldFit, Permuted, Revealed
from memaudit.score.samples import Arm, SampleScores, group_windows, score_samples
from memaudit.score.scores import WindowScores, score_windows
from memaudit.score.summary import AttackSummary, Rate, attack_rng, summarise, summarise_any
from memaudit.sensitive.counting import Items, SensitiveContent, count_content
from memaudit.sensitive.detectors import Detector, join_detectors, not_searched
from memaudit.sensitive.entities import entity_detectors
from memaudit.target.entities import EntityModel


def score_all(
    config: ScanConfig, plan: Plan, outcomes: Mapping[AttackName, AttackOutcome]
) -> tuple[tuple[AttackResult, ...], AttackSummary | None]:
    """Score every window, then summarise every attack, and all on the model together."""
    results: list[AttackResult] = []
    arms: dict[AttackName, Arm] = {}
    on_controls: dict[AttackName, Arm] = {}
    for attack, outcome in outcomes.items():
        data, controls = score_outcome(plan, outcome)
        samples, arm = _score_samples(data, plan.data)
        control_samples, control_arm = None, None
        if controls is not None and plan.controls is not None:
            control_samples, control_arm = _score_samples(controls, plan.controls)
            on_controls[attack] = control_arm
        summary = summarise(
            attack,
            arm,
            config.scores,
            attack_rng(config.protocol.seed, attack),
            none=arms.get("none"),
            controls=control_arm,
        )
        arms[attack] = arm
        permuted = permuted_hits(outcome.data, plan.data)
        results.append(
            AttackResult(attack, data, controls, samples, control_samples, summary, permuted)
        )
    together = summarise_any(arms, on_controls or None, config.scores, config.protocol.seed)
    return tuple(results), together


def _score_samples(scores: WindowScores, corpus: Corpus) -> tuple[SampleScores, Arm]:
    """Return the scores of all samples of a corpus, and the arm of those that can be extracted."""
    groups = group_windows(corpus)
    samples = score_samples(scores, groups)
    return samples, Arm.counted(samples, groups)


def permuted_hits(extraction: Extraction, corpus: Corpus) -> Permuted:
    """Count how often an attack returns the suffix of an unrelated window.

    A control that needs no data: each window is compared with one of another cluster, if any.
    """
    order = np.argsort(corpus.clusters, kind="stable")
    shift = int(np.bincount(corpus.clusters).max())
    partner = np.empty_like(order)
    partner[order] = np.roll(order, shift)
    unrelated = corpus.clusters != corpus.clusters[partner]
    suffixes = corpus.windows.suffix_ids[partner[unrelated]]
    equal = extraction.continuation_ids[unrelated] == suffixes
    fractional = float(equal.mean()) if len(equal) else float("nan")
    return Permuted(int(equal.all(axis=1).sum()), len(equal), fractional)


def score_outcome(plan: Plan, outcome: AttackOutcome) -> tuple[WindowScores, WindowScores | None]:
    """Score one attack on each window of the data, and of the controls if any."""
    controls = None
    if plan.controls is not None and outcome.controls is not None:
        controls = _score(outcome.controls, plan.controls)
    return _score(outcome.data, plan.data), controls


def _score(extraction: Extraction, corpus: Corpus) -> WindowScores:
    return score_windows(
        extraction.continuation_ids,
        corpus.windows.suffix_ids,
        extraction.suffix_nll,
        extraction.log_p_z,
    )


def judge_all(
    config: ScanConfig,
    attacks: tuple[AttackResult, ...],
    new: NewSamples | None = None,
    leaked: Rate | None = None,
    *,
    together: AttackSummary | None,
    sensitive: Sequence[SensitiveCount],
    validity: Validity,
    left_out: str = "",
    fits: Sequence[FoldFit] = (),
) -> tuple[GateVerdict, ...]:
    """Judge every configured gate, the controls if any, the run's validity and its attacks.

    Validity and attacks get a verdict only if the run is meaningless, or attacks could not run:
    ``left_out`` says why.
    """
    summaries = [result.summary for result in attacks]
    controls = judge_controls(summaries)
    judged = judge(summaries, config.gate, new, leaked, together=together, sensitive=sensitive)
    void = validity_gate.judge_validity(validity)
    named = untrained((fit.attack, fit.record.stop_reason) for fit in fits)
    reasons = [left_out, untrained_sentence(named, config.protocol)]
    missing = validity_gate.judge_left_out(" ".join(filter(None, reasons)))
    return (*filter(None, [void, missing]), *judged, *filter(None, [controls]))


def sensitive_counts(
    content: SensitiveContent | None, corpus: Corpus, attacks: Sequence[AttackResult]
) -> tuple[SensitiveCount, ...]:
    """Count the samples that give items of each category away; empty if nothing was searched."""
    if content is None:
        return ()
    groups = group_windows(corpus)
    hits = {result.attack: result.data.exact for result in attacks}
    return counts_of(count_leaks(content.categories, content.data.windows, groups, hits, None))


def new_samples(
    baseline: Baseline, fingerprints: tuple[str, ...], attacks: tuple[AttackResult, ...]
) -> NewSamples | None:
    """Count samples extracted now and not listed before; None without an attack on the model."""
    results = [result for result in attacks if result.attack != "copy"]
    if not results:
        return None
    extracted = np.any([result.samples.extracted for result in results], axis=0)
    now = {fingerprints[number] for number in np.flatnonzero(extracted)}
    confidence = results[0].summary.extracted.confidence
    return NewSamples(
        count_new(baseline, now),
        count_missing(now, baseline.fingerprints),
        overlap_of(baseline, fingerprints),
        confidence,
    )


def fold_fits(outcomes: Mapping[AttackName, AttackOutcome]) -> tuple[FoldFit, ...]:
    """Figures of every fit, by attack and fold."""
    return tuple(
        FoldFit(attack, fold, fit.record)
        for attack, outcome in outcomes.items()
        for fold, fit in outcome.fits.items()
    )


def fold_notes(config: ScanConfig, fits: Sequence[FoldFit]) -> list[str]:
    """Return a note on the folds with too few windows to choose a prompt by, if there are any."""
    few = {
        fit.fold: fit.record.select_windows
        for fit in fits
        if fit.record.stop_reason == FEW_TO_SELECT
    }
    if not few:
        return []
    attacks = " and ".join(dict.fromkeys(fit.attack for fit in fits))
    named = ", ".join(f"fold {fold}: {windows}" for fold, windows in sorted(few.items()))
    return [
        f"{attacks} took no prompt in {len(few)} of {config.protocol.folds} folds, where the "
        "choice of an epoch would be a guess: fewer than "
        f"{config.protocol.least_select} windows are left to choose it by ({named}). There, these "
        "attacks are the prefix alone. More records would help."
    ]


def find_sensitive(
    config: ScanConfig,
    plan: Plan,
    tokenizer: Any,
    entities: EntityModel | None,
    detectors: tuple[Detector, ...],
) -> SensitiveContent | None:
    """Find kinds of sensitive content in the suffixes; None if switched off."""
    if not config.sensitive.enabled:
        return None
    if entities is not None:
        added = entity_detectors(entities.labels, entities.find, entities.about)
        detectors = join_detectors((*detectors, *added))
    require_searched(config, {detector.category for detector in detectors})
    count = partial(_count_items, tokenizer, detectors)
    return SensitiveContent(
        methods={detector.category: detector.method for detector in detectors},
        missing=not_searched(detectors),
        data=count(plan.data),
        controls=None if plan.controls is None else count(plan.controls),
    )


def _count_items(tokenizer: Any, detectors: Sequence[Detector], corpus: Corpus) -> Items:
    """Count the items in each window's suffix, and in all audited tokens of each sample."""
    decode = partial(decode_rows, tokenizer)
    prefixes = corpus.windows.prefix_ids
    windows = count_content(corpus.windows.suffix_ids, prefixes, decode, detectors)
    if len(corpus.first_rows) == len(corpus.windows):
        return Items(windows, windows)
    first = prefixes[corpus.first_rows]
    return Items(windows, count_content(corpus.audited_ids(), first, decode, detectors))


def decode_rows(tokenizer: Any, ids: Iterable[NDArray[np.integer[Any]]]) -> tuple[str, ...]:
    """Decode rows of ids without the negative ids of missing output; nothing else decodes ids."""
    rows = [row[row >= 0].tolist() for row in ids]
    decode = partial(tokenizer.batch_decode, clean_up_tokenization_spaces=False)
    try:
        return tuple(decode(rows))
    except (ValueError, LookupError, TypeError):
        # A model may have more ids than its tokenizer, and not every tokenizer skips them.
        known = set(tokenizer.get_vocab().values())
        return tuple(decode([[id_ for id_ in row if id_ in known] for row in rows]))


def reveal(
    plan: Plan, outcomes: Mapping[AttackName, AttackOutcome], tokenizer: Any
) -> dict[str, Revealed]:
    """Decode prefixes, suffixes and outputs."""
    text = partial(decode_rows, tokenizer)
    revealed = {}
    for role, corpus in (("data", plan.data), ("control", plan.controls)):
        if corpus is None:
            continue
        extractions = {
            attack: outcome.data if role == "data" else outcome.controls
            for attack, outcome in outcomes.items()
        }
        revealed[role] = Revealed(
            prefix=text(corpus.windows.prefix_ids),
            suffix=text(corpus.windows.suffix_ids),
            output={a: text(e.continuation_ids) for a, e in extractions.items() if e is not None},
        )
    return revealed
