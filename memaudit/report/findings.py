"""Headline sentences of a result, and the reasons for skipping records.

Knows results. Knows nothing of formats: each format neutralises ids and reasons first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memaudit.data.samples import Skipped
from memaudit.gate.validity import remnant
from memaudit.report.result import AttackResult, ScanResult
from memaudit.report.wording import (
    count,
    level,
    p_value,
    percent_interval,
    points_interval,
)
from memaudit.score.estimate import percent, points
from memaudit.score.origin import Origin
from memaudit.score.scores import Lift, Rate
from memaudit.score.stats import Interval

_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,15})(?![0-9])")


class ReasonCount(NamedTuple):
    """Reason for skipping, and the number of records."""

    reason: str
    """Reason; numbers that differ between records become a range: ``12–88 tokens, ...``."""
    records: int


@dataclass(frozen=True, eq=False)
class HeadlineFacts:
    """Facts of a run that its headline states."""

    attacks: tuple[AttackResult, ...]
    """Attacks in the order of the ladder."""
    origins: tuple[Origin, ...] = ()
    """Origins on the data, of all attacks together last; empty without a reference."""
    control_origins: tuple[Origin, ...] = ()
    """Origins on the controls; empty without a reference or without controls."""
    void: str = ""
    """Why the run is void; empty if it is valid."""
    records: int = 0
    """Records examined."""
    used: int = 0
    """Records that gave a window."""

    def attack(self, name: str) -> AttackResult | None:
        """Return the result of one attack; None if it did not run."""
        return next((result for result in self.attacks if result.attack == name), None)


def model_attacks(result: ScanResult | HeadlineFacts) -> tuple[AttackResult, ...]:
    """Return the attacks that query the model: all but ``copy``."""
    return tuple(attack for attack in result.attacks if attack.attack != "copy")


def strongest(result: ScanResult | HeadlineFacts) -> AttackResult | None:
    """Return the attack on the model that extracts most windows, the simplest on ties.

    If none extracts any, return the one with the highest fractional rate.
    """
    attacks = model_attacks(result)
    if any(attack.summary.exact.k for attack in attacks):
        return max(attacks, key=lambda attack: attack.summary.exact.k)
    return max(attacks, key=lambda attack: attack.summary.fractional, default=None)


def wide_interval(rate: Rate) -> Interval:
    """Return the outer ends of a rate's exact and clustered intervals, which gates use."""
    return Interval(
        min(rate.interval.low, rate.clustered.low), max(rate.interval.high, rate.clustered.high)
    )


def cautious_p(lift: Lift) -> float:
    """Return the larger p-value of the two paired tests of a lift."""
    return max(lift.p_value, lift.clustered_p_value)


def headline(result: ScanResult) -> tuple[str, ...]:
    """Return the finding of a scan in a few sentences, as `headline_of` does."""
    reference, validity = result.reference, result.validity
    void = (verdict.reason for verdict in result.verdicts if verdict.name == "validity")
    facts = HeadlineFacts(
        result.attacks,
        () if reference is None else reference.data,
        () if reference is None else reference.controls or (),
        next(void, ""),
        0 if validity is None else validity.records,
        0 if validity is None else validity.used,
    )
    return headline_of(facts)


def headline_of(facts: HeadlineFacts) -> tuple[str, ...]:
    """Return the finding in a few sentences: rate, lift, controls, and ``copy`` where it hits.

    They start with a warning where the run is void or covers few of the records.
    """
    return (*_warnings(facts), *_findings(facts))


def _warnings(facts: HeadlineFacts) -> Iterator[str]:
    if facts.void:
        yield f"The rates below mean nothing. {facts.void}"
    else:
        yield from filter(None, [remnant(facts.used, facts.records)])


