"""Headline sentences of a report, and the reasons for skipping records.

Knows reports. Knows nothing of formats: each format neutralises ids and reasons first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from memaudit.config.settings import attack_subject
from memaudit.data.samples import Skipped
from memaudit.gate.validity import remnant
from memaudit.report.model import Leak, Reference, Report
from memaudit.report.model_parts import Attack
from memaudit.report.reading import (
    cautious_p,
    left_out_reason,
    model_attacks,
    strongest,
    untrained_attacks,
    void_reason,
)
from memaudit.report.wording import (
    count,
    level,
    p_value,
    percent_interval,
    points_interval,
)
from memaudit.score.estimate import percent

_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,15})(?![0-9])")


class ReasonCount(NamedTuple):
    """Reason for skipping, and the number of records."""

    reason: str
    """Reason; numbers that differ between records become a range: ``12–88 tokens, ...``."""
    records: int


def headline_of(report: Report) -> tuple[str, ...]:
    """Return the finding, a sentence or two a line: what leaked comes first.

    It starts with a warning where the run is void, covers few of the records or lacks attacks.
    """
    return (*_warnings(report), *_findings(report))


def sentences_of(report: Report) -> dict[str, Any]:
    """Return the fields of a report that follow from its figures in words."""
    return {"headline": headline_of(report), "summary": summary_of(report)}


def summary_of(report: Report) -> str:
    """Return the finding in one line: what is extracted, of how many, and what it holds."""
    if void_reason(report):
        return "The rates of this run mean nothing; see the check validity"
    none, together = _attack(report, "none"), report.any
    if together is None:
        return "No attack on the model was run"
    rate = together.extracted
    parts = [] if none is None else [f"{none.extracted.k:,} by the prefix alone"]
    if together.controls is not None:
        controls = together.controls.extracted
        parts.append(f"{controls.k:,} of {count(controls.n, 'control')}")
    parts += [f"{leak.title} of {leak.extracted:,}" for leak in given_away(report)]
    return f"{rate.k:,} of {count(rate.n, 'sample')} extracted ({'; '.join(parts)})"


def _warnings(report: Report) -> Iterator[str]:
    if void := void_reason(report):
        yield f"The rates below mean nothing. {void}"
    else:
        validity = report.validity
        yield from filter(None, [remnant(validity.records_used, validity.records)])
    yield from filter(None, [left_out_reason(report)])


def _findings(report: Report) -> Iterator[str]:
    together = report.any
    if together is None:
        yield "No attack on the model was run, so this run shows nothing about what it memorized."
        return
    if together.extracted.n == 0:
        yield (
            "Every sample is template alone, so this run shows nothing about what the model "
            "memorized."
        )
        return
    yield from filter(None, [plain_sentence(report), union_sentence(report)])
    yield from _unchanged_sentences(report)
    yield sensitive_sentence(report)
    yield from group_sentences(report)
    yield controls_sentence(report)
    if report.reference is not None:
        yield _origin_sentence(report.reference)
    yield from _copied_sentences(report)
    yield extent_sentence(report)


def _attack(report: Report, name: str) -> Attack | None:
    return next((attack for attack in report.attacks if attack.attack == name), None)


def plain_sentence(report: Report) -> str:
    """Say what the model repeats by itself; empty if ``none`` was not run."""
    none = _attack(report, "none")
    if none is None:
        return ""
    rate = none.extracted
    of = f"the {count(rate.n, 'sample')} (records of the data)"
    bounds = f"{percent_interval(rate.interval.ends)} at {level(rate.confidence)} confidence"
    if rate.k == 0:
        return (
            f"Given the text before it and no added prompt, the model repeats no passage of {of} "
            f"word for word: {bounds}."
        )
    return (
        f"Given the text before it and no added prompt, the model repeats a passage of {rate.k:,} "
        f"of {of} word for word: {percent(rate.estimate)} ({bounds}){_whole(none)}."
    )


def _whole(attack: Attack) -> str:
    """Say how many samples come out whole, where they have several windows."""
    exact = attack.exact
    return "" if exact == attack.extracted else f", {exact.k:,} of them whole"


def union_sentence(report: Report) -> str:
    """Say what all attacks extract together and the strongest adds; empty if only none ran."""
    none, together, best = _attack(report, "none"), report.any, strongest(report)
    if together is None or best is None or len(model_attacks(report)) == (none is not None):
        return ""
    rate = together.extracted
    total = (
        f"all attacks together extract {rate.k:,} of {rate.n:,} ({percent(rate.estimate)}; "
        f"{percent_interval(rate.interval.ends)})"
    )
    if none is None:
        return f"With added prompts, {total}. The prefix alone was not tried."
    more = rate.k - none.extracted.k
    if not more:
        return f"No added prompt brings out another sample: {total}."
    sentence = f"Added prompts bring out {more:,} more: {total}."
    if best.lift is None:
        return sentence
    weak = cautious_p(best.lift) > 1 - rate.confidence
    doubt = ", which may be chance" if weak else ""
    return (
        f"{sentence} {best.attack} alone brings out {best.lift.gained:,} that the prefix alone "
        f"does not, and misses {best.lift.lost:,} that it does "
        f"({p_value(cautious_p(best.lift))}{doubt})."
    )


def _unchanged_sentences(report: Report) -> Iterator[str]:
    """Say of each fitted attack in how many folds no trained prompt was better."""
    untrained = untrained_attacks(report)
    for attack in report.attacks:
        chosen = [fit.chosen_epoch for fit in attack.fits if not fit.chosen_epoch]
        if not chosen or attack.attack in untrained:  # a warning says that nothing was trained
            continue
        kept = "none" if None in chosen else "the prompt from before training"
        if len(chosen) == len(attack.fits):
            yield (
                f"No trained prompt of {attack.attack} was better, and the fits chose {kept}: its "
                "row says nothing about trained prompts."
            )
        else:
            yield (
                f"In {len(chosen):,} of {count(len(attack.fits), 'fold')} no trained prompt of "
                f"{attack.attack} was better, and the fit chose {kept}."
            )


def given_away(report: Report) -> list[Leak]:
    """Return the categories of which at least one item comes out, most samples first."""
    leaks = () if report.sensitive is None else report.sensitive.data
    return sorted((leak for leak in leaks if leak.extracted), key=lambda leak: -leak.extracted)


def sensitive_sentence(report: Report) -> str:
    """Say what sensitive content comes out."""
    if report.sensitive is None:
        return "Sensitive content was not searched for (sensitive.enabled = false)."
    parts = [
        f"{leak.title} in {leak.extracted:,} of the {count(leak.samples, 'sample')} that hold them"
        for leak in given_away(report)
    ]
    if not parts:
        return "No sensitive content was recognised in what comes out."
    return f"The model gives away {'; '.join(parts)}."


def group_sentences(report: Report) -> Iterator[str]:
    """Yield how many groups, such as persons, have a sample that comes out, if the data has any."""
    if report.groups is not None and report.groups.extracted:
        yield (
            f"Of {count(report.groups.groups, 'group')}, {report.groups.extracted:,} have a sample "
            "that comes out."
        )


def extent_sentence(report: Report) -> str:
    """Say which part of the records was tested."""
    data = report.data
    share = data.audited_tokens / data.tokens if data.tokens else 0.0
    sentence = f"Tested: {percent(share)} of the tokens of {count(data.used, 'sample')}"
    if data.template_tokens:
        template = percent(data.template_tokens / data.audited_tokens)
        sentence += f"; {template} of them are template, whose extraction is no finding"
    left = data.rows - data.used
    return f"{sentence}; {count(left, 'record')} not tested." if left > 0 else f"{sentence}."


def _copied_sentences(report: Report) -> Iterator[str]:
    copied = _attack(report, "copy")
    if copied is not None and copied.extracted.k:
        yield (
            f"copy, which never queries the model, gets {copied.extracted.k:,} of "
            f"{copied.extracted.n:,} from the fit data: that many can be copied from a "
            "near-duplicate that is left in another fold."
        )


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


def controls_sentence(report: Report) -> str:
    """Say what the same attacks extract from the controls, or without them by chance."""
    together = report.any
    if together is None or together.controls is None or together.controls.difference is None:
        return _permuted_sentence(report)
    controls, compared = together.controls.extracted, together.controls.difference
    if controls.n == 0:
        return "No control was scored."
    bounds = percent_interval(controls.interval.ends)
    sentence = (
        f"Of the {count(controls.n, 'control')}, text that the model has not seen, the same "
        f"attacks extract {controls.k:,} ({bounds})"
    )
    if together.extracted.k == 0:
        return f"{sentence}."
    weak = compared.interval.low <= 0
    fewer = "not a significantly smaller share" if weak else "a significantly smaller share"
    difference = points_interval(compared.interval.ends)
    return f"{sentence}, {fewer} (difference {difference} points, {p_value(compared.p_value)})."


def _permuted_sentence(report: Report) -> str:
    best, start = strongest(report), "No controls were given, so predictable text counts too"
    if best is None:
        return f"{start}."
    permuted = best.permuted
    if permuted.n == 0:
        return f"{start}, and the outputs could not be compared with unrelated windows either."
    return (
        f"{start}; against the suffixes of unrelated windows, {attack_subject(best.attack)} "
        f"matches {permuted.k:,} of {permuted.n:,} exactly and {percent(permuted.fractional)} of "
        "the tokens."
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
