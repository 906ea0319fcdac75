"""Findings and notes of `diagnose latent`.

Knows the figures. Must not know how they are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memaudit.diagnose.latent.judging import (
    BY_ATTACK,
    CONTROLS,
    EXTRACTED,
    KNOWN_ONLY,
    OTHERS,
    AboveControls,
    Recovered,
)
from memaudit.diagnose.latent.measure import AGAINST, NLL, Measurements
from memaudit.diagnose.latent.questions import Answer, Question
from memaudit.diagnose.latent.settings import DEFAULT_STRENGTH
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate, percent
from memaudit.score.resample import LEAST_CLUSTERS

ABOUT = (
    "Which windows does the model remember although the plain prefix does not extract them? "
    "Scores are cross-entropy and its variants, and what comes out under small random "
    "perturbations of the weights (Duan et al. 2024, arXiv 2406.14549); each is judged as a "
    "detector."
)


@dataclass(frozen=True, eq=False)
class Results:
    """Figures that the findings and notes state."""

    measured: Measurements
    answers: Sequence[Answer]
    unanswered: Mapping[Question, int]
    """Questions with too few windows, and their number of positives."""
    above_controls: Sequence[AboveControls]
    recovered: Mapping[str, Recovered]


def findings_of(results: Results) -> list[str]:
    """List the findings, the most important first."""
    return [
        *_above_controls(results),
        *_recovered(results),
        *(
            sentence
            for answer in results.answers
            for sentence in (*_detected(answer), *_perturbed(answer))
        ),
        *_unanswered(results),
    ]


def _above_controls(results: Results) -> Iterator[str]:
    """State the excess by one score, fixed beforehand so that none is picked for its result."""
    for above in results.above_controls:
        if above.score == NLL and above.allowed > 0:
            windows = count(len(results.measured.unextracted.data), "window")
            passing = f"{above.passing:,} of the {windows}"
            controls = f"{above.controls:,} of the controls ({_share(above.of_controls)})"
            yield (
                f"{passing} that the plain prefix does not extract ({_share(above.of_data)}) have "
                f"a lower suffix NLL than all but {controls}: {_familiar(above)}."
            )


def _familiar(above: AboveControls) -> str:
    if above.excess.low:
        return (
            f"at least {count(round(above.excess.low), 'window')} more than expected of unseen "
            f"text; the estimate is {above.excess:count}. This is evidence of "
            "training on them or on near-duplicates. It does not show that they can be extracted"
        )
    return (
        "this is no evidence that the model knows more of them than of unseen text "
        f"(between 0 and {above.excess.high or 0:,.0f} above expectation)"
    )


def _recovered(results: Results) -> Iterator[str]:
    noise = results.measured.noise
    if noise is None or not results.recovered:
        return
    words = {
        BY_ATTACK: "windows that another attack extracts",
        KNOWN_ONLY: "windows that only the known run extracts",
        OTHERS: OTHERS,
        CONTROLS: CONTROLS,
    }
    parts = [
        f"{group.hits:,} of {group.windows:,} {words[name]} ({_share(group.rate)})"
        for name, group in results.recovered.items()
        if name in words
    ]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    yield (
        f"With at least one of {count(noise.draws, 'perturbation')} of the weights (noise of "
        f"{noise.strength:g} of each matrix' size), these come out: {listed}."
    )
    if EXTRACTED in results.recovered:
        share = results.recovered[EXTRACTED].each
        yield (
            "With one such perturbation, a window that the plain prefix extracts still comes out "
            f"in {share:share} of cases."
        )


def _detected(answer: Answer) -> Iterator[str]:
    question, nll = answer.question, answer.scores[NLL].detector
    yield (
        f"Suffix NLL separates {question.positives} ({answer.positives:,}) from "
        f"{question.negatives} ({answer.total - answer.positives:,}) with ROC AUC "
        f"{nll.auc:.3f}. Of its top {answer.top:,}, {nll.precision:share} are such windows (of "
        f"all, {percent(answer.base_rate)}). At 1 % false positives it finds {nll.recall:share}."
    )
    if answer.best_gap is None:
        return
    named = " and ".join(f"{name}, {auc:.3f}," for name, auc in answer.best.items())
    is_clear = answer.best_gap.above(0) or answer.best_gap.below(0)
    verb = "differ" if is_clear else "do not clearly differ"
    yield (
        f"On the {count(answer.best_of, 'window')} that all scores were judged on, the two best, "
        f"{named} {verb}: their AUCs are {answer.best_gap:+.3f} apart."
    )


def _perturbed(answer: Answer) -> Iterator[str]:
    gaps = answer.perturbed
    if not gaps:
        return
    better = [name for name, gap in gaps.items() if gap.above(0)]
    worse = [name for name, gap in gaps.items() if gap.below(0)]
    best = max(gaps, key=lambda name: gaps[name].value or 0.0)
    helps = "helps" if better else "does not help"
    yield (
        f"Perturbing the weights {helps} to rank {answer.question.positives}: of {len(gaps)} such "
        f"scores, {len(better)} rank them better than the plain suffix NLL, {len(worse)} worse "
        f"and {len(gaps) - len(better) - len(worse)} no differently; the best, {best}, differs "
        f"in AUC by {gaps[best]:+.3f}."
    )


def _unanswered(results: Results) -> Iterator[str]:
    for question, positives in results.unanswered.items():
        yield (
            f"{count(positives, 'window')} to find ({question.positives}): too few to judge a "
            f"score by. It takes at least {LEAST_CLUSTERS} clusters of them and of "
            f"{question.negatives}."
        )


def notes_of(results: Results) -> list[str]:
    """List the limits of the figures."""
    measured, population = results.measured, results.measured.population
    notes = [
        "What another attack extracts is a lower bound of what is hidden: some windows that count "
        "as not hidden are remembered too. An attack also finds likely text more easily, which "
        "favours the NLL.",
        "Each interval in a table is for one score; among many scores, some differ from the NLL "
        "by chance. The findings on perturbed weights and on the two best scores divide the "
        "allowed error by the number of scores compared (Bonferroni), so their intervals are "
        "wider.",
        "The edit similarity in samples.csv is the best over all attacks and would leak the "
        "answer. The longest common run of the plain prefix' own output replaces it.",
    ]
    if not measured.has_attacks:
        notes[0] = (
            "No attack on the model but the plain prefix was run, so no window is known to be "
            "hidden."
        )
    if measured.unextracted.controls is not None:
        notes.append(
            "Controls separate memory from mere likelihood only if they are text like the data. "
            "Windows with near-duplicates elsewhere in the training text count as remembered."
        )
    else:
        notes.append(
            "There are no controls that the plain prefix does not extract. Without them, the "
            "likelihood of unseen text is unknown, and no share can be called remembered."
        )
    if measured.noise is not None:
        notes.append(
            f"The default strength of the noise, {DEFAULT_STRENGTH:g}, was chosen on labelled "
            "windows of one model of 7M parameters, so figures of perturbed scores on that model "
            "are slightly optimistic. More perturbations bring out more text; intervals leave out "
            "the variation between random perturbations."
        )
    if measured.controls_extracted:
        notes.append(
            f"{count(measured.controls_extracted, 'control')} that the plain prefix extracts are "
            "left out, like such windows of the data."
        )
    if population.dropped:
        left_out = ", ".join(population.dropped)
        notes.append(f"Left out, because at least one window lacks the score: {left_out}.")
    if AGAINST not in (*population.scores, *population.dropped):
        notes.append(
            "No reference was given, so text that any model finds likely scores as remembered."
        )
    return notes


def _share(rate: Estimate) -> str:
    """Word a rate for brackets: ``45.0 %, 27.0 to 60.0``."""
    return ", ".join(part for part in rate.parts("share") if part)
