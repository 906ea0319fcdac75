"""What `diagnose latent` found, as sentences.

Knows the figures. Knows nothing of how they come about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memaudit.diagnose.latent.beyond import Beyond
from memaudit.diagnose.latent.population import AGAINST, NLL
from memaudit.diagnose.latent.questions import LEAST, Answer, Question
from memaudit.diagnose.latent.recovered import (
    CONTROLS,
    EXTRACTED,
    FOUND,
    KNOWN_ONLY,
    OTHERS,
    Recovered,
)
from memaudit.diagnose.latent.trial import RELATIVE_RISE, SHAKEN, Noise
from memaudit.diagnosis import Measure
from memaudit.report.wording import count, percent, percent_interval
from memaudit.score.detection import Detection
from memaudit.score.stats import Interval

ABOUT = (
    "Which windows does the model remember although its plain prefix does not bring them back? "
    "Scored by cross-entropy and its kin, and by what comes out under small random perturbations "
    "of the weights (Duan et al. 2024, arXiv 2406.14549), and judged as detectors."
)


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that sentences are made of."""

    extracted: int
    """Windows of the data that ``none`` extracts."""
    left: int
    """Those that it does not."""
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
    """By two scores that are chosen before the figures, so that none is picked for its result."""
    words = {
        NLL: "have a lower suffix NLL",
        RELATIVE_RISE: "have an NLL that rises by a larger share under perturbed weights",
    }
    for one in results.beyond:
        if one.score in words and one.allowed > 0:
            passing = f"{one.passing:,} of the {count(results.left, 'window')}"
            controls = f"{one.controls:,} of the controls ({_share(one.of_controls)})"
            yield (
                f"{passing} that none does not extract ({_share(one.of_data)}) "
                f"{words[one.score]} than all but {controls}: {_remembered(one, results)}."
            )


def _remembered(one: Beyond, results: Results) -> str:
    if one.remembered.low:
        return (
            f"about {_whole(one.remembered)} windows are remembered beyond the "
            f"{results.extracted:,} that come out"
        )
    return (
        "this does not show that more is remembered than comes out (between 0 and "
        f"{one.remembered.high or 0:,.0f} windows)"
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
            "Under one such perturbation a window that none extracts still comes out in "
            f"{_spelt(kept)} of cases."
        )


def _detected(found: Answer) -> Iterator[str]:
    question, nll = found.question, found.detectors[NLL]
    yield (
        f"Suffix NLL tells {question.wanted} ({found.positives:,}) from {question.others} "
        f"({found.total - found.positives:,}) with ROC AUC {_number(nll.auc)}; "
        f"{_spelt(Measure.of(*nll.precision))} of its top {found.top:,} are among them, "
        f"{percent(found.base_rate)} of all, and {_spelt(Measure.of(*nll.found))} are found where "
        "1 % of the others pass too."
    )
    if found.apart is None:
        return
    low, high = found.apart.interval
    named = " and ".join(f"{name}, {_number(auc)}," for name, auc in found.best.items())
    told = "are told apart" if low > 0 or high < 0 else "are not told apart"
    yield (
        f"Of {count(found.best_of, 'window')} that every score was judged by, the two best, "
        f"{named} {told}: their AUC differs by {_signed(found.apart)}."
    )


def _perturbed(found: Answer) -> Iterator[str]:
    gaps = {name: found.gaps[name] for name in SHAKEN if name in found.gaps}
    if not gaps:
        return
    better = [name for name, one in gaps.items() if one.interval.low > 0]
    worse = [name for name, one in gaps.items() if one.interval.high < 0]
    best = max(gaps, key=lambda name: gaps[name].value)
    helps = "helps" if better else "does not help"
    yield (
        f"Perturbing the weights {helps} to rank {found.question.wanted}: of {len(gaps)} scores "
        f"made so, {len(better)} rank them better than the plain suffix NLL, {len(worse)} worse "
        f"and {len(gaps) - len(better) - len(worse)} alike; the best, {best}, by an AUC of "
        f"{_signed(gaps[best])}."
    )


def _unanswered(results: Results) -> Iterator[str]:
    for question, positives in results.unanswered.values():
        yield (
            f"{count(positives, 'window')} of those to be found ({question.wanted}) are too few to "
            f"judge a score by: at least {LEAST} clusters of them, and of {question.others}, are "
            "needed."
        )


def notes_of(results: Results, scores: Sequence[str], extra: Sequence[str] = ()) -> list[str]:
    """What a reader has to know so as not to be misled."""
    notes = [
        "What another attack extracts is a lower bound of what is hidden: some windows that count "
        "as others are remembered too, and an attack finds what is likely already more easily, "
        "which favours the NLL.",
        "Each score's interval is its own; among so many some differ from the NLL by chance.",
        "The edit similarity in samples.csv is the best over all attacks, and would give the "
        "answer away: the longest common run of none's own output stands in its place.",
    ]
    if not results.asked:
        notes[0] = "No attack on the model but none was run, so no window is known to be hidden."
    if results.controls:
        notes.append(
            "Controls tell memory from mere likelihood only as far as they are text like the data; "
            "windows with near-duplicates elsewhere in the training text count as remembered."
        )
    else:
        notes.append(
            "There are no controls that none leaves over: how likely text is that was never seen "
            "is not known, and no share can be called remembered."
        )
    if results.noise is not None:
        notes.append(
            "The usual strength of the noise was chosen on one model of 7M parameters; how much "
            "comes out grows with the perturbations that are tried."
        )
    if results.controls_extracted:
        notes.append(
            f"{count(results.controls_extracted, 'control')} that none extracts are left out, as "
            "such windows of the data are."
        )
    if AGAINST not in scores:
        notes.append(
            "No reference was given: text that any model finds likely scores as remembered."
        )
    return [*notes, *extra]


def _share(measure: Measure) -> str:
    return _percent(measure.value, measure.low, measure.high)


def _spelt(measure: Measure) -> str:
    """``45.0 % (27.0–60.0 %)``."""
    return f"{_percent(measure.value, measure.low, measure.high, ' (')})"


def _percent(
    value: float | None, low: float | None, high: float | None, between: str = ", "
) -> str:
    if value is None:
        return "n/a"
    if low is None or high is None:
        return percent(value)
    return f"{percent(value)}{between}{percent_interval(Interval(low, high))}"


def _whole(measure: Measure) -> str:
    return f"{measure.value or 0:,.0f} ({measure.low or 0:,.0f} to {measure.high or 0:,.0f})"


def _number(found: Detection) -> str:
    return f"{found.value:.3f} ({found.interval.low:.3f} to {found.interval.high:.3f})"


def _signed(found: Detection) -> str:
    return f"{found.value:+.3f} ({found.interval.low:+.3f} to {found.interval.high:+.3f})"
