"""How much prefix it takes: extraction of the same suffixes from their last p prefix tokens.

Knows a finished run and its model, and asks it once for each p. What the whole prefix gives
stands in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.attack.decoding_check import check_causal
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.drawing import DrawnSides, drawn_words
from memaudit.diagnose.sweep.figures import (
    Drawn,
    Piece,
    apart_from_zero,
    as_bools,
)
from memaudit.diagnose.sweep.passes import Asker, Said
from memaudit.errors import TargetError
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

_NAME = "prefix-length"


@dataclass(frozen=True, eq=False)
class _Side:
    """Data or controls, and what was said of those drawn."""

    part: Part
    drawn: Drawn
    said: dict[int, Said]
    """By p; the whole prefix's is the run's own."""

    def rate(self, prefix: int, resamples: Resamples) -> Estimate:
        """Exact rate; with the whole prefix from all windows."""
        if prefix == max(self.said):
            return resamples.rate(self.part.extracted, self.part.clusters)
        return self.drawn.rate(self.said[prefix].exact, resamples)

    def loss(self, prefix: int, resamples: Resamples) -> Estimate:
        """Mean suffix NLL; likewise."""
        if prefix == max(self.said):
            return resamples.mean(self.part.score("suffix_nll", "none"), self.part.clusters)
        return self.drawn.mean(self.said[prefix].nll, resamples)

    def change(self, prefix: int, resamples: Resamples) -> Estimate:
        """Exact rate less that with the whole prefix, on the same windows."""
        now, before = self.said[prefix].exact, self.said[max(self.said)].exact
        return self.drawn.change(now, before, resamples)

    def kept(self, prefix: int, resamples: Resamples) -> Estimate:
        """Share still extracted of those drawn that the whole prefix extracts."""
        whole = self.said[max(self.said)].exact
        return resamples.rate(self.said[prefix].exact[whole], self.drawn.clusters[whole])


def lengths_up_to(prefix_tokens: int, wanted: Sequence[int]) -> list[int]:
    """The lengths wanted that are less than P, and P."""
    return [*sorted({p for p in wanted if p < prefix_tokens}), prefix_tokens]


def _usable(subject: Subject, lengths: Sequence[int]) -> tuple[list[int], list[str]]:
    """The lengths at which one pass says what decoding would, and a sentence for each other."""
    checkpoint, good, notes = subject.checkpoint, [], []
    for prefix in lengths[:-1]:
        try:
            before = prefix + (checkpoint.bos_id is not None)
            check_causal(checkpoint, before, subject.suffix_tokens)
        except TargetError as error:
            notes.append(f"A prefix of {prefix} tokens was left out: {error}.")
        else:
            good.append(prefix)
    return [*good, lengths[-1]], notes


def sweep_prefixes(
    subject: Subject,
    wanted: Sequence[int],
    drawn: DrawnSides,
    asker: Asker,
    progress: Progress,
    resamples: Resamples,
) -> Piece:
    """Exact rate from the last p prefix tokens, of data and controls (drawn), for each p."""
    lengths, notes = _usable(subject, lengths_up_to(subject.prefix_tokens, wanted))
    data = _ask(subject, subject.data, drawn.data, lengths, asker, progress)
    controls = None
    if subject.controls is not None and drawn.controls is not None:
        controls = _ask(subject, subject.controls, drawn.controls, lengths, asker, progress)
    return Piece(
        _findings(data, controls, lengths, resamples),
        [_note(subject.prefix_tokens), *notes],
        [_table(data, controls, lengths, resamples)],
        [_plot(data, controls, lengths, resamples)],
    )


def _ask(
    subject: Subject,
    part: Part,
    drawn: Drawn,
    lengths: Sequence[int],
    asker: Asker,
    progress: Progress,
) -> _Side:
    ids, some = part.ids[drawn.rows], part.take(drawn.rows)
    matched = some.score("matched", "none").astype(np.int64)
    whole = Said(matched, some.score("suffix_nll", "none"), asker.suffix_tokens)
    said = {lengths[-1]: whole}
    role = "data" if part is subject.data else "controls"
    with progress.stage(f"prefix lengths, {role}", len(ids) * (len(lengths) - 1)) as advance:
        for prefix in lengths[:-1]:
            said[prefix] = asker.ask(subject.checkpoint, ids, prefix, advance)
    return _Side(part, drawn, said)


def _table(
    data: _Side, controls: _Side | None, lengths: Sequence[int], resamples: Resamples
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
    looked = drawn_words(data.drawn, "windows")
    if controls is not None:
        looked += f" and {drawn_words(controls.drawn, 'controls')}"
    return FigureTable(
        name=_NAME,
        title="Prefix length",
        says=(
            "The same suffixes, from the last p tokens of their prefixes, without a prompt; "
            "one teacher-forced pass for each p. Still extracted: of those that come out with the "
            "whole prefix. Only so: windows looked at that come out with p tokens and not with "
            f"all. Looked at: {looked}; {_weights(data, controls)}"
        ),
        columns=columns,
        rows=[_row(data, controls, prefix, resamples) for prefix in lengths],
    )


def _weights(data: _Side, controls: _Side | None) -> str:
    if data.drawn.is_all and (controls is None or controls.drawn.is_all):
        return "the last row stands in the run."
    return (
        "those that come out in the run were drawn more often than the others and count for less, "
        "so that rates are of all windows. The last row stands in the run, for all."
    )


def _row(data: _Side, controls: _Side | None, prefix: int, resamples: Resamples) -> list[Cell]:
    whole = data.said[max(data.said)].exact
    is_whole = prefix == max(data.said)
    row: list[Cell] = [
        prefix,
        data.rate(prefix, resamples),
        None if is_whole else data.change(prefix, resamples),
        None if is_whole or not whole.any() else data.kept(prefix, resamples),
        None if is_whole else int((data.said[prefix].exact & ~whole).sum()),
        data.loss(prefix, resamples),
    ]
    if controls is not None:
        row += [controls.rate(prefix, resamples), controls.loss(prefix, resamples)]
    return row


def _plot(
    data: _Side, controls: _Side | None, lengths: Sequence[int], resamples: Resamples
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
        says="Without a prompt, from the last p tokens of the prefix; the suffixes are the same.",
        x=Axis("prefix tokens p"),
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def _findings(
    data: _Side, controls: _Side | None, lengths: Sequence[int], resamples: Resamples
) -> list[str]:
    if len(lengths) == 1:
        return ["Prefix length: no length asked for is shorter than the run's prefix."]
    least, whole = lengths[0], lengths[-1]
    if not any(said.exact.any() for said in data.said.values()):
        bound = f"{data.rate(least, resamples):share}"
        return [
            f"Prefix length: nothing comes out at any length, {bound} with the last {least} tokens."
        ]
    change = data.change(least, resamples)
    p = data.drawn.p_value(data.said[least].exact, data.said[whole].exact, resamples)
    verdict = "" if apart_from_zero(change, p) else ", which may be nothing"
    sentence = (
        f"Prefix length: {data.rate(least, resamples):share} of the windows come out with the "
        f"last {least} prefix tokens, {data.rate(whole, resamples):share} with {whole}: "
        f"{change:points points}{verdict}."
    )
    if data.said[whole].exact.any():
        sentence += f" {_half(data, lengths, resamples)}"
    if controls is not None:
        hits = as_bools(np.any([controls.said[prefix].exact for prefix in lengths], axis=0))
        sentence += (
            f" At one length or another {int(hits.sum()):,} of the {len(hits):,} controls looked "
            f"at came out: {controls.drawn.rate(hits, resamples):share} of all controls."
        )
    return [sentence]


def _half(data: _Side, lengths: Sequence[int], resamples: Resamples) -> str:
    """The fewest tokens that keep half of what the whole prefix extracts."""
    kept = {prefix: data.kept(prefix, resamples) for prefix in lengths}
    if kept[lengths[-1]].value is None:
        return "The windows that the whole prefix extracts are too few for figures of them."
    enough = [prefix for prefix, one in kept.items() if (one.value or 0.0) >= 0.5]
    if enough[0] == lengths[-1]:
        return "None of the shorter prefixes keeps half of what the whole one extracts."
    return (
        f"{enough[0]} tokens are enough for {kept[enough[0]]:share} of those that the whole "
        "prefix extracts."
    )


def _note(prefix_tokens: int) -> str:
    return (
        f"Prefixes are cut from the left, so what is before the last p tokens is not seen; more "
        f"than {prefix_tokens} tokens the run's windows do not hold."
    )
