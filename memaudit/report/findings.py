"""Headline sentences of a report, and the reasons for skipping records.

Knows reports. Knows nothing of formats: each format neutralises ids and reasons first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memaudit.data.samples import Skipped
from memaudit.gate.validity import remnant
from memaudit.report.model import Reference, Report
from memaudit.report.model_parts import Attack
from memaudit.report.reading import (
    cautious_p,
    left_out_reason,
    model_attacks,
    strongest,
    void_reason,
)
from memaudit.report.wording import (
    count,
    level,
    p_value,
    percent_interval,
    points_interval,
)
from memaudit.score.estimate import percent, points

_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,15})(?![0-9])")


class ReasonCount(NamedTuple):
    """Reason for skipping, and the number of records."""

    reason: str
    """Reason; numbers that differ between records become a range: ``12–88 tokens, ...``."""
    records: int


def headline_of(report: Report) -> tuple[str, ...]:
    """Return the finding in a few sentences: rate, lift, controls, and ``copy`` where it hits.

    They start with a warning where the run is void, covers few of the records or lacks attacks.
    """
    return (*_warnings(report), *_findings(report))


def _warnings(report: Report) -> Iterator[str]:
    if void := void_reason(report):
        yield f"The rates below mean nothing. {void}"
    else:
        validity = report.validity
        yield from filter(None, [remnant(validity.records_used, validity.records)])
    yield from filter(None, [left_out_reason(report)])


def _findings(report: Report) -> tuple[str, ...]:
    best = strongest(report)
    if best is None:
        return (
            "No attack on the model was run, so this run shows nothing about what it memorized.",
        )
    sentences = [_rate_sentence(best), _lift_sentence(report, best)]
    sentences.append(_controls_sentence(best) or _permuted_sentence(best))
    if report.reference is not None:
        sentences.append(_origin_sentence(report.reference))
    for attack in report.attacks:
        if attack.attack == "copy" and attack.extracted.k:
            sentences.append(
                f"copy, which never queries the model, gets {attack.extracted.k:,} of "
                f"{attack.extracted.n:,} from the fit data: that many can be copied from a "
                "near-duplicate that is left in another fold."
            )
    return tuple(sentences)


def count_reasons(skipped: Sequence[Skipped]) -> tuple[ReasonCount, ...]:
    """Count the reasons, the commonest first; reasons that differ only in numbers are merged."""
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for record in skipped:
        parts = _NUMBER.split(record.reason)  # words and numbers alternate
        kinds.setdefault(tuple(parts[::2]), []).append(parts[1::2])
    counted = [
        ReasonCount(_ranged(words, numbers), len(numbers)) for words, numbers in kinds.items()
    ]
    return tuple(sorted(counted, key=lambda reason: (-reason.records, reason.reason)))


def _rate_sentence(best: Attack) -> str:
    rate = best.extracted
    if rate.n == 0:
        return (
            "Every sample is template alone, so this run shows nothing about what the model "
            "memorized."
        )
    confidence = f"at {level(rate.confidence)} confidence"
    bounds = percent_interval(rate.interval.ends)
    if rate.k == 0:
        return (
            f"No attack on the model extracts any of the {rate.n:,} samples: {bounds} {confidence}."
        )
    return (
        f"{best.attack}, the strongest attack, extracts {percent(rate.estimate)} of the samples: "
        f"{rate.k:,} of {rate.n:,} ({bounds} {confidence}){_whole(best)}."
    )


def _whole(best: Attack) -> str:
    """Say how many samples come out whole, where they have several windows."""
    exact = best.exact
    return "" if exact == best.extracted else f", {exact.k:,} of them whole"


def _lift_sentence(report: Report, best: Attack) -> str:
    prompted = [attack for attack in model_attacks(report) if attack.attack != "none"]
    if all(attack.attack != "none" for attack in report.attacks):
        return "The plain prefix (none) was not run, so there is no lift to report."
    if not prompted:
        return "Only the plain prefix (none) was tried, no prompt."
    lift = best.lift
    if lift is None or best.extracted.k == 0:
        return "No prompt extracts more samples than the plain prefix (none)."
    change = f"{count(lift.gained, 'sample')} gained, {lift.lost:,} lost, "
    change += p_value(cautious_p(lift))
    weak = cautious_p(lift) > 1 - best.extracted.confidence
    doubt = ", which may be chance" if weak else ""
    return (
        f"That is {points(lift.estimate).lstrip('+')} percentage points above the plain prefix "
        f"(none): {change}{doubt}."
    )


def _controls_sentence(best: Attack) -> str | None:
    if best.controls is None or best.controls.difference is None:
        return None
    controls, compared = best.controls.extracted, best.controls.difference
    if controls.n == 0:
        return "No control was scored."
    bounds = percent_interval(controls.interval.ends)
    sentence = (
        f"On the controls, text that the model has not seen, {best.attack} extracts "
        f"{controls.k:,} of {controls.n:,} ({bounds})"
    )
    if best.extracted.k == 0:
        return f"{sentence}."
    weak = compared.interval.low <= 0
    fewer = "not a significantly smaller share" if weak else "a significantly smaller share"
    difference = points_interval(compared.interval.ends)
    return (
        f"{sentence}, {fewer} than on the data (difference {difference} points, "
        f"{p_value(compared.p_value)})."
    )


def _permuted_sentence(best: Attack) -> str:
    start, permuted = "No controls were given, so predictable text counts too", best.permuted
    if permuted.n == 0:
        return f"{start}, and the outputs could not be compared with unrelated windows either."
    return (
        f"{start}; against the suffixes of unrelated windows, {best.attack} matches {permuted.k:,} "
        f"of {permuted.n:,} exactly and {percent(permuted.fractional)} of the tokens."
    )


def _origin_sentence(reference: Reference) -> str:
    """Say how much of what any attack extracts was known before the fine-tuning."""
    together = reference.data[-1]
    leaked, bounds = together.leaked, percent_interval(together.leaked.interval.ends)
    sentence = (
        f"Of the {count(together.known_before + leaked.k, 'sample')} that any attack extracts, "
        f"{together.known_before:,} can also be extracted from the reference, the model before "
        f"fine-tuning; the fine-tuning leaked the other {leaked.k:,}: "
        f"{percent(leaked.estimate)} of all samples ({bounds} at {level(leaked.confidence)} "
        "confidence)"
    )
    if reference.controls:
        leaked = reference.controls[-1].leaked
        sentence += f", and {leaked.k:,} of {leaked.n:,} controls"
    return f"{sentence}."


def _ranged(words: Sequence[str], numbers: Sequence[Sequence[str]]) -> str:
    """Join the words with the number, or the range of numbers, between each two."""
    ranges = (_range(map(int, column)) for column in zip(*numbers, strict=True))
    return words[0] + "".join(f"{span}{word}" for span, word in zip(ranges, words[1:], strict=True))


def _range(numbers: Iterable[int]) -> str:
    distinct = set(numbers)
    low, high = min(distinct), max(distinct)
    return str(low) if low == high else f"{low}–{high}"