def _findings(result: HeadlineFacts) -> tuple[str, ...]:
    best = strongest(result)
    if best is None:
        return (
            "No attack on the model was run, so this run shows nothing about what it memorized.",
        )
    sentences = [_rate_sentence(best), _lift_sentence(result, best)]
    sentences.append(_controls_sentence(best) or _permuted_sentence(best))
    if result.origins:
        sentences.append(_origin_sentence(result))
    copied = result.attack("copy")
    if copied is not None and copied.summary.exact.k:
        rate = copied.summary.exact
        sentences.append(
            f"copy, which never queries the model, gets {rate.k:,} of {rate.n:,} from the fit "
            "data: that many can be copied from a near-duplicate that is left in another fold."
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


def _rate_sentence(best: AttackResult) -> str:
    rate = best.summary.exact
    if rate.n == 0:
        return "No window was scored, so this run shows nothing about what the model memorized."
    confidence = f"at {level(rate.confidence)} confidence"
    bounds = percent_interval(wide_interval(rate))
    if rate.k == 0:
        return (
            f"No attack on the model extracts a window exactly: 0 of {rate.n:,}, {bounds} "
            f"{confidence}."
        )
    return (
        f"{best.attack}, the strongest attack, extracts {percent(rate.estimate)} of the windows "
        f"exactly: {rate.k:,} of {rate.n:,} ({bounds} {confidence})."
    )


def _lift_sentence(result: HeadlineFacts, best: AttackResult) -> str:
    prompted = [attack for attack in model_attacks(result) if attack.attack != "none"]
    if result.attack("none") is None:
        return "The plain prefix (none) was not run, so there is no lift to report."
    if not prompted:
        return "Only the plain prefix (none) was tried, no prompt."
    lift = best.summary.lift
    if lift is None or best.summary.exact.k == 0:
        return "No prompt extracts more windows than the plain prefix (none)."
    change = f"{count(lift.gained, 'window')} gained, {lift.lost:,} lost, "
    change += p_value(cautious_p(lift))
    weak = cautious_p(lift) > 1 - best.summary.exact.confidence
    doubt = ", which may be chance" if weak else ""
    return (
        f"That is {points(lift.estimate).lstrip('+')} percentage points above the plain prefix "
        f"(none): {change}{doubt}."
    )


def _controls_sentence(best: AttackResult) -> str | None:
    controls, compared = best.summary.controls_exact, best.summary.difference
    if controls is None or compared is None:
        return None
    if controls.n == 0:
        return "No control was scored."
    bounds = percent_interval(wide_interval(controls))
    sentence = (
        f"On the controls, text that the model has not seen, {best.attack} extracts "
        f"{controls.k:,} of {controls.n:,} ({bounds})"
    )
    if best.summary.exact.k == 0:
        return f"{sentence}."
    weak = compared.p_value > 1 - controls.confidence
    fewer = "not a significantly smaller share" if weak else "a significantly smaller share"
    return (
        f"{sentence}, {fewer} than on the data (difference {points_interval(compared.interval)} "
        f"points, {p_value(compared.p_value)})."
    )


def _permuted_sentence(best: AttackResult) -> str:
    start, permuted = "No controls were given, so predictable text counts too", best.permuted
    if permuted.n == 0:
        return f"{start}, and the outputs could not be compared with unrelated windows either."
    return (
        f"{start}; against the suffixes of unrelated windows, {best.attack} matches {permuted.k:,} "
        f"of {permuted.n:,} exactly and {percent(permuted.fractional)} of the tokens."
    )


def _origin_sentence(facts: HeadlineFacts) -> str:
    """Say how much of what any attack extracts was known before the fine-tuning."""
    together = facts.origins[-1]
    leaked, bounds = together.leaked, percent_interval(wide_interval(together.leaked))
    sentence = (
        f"Of the {count(together.known + leaked.k, 'window')} that any attack extracts, "
        f"{together.known:,} can also be extracted from the reference, the model before "
        f"fine-tuning; the fine-tuning leaked the other {leaked.k:,}: "
        f"{percent(leaked.estimate)} of all windows ({bounds} at {level(leaked.confidence)} "
        "confidence)"
    )
    if facts.control_origins:
        leaked = facts.control_origins[-1].leaked
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
