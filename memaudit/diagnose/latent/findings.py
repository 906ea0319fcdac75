"""What `diagnose latent` found, as sentences.

Knows the figures. Knows nothing of how they come about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memaudit.diagnose.latent.beyond import Beyond
from memaudit.diagnose.latent.population import AGAINST, NLL
from memaudit.diagnose.latent.questions import Answer, Question
from memaudit.diagnose.latent.recovered import (
    CONTROLS,
    EXTRACTED,
    FOUND,
    KNOWN_ONLY,
    OTHERS,
    Recovered,
)
from memaudit.diagnose.latent.settings import DEFAULT_STRENGTH
from memaudit.diagnose.latent.trial import Noise
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate, percent
from memaudit.score.resample import LEAST_CLUSTERS

ABOUT = (
    "Which windows does the model remember although its plain prefix does not bring them back? "
    "Scored by cross-entropy and its kin, and by what comes out under small random perturbations "
    "of the weights (Duan et al. 2024, arXiv 2406.14549), and judged as detectors."
)


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that sentences are made of."""

    left: int
    """Windows of the data that ``none`` does not extract."""
    controls: int
    """Controls that it does not extract; 0 where there are none."""
    controls_extracted: int
    asked: bool
    """Whether another attack on the model was run."""
    answers: Sequence[Answer]
    unanswered: Mapping[str, tuple[Question, int]]
    """By name, questions with too few windows, and how many there are to be found."""
    beyond: Sequence[Beyond]
    recovered: Mapping[str, Recovered]
    noise: Noise | None


def findings_of(results: Results) -> list[str]:
    """The most important first."""
    return [
        *_beyond(results),
        *_recovered(results),
        *(
            sentence
            for found in results.answers
            for sentence in (*_detected(found), *_perturbed(found))
        ),
        *_unanswered(results),
    ]


def _beyond(results: Results) -> Iterator[str]:
    """By one score that is chosen before the figures, so that none is picked for its result."""
    for one in results.beyond:
        if one.score == NLL and one.allowed > 0:
            passing = f"{one.passing:,} of the {count(results.left, 'window')}"
            controls = f"{one.controls:,} of the controls ({_share(one.of_controls)})"
            yield (
                f"{passing} that the plain prefix does not extract ({_share(one.of_data)}) have a "
                f"lower suffix NLL than all but {controls}: {_familiar(one)}."
            )


def _familiar(one: Beyond) -> str:
    if one.excess.low:
        return (
            f"at least {count(round(one.excess.low), 'window')} more than are expected of text "
            f"that was not seen; the estimate is {one.excess:count}. This is evidence of "
            "training on them or on near-duplicates, and does not show that they can be extracted"
        )
    return (
        "this does not show that more of them are familiar than of text that was not seen "
        f"(between 0 and {one.excess.high or 0:,.0f} above expectation)"
    )


def _recovered(results: Results) -> Iterator[str]:
    noise = results.noise
    if noise is None or not results.recovered:
        return
    words = {
        FOUND: "windows that another attack extracts",
        KNOWN_ONLY: "windows that only the known run extracts",
        OTHERS: "other windows of the data",
        CONTROLS: "controls",
    }
    parts = [
        f"{one.hits:,} of {one.windows:,} {words[name]} ({_share(one.rate)})"
        for name, one in results.recovered.items()
        if name in words
    ]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    yield (
        f"Under at least one of {count(noise.draws, 'perturbation')} of the weights (noise of "
        f"{noise.strength:g} of each matrix' size) come out {listed}."
    )
    if EXTRACTED in results.recovered:
        kept = results.recovered[EXTRACTED].each
        yield (
            "Under one such perturbation a window that the plain prefix extracts still comes out "
            f"in {kept:share} of cases."
        )


