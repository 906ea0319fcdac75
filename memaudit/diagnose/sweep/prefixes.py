"""Extraction against the length of the prefix: the same suffixes from p prefix tokens.

Knows a finished run and its model, and makes one pass for each p. The figures for the whole prefix
come from the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.attack.decoding_check import check_causal
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.figures import Piece, Sampled, as_bools, differs_from_zero
from memaudit.diagnose.sweep.passes import Asker, PassScores, SampledSides, describe_sample
from memaudit.errors import TargetError
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

_NAME = "prefix-length"


@dataclass(frozen=True, eq=False)
class _Scored:
    """Data or controls, with the scores of the sampled windows."""

    part: Part
    sampled: Sampled
    scores: dict[int, PassScores]
    """Scores by p; those of the whole prefix come from the run."""

    def rate(self, prefix: int, resamples: Resamples) -> Estimate:
        """Return the exact rate; for the whole prefix from all windows."""
        if prefix == max(self.scores):
            return resamples.rate(self.part.extracted, self.part.clusters)
        return self.sampled.rate(self.scores[prefix].exact, resamples)

    def loss(self, prefix: int, resamples: Resamples) -> Estimate:
        """Return the mean suffix NLL; for the whole prefix from all windows."""
        if prefix == max(self.scores):
            return resamples.mean(self.part.score("suffix_nll", "none"), self.part.clusters)
        return self.sampled.mean(self.scores[prefix].nll, resamples)

    def change(self, prefix: int, resamples: Resamples) -> Estimate:
        """Return the exact rate less that of the whole prefix, on the same windows."""
        now, before = self.scores[prefix].exact, self.scores[max(self.scores)].exact
        return self.sampled.change(now, before, resamples)

    def still_extracted(self, prefix: int, resamples: Resamples) -> Estimate:
        """Return the share still extracted of those that the whole prefix extracts."""
        whole = self.scores[max(self.scores)].exact
        return resamples.rate(self.scores[prefix].exact[whole], self.sampled.clusters[whole])


def lengths_up_to(prefix_tokens: int, wanted: Sequence[int]) -> list[int]:
    """Return the wanted lengths below P, ascending, and P."""
    return [*sorted({p for p in wanted if p < prefix_tokens}), prefix_tokens]


def _causal_lengths(subject: Subject, lengths: Sequence[int]) -> tuple[list[int], list[str]]:
    """Return the lengths at which one pass equals decoding, and a note for each other length."""
    checkpoint, good, notes = subject.checkpoint, [], []
    for prefix in lengths[:-1]:
        try:
            before = prefix + (checkpoint.bos_id is not None)
            check_causal(checkpoint, before, subject.suffix_tokens)
        except TargetError as error:
            notes.append(f"Prefix length {prefix} was left out: {error}.")
        else:
            good.append(prefix)
    return [*good, lengths[-1]], notes


def sweep_prefixes(
    subject: Subject,
    wanted: Sequence[int],
    sampled: SampledSides,
    asker: Asker,
    progress: Progress,
    resamples: Resamples,
) -> Piece:
    """Return the exact rate from the last p prefix tokens, for data and controls."""
    lengths, notes = _causal_lengths(subject, lengths_up_to(subject.prefix_tokens, wanted))
    data = _score_lengths(subject, subject.data, sampled.data, lengths, asker, progress)
    controls = None
    if subject.controls is not None and sampled.controls is not None:
        controls = _score_lengths(
            subject, subject.controls, sampled.controls, lengths, asker, progress
        )
    return Piece(
        _findings(data, controls, lengths, resamples),
        [_note(subject.prefix_tokens), *notes],
        [_table(data, controls, lengths, resamples)],
        [_plot(data, controls, lengths, resamples)],
    )


def _score_lengths(
    subject: Subject,
    part: Part,
    sampled: Sampled,
    lengths: Sequence[int],
    asker: Asker,
    progress: Progress,
) -> _Scored:
    ids, some = part.ids[sampled.rows], part.take(sampled.rows)
    matched = some.score("matched", "none").astype(np.int64)
    whole = PassScores(matched, some.score("suffix_nll", "none"), asker.suffix_tokens)
    scores = {lengths[-1]: whole}
    role = "data" if part is subject.data else "controls"
    with progress.stage(f"prefix lengths, {role}", len(ids) * (len(lengths) - 1)) as advance:
        for prefix in lengths[:-1]:
            scores[prefix] = asker.ask(subject.checkpoint, ids, prefix, advance)
    return _Scored(part, sampled, scores)


def _table(
    data: _Scored, controls: _Scored | None, lengths: Sequence[int], resamples: Resamples
) -> FigureTable:
    columns = [
        Column("prefix tokens", "count"),
        Column("extracted", "share"),
        Column("less whole prefix", "points"),
        Column("still extracted", "share"),
        Column("only so", "count"),
        Column("suffix NLL", "nats"),
    ]
    if controls is not None:
        columns += [Column("controls", "share"), Column("controls, NLL", "nats")]
    looked = describe_sample(data.sampled, "windows")
    if controls is not None:
        looked += f" and {describe_sample(controls.sampled, 'controls')}"
    return FigureTable(
        name=_NAME,
        title="Prefix length",
        says=(
            "The same suffixes, from the last p tokens of their prefixes, without a prompt; "
            "one teacher-forced pass for each p. Still extracted: share of the windows that the "
            "whole prefix extracts. Only so: sampled windows extracted with p tokens and not with "
            f"the whole prefix. Sample: {looked}. {_weights(data, controls)}"
        ),
        columns=columns,
        rows=[_row(data, controls, prefix, resamples) for prefix in lengths],
    )


def _weights(data: _Scored, controls: _Scored | None) -> str:
    if data.sampled.is_all and (controls is None or controls.sampled.is_all):
        return "The last row comes from the run."
    return (
        "Windows that the run extracted are oversampled and weighted down, so rates refer to all "
        "windows. The last row comes from the run and covers all windows."
    )


def _row(data: _Scored, controls: _Scored | None, prefix: int, resamples: Resamples) -> list[Cell]:
    whole = data.scores[max(data.scores)].exact
    is_whole = prefix == max(data.scores)
    row: list[Cell] = [
        prefix,
        data.rate(prefix, resamples),
        None if is_whole else data.change(prefix, resamples),
        None if is_whole or not whole.any() else data.still_extracted(prefix, resamples),
        None if is_whole else int((data.scores[prefix].exact & ~whole).sum()),
        data.loss(prefix, resamples),
    ]
    if controls is not None:
        row += [controls.rate(prefix, resamples), controls.loss(prefix, resamples)]
    return row


def _plot(
    data: _Scored, controls: _Scored | None, lengths: Sequence[int], resamples: Resamples
) -> Plot:
    at = [float(prefix) for prefix in lengths]
    rates = [data.rate(prefix, resamples) for prefix in lengths]
    lines = [Line.of("data", "series-1", at, rates, marker="o")]
    if controls is not None:
        rates = [controls.rate(prefix, resamples) for prefix in lengths]
        lines.append(Line.of("controls", "series-3", at, rates, dash=":", marker="o"))
    return Plot(
        name=_NAME,
        title="Extraction against prefix length",
        says="Without a prompt, from the last p tokens of the prefix; same suffixes.",
        x=Axis("prefix tokens p"),
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def _findings(
    data: _Scored, controls: _Scored | None, lengths: Sequence[int], resamples: Resamples
) -> list[str]:
    if len(lengths) == 1:
        return ["Prefix length: no requested length is shorter than the run's prefix."]
    shortest, whole = lengths[0], lengths[-1]
    if not any(scores.exact.any() for scores in data.scores.values()):
        bound = f"{data.rate(shortest, resamples):share}"
        return [
            f"Prefix length: no window is extracted at any length ({bound} with the last "
            f"{shortest} tokens)."
        ]
    change = data.change(shortest, resamples)
    p = data.sampled.p_value(data.scores[shortest].exact, data.scores[whole].exact, resamples)
    verdict = "" if differs_from_zero(change, p) else ", which may be chance"
    sentence = (
        f"Prefix length: {data.rate(shortest, resamples):share} of the windows are extracted with "
        f"the last {shortest} prefix tokens, {data.rate(whole, resamples):share} with {whole}: "
        f"{change:points points}{verdict}."
    )
    if data.scores[whole].exact.any():
        sentence += f" {_half(data, lengths, resamples)}"
    if controls is not None:
        hits = as_bools(np.any([controls.scores[prefix].exact for prefix in lengths], axis=0))
        sentence += (
            f" {int(hits.sum()):,} of the {len(hits):,} sampled controls are extracted at some "
            f"length: {controls.sampled.rate(hits, resamples):share} of all controls."
        )
    return [sentence]


def _half(data: _Scored, lengths: Sequence[int], resamples: Resamples) -> str:
    """Return a sentence on the shortest prefix that extracts half of what the whole one does."""
    shares = {prefix: data.still_extracted(prefix, resamples) for prefix in lengths}
    if shares[lengths[-1]].value is None:
        return "The whole prefix extracts too few windows for further figures."
    enough = [prefix for prefix, share in shares.items() if (share.value or 0.0) >= 0.5]
    if enough[0] == lengths[-1]:
        return "No shorter prefix extracts half of the windows that the whole prefix extracts."
    return (
        f"{enough[0]} tokens are enough for {shares[enough[0]]:share} of the windows that the "
        "whole prefix extracts."
    )


def _note(prefix_tokens: int) -> str:
    return (
        f"Prefixes are cut from the left: the model sees only the last p tokens. The run's windows "
        f"have {prefix_tokens} prefix tokens, so longer prefixes cannot be tested."
    )