def _detected(found: Answer) -> Iterator[str]:
    question, nll = found.question, found.detectors[NLL]
    yield (
        f"Suffix NLL tells {question.wanted} ({found.positives:,}) from {question.others} "
        f"({found.total - found.positives:,}) with ROC AUC {nll.auc:.3f}; "
        f"{nll.precision:share} of its top {found.top:,} are among them, "
        f"{percent(found.base_rate)} of all, and {nll.found:share} are found where "
        "1 % of the others pass too."
    )
    if found.apart is None:
        return
    named = " and ".join(f"{name}, {auc:.3f}," for name, auc in found.best.items())
    apart = found.apart.above(0) or found.apart.below(0)
    told = "are told apart" if apart else "are not told apart"
    yield (
        f"Of {count(found.best_of, 'window')} that every score was judged by, the two best, "
        f"{named} {told}: their AUC differs by {found.apart:+.3f}."
    )


def _perturbed(found: Answer) -> Iterator[str]:
    gaps = found.perturbed
    if not gaps:
        return
    better = [name for name, one in gaps.items() if one.above(0)]
    worse = [name for name, one in gaps.items() if one.below(0)]
    best = max(gaps, key=lambda name: gaps[name].value or 0.0)
    helps = "helps" if better else "does not help"
    yield (
        f"Perturbing the weights {helps} to rank {found.question.wanted}: of {len(gaps)} scores "
        f"made so, {len(better)} rank them better than the plain suffix NLL, {len(worse)} worse "
        f"and {len(gaps) - len(better) - len(worse)} alike; the best, {best}, by an AUC of "
        f"{gaps[best]:+.3f}."
    )


def _unanswered(results: Results) -> Iterator[str]:
    for question, positives in results.unanswered.values():
        yield (
            f"{count(positives, 'window')} of those to be found ({question.wanted}) are too few to "
            f"judge a score by: at least {LEAST_CLUSTERS} clusters of them, and of "
            f"{question.others}, are needed."
        )


def notes_of(results: Results, scores: Sequence[str], dropped: Sequence[str] = ()) -> list[str]:
    """What a reader has to know so as not to be misled.

    scores, dropped: names of those that were judged, and of those that could not be.
    """
    notes = [
        "What another attack extracts is a lower bound of what is hidden: some windows that count "
        "as others are remembered too, and an attack finds what is likely already more easily, "
        "which favours the NLL.",
        "Each interval in a table is its score's own; among so many some differ from the NLL by "
        "chance. The sentences on whether perturbing the weights helps, and on whether the two "
        "best scores are told apart, divide the error allowed by the scores compared (Bonferroni), "
        "so their intervals are wider.",
        "The edit similarity in samples.csv is the best over all attacks, and would give the "
        "answer away: the longest common run of the plain prefix' own output stands in its place.",
    ]
    if not results.asked:
        notes[0] = (
            "No attack on the model but the plain prefix was run, so no window is known to be "
            "hidden."
        )
    if results.controls:
        notes.append(
            "Controls tell memory from mere likelihood only as far as they are text like the data; "
            "windows with near-duplicates elsewhere in the training text count as remembered."
        )
    else:
        notes.append(
            "There are no controls that the plain prefix leaves over: how likely text is that was "
            "never seen is not known, and no share can be called remembered."
        )
    if results.noise is not None:
        notes.append(
            f"The default strength of the noise, {DEFAULT_STRENGTH:g}, was chosen while looking at "
            "the same kind of truth on one model of 7M parameters, so figures of perturbed scores "
            "on that model are a little kind. How much comes out grows with the perturbations that "
            "are tried; intervals do not include the variation between sets of draws."
        )
    if results.controls_extracted:
        notes.append(
            f"{count(results.controls_extracted, 'control')} that the plain prefix extracts are "
            "left out, as such windows of the data are."
        )
    if dropped:
        notes.append(
            f"Left out, because at least one window has no such figure: {', '.join(dropped)}."
        )
    if AGAINST not in (*scores, *dropped):
        notes.append(
            "No reference was given: text that any model finds likely scores as remembered."
        )
    return notes


def _share(rate: Estimate) -> str:
    """Return the text within brackets: ``45.0 %, 27.0 to 60.0``."""
    return ", ".join(part for part in rate.parts("share") if part)
