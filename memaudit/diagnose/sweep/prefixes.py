"""Extraction against the length of the prefix: the same suffixes from p prefix tokens.

Knows the scores of sampled windows by p. The figures for the whole prefix come from the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.section import Section, group_line, heads
from memaudit.diagnose.subject import Part
from memaudit.diagnose.sweep.measure import Measurements
from memaudit.diagnose.sweep.view import SHARE, View, differs_from_zero
from memaudit.diagnose.sweep.windows import PassScores, Sampled, describe_sample
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

_NAME = "prefix-length"


@dataclass(frozen=True, eq=False)
class _Scored:
    """Data or controls, with the scores of the sampled windows."""

    part: Part
    sampled: Sampled
    scores: Mapping[int, PassScores]
    """Scores by p; those of the whole prefix come from the run."""
    resamples: Resamples

    @property
    def whole(self) -> PassScores:
        """Scores with the whole prefix."""
        return self.scores[max(self.scores)]

    def rate(self, prefix: int) -> Estimate:
        """Return the exact rate; for the whole prefix from all windows."""
        if prefix == max(self.scores):
            return self.resamples.rate(self.part.extracted, self.part.clusters)
        return self.sampled.rate(self.scores[prefix].exact, self.resamples)

    def loss(self, prefix: int) -> Estimate:
        """Return the mean suffix NLL; for the whole prefix from all windows."""
        if prefix == max(self.scores):
            return self.resamples.mean(self.part.score("suffix_nll", "none"), self.part.clusters)
        return self.sampled.mean(self.scores[prefix].nll, self.resamples)

    def change(self, prefix: int) -> Estimate:
        """Return the exact rate less that of the whole prefix, on the same windows."""
        return self.sampled.change(self.scores[prefix].exact, self.whole.exact, self.resamples)

    def still_extracted(self, prefix: int) -> Estimate:
        """Return the share still extracted of those that the whole prefix extracts."""
        whole = self.whole.exact
        return self.resamples.rate(self.scores[prefix].exact[whole], self.sampled.clusters[whole])


def sweep_prefixes(view: View, measured: Measurements) -> Section:
    """Return the exact rate from the last p prefix tokens, for data and controls."""
    sides = {
        role: _Scored(part, measured.sampled[role], measured.prefixes[role], view.resamples)
        for role, part in view.parts.items()
    }
    longest, shorter = measured.lengths[-1], measured.shorter
    note = (
        "Prefixes are cut from the left: the model sees only the last p tokens. The run's windows "
        f"have {'at most ' if shorter[longest] else ''}{longest} prefix tokens, so longer prefixes "
        "cannot be tested."
    )
    if any(shorter.values()):
        counts = ", ".join(f"{shorter[p]:,} at p = {p}" for p in measured.lengths[:-1])
        note += (
            " Shorter prefixes take part whole, as in the run; of the "
            f"{len(sides['data'].sampled.rows):,} sampled windows these have fewer than p tokens: "
            f"{counts or 'none'}."
        )
    return Section(
        [_finding(sides["data"], sides.get("controls"), measured)],
        [note, *measured.prefix_notes],
        [_table(sides, measured.lengths)],
        [_plot(sides, measured.lengths)],
    )


def _table(sides: Mapping[str, _Scored], lengths: Sequence[int]) -> FigureTable:
    roles = {"data": "windows", "controls": "controls"}
    looked = " and ".join(
        describe_sample(side.sampled, roles[role]) for role, side in sides.items()
    )
    weights = (
        "Windows that the run extracted are oversampled and weighted down, so rates refer to all "
        "windows. The last row comes from the run and covers all windows."
    )
    if all(side.sampled.is_all for side in sides.values()):
        weights = "The last row comes from the run."
    columns = [
        *(*heads("count", "prefix tokens"), *heads("share", "extracted")),
        *(*heads("points", "less whole prefix"), *heads("share", "still extracted")),
        *(*heads("count", "only so"), *heads("nats", "suffix NLL")),
    ]
    if "controls" in sides:
        columns += [*heads("share", "controls"), *heads("nats", "controls, NLL")]
    return FigureTable(
        name=_NAME,
        title="Prefix length",
        says=(
            "The same suffixes, from the last p tokens of their prefixes, without a prompt; "
            "one teacher-forced pass for each p. Still extracted: share of the windows that the "
            "whole prefix extracts. Only so: sampled windows extracted with p tokens and not with "
            f"the whole prefix. Sample: {looked}. {weights}"
        ),
        columns=columns,
        rows=[_row(sides["data"], sides.get("controls"), prefix) for prefix in lengths],
    )


def _row(data: _Scored, controls: _Scored | None, prefix: int) -> list[Cell]:
    whole = data.whole.exact
    change: list[Cell] = [None, None, None]
    if prefix != max(data.scores):
        still = data.still_extracted(prefix) if whole.any() else None
        change = [data.change(prefix), still, int((data.scores[prefix].exact & ~whole).sum())]
    row: list[Cell] = [prefix, data.rate(prefix), *change, data.loss(prefix)]
    return row if controls is None else [*row, controls.rate(prefix), controls.loss(prefix)]


def _plot(sides: Mapping[str, _Scored], lengths: Sequence[int]) -> Plot:
    at = [float(prefix) for prefix in lengths]
    rates = {role: [side.rate(prefix) for prefix in lengths] for role, side in sides.items()}
    lines = [Line.of("data", "series-1", at, rates["data"], marker="o")]
    if "controls" in sides:
        lines.append(group_line("controls", at, rates["controls"], marker="o"))
    return Plot(
        name=_NAME,
        title="Extraction against prefix length",
        says="Without a prompt, from the last p tokens of the prefix; same suffixes.",
        x=Axis("prefix tokens p"),
        y=SHARE,
        lines=lines,
    )


def _finding(data: _Scored, controls: _Scored | None, measured: Measurements) -> str:
    lengths = measured.lengths
    if len(lengths) == 1:
        return "Prefix length: no requested length is shorter than the run's prefix."
    shortest, whole = lengths[0], lengths[-1]
    if not any(scores.exact.any() for scores in data.scores.values()):
        return (
            f"Prefix length: no window is extracted at any length ({data.rate(shortest):share} "
            f"with the last {shortest} tokens)."
        )
    change = data.change(shortest)
    p = data.sampled.p_value(data.scores[shortest].exact, data.whole.exact, data.resamples)
    verdict = "" if differs_from_zero(change, p) else ", which may be chance"
    sentence = (
        f"Prefix length: {data.rate(shortest):share} of the windows are extracted with the last "
        f"{shortest} prefix tokens, {data.rate(whole):share} with "
        f"{'the whole prefix' if measured.shorter[whole] else whole}: "
        f"{change:points points}{verdict}."
    )
    if data.whole.exact.any():
        sentence += f" {_half(data, lengths)}"
    if controls is not None:
        hits = np.asarray(np.any([controls.scores[prefix].exact for prefix in lengths], axis=0))
        sentence += (
            f" {int(hits.sum()):,} of the {len(hits):,} sampled controls are extracted at some "
            f"length: {controls.sampled.rate(hits, controls.resamples):share} of all controls."
        )
    return sentence


def _half(data: _Scored, lengths: Sequence[int]) -> str:
    """Return a sentence on the shortest prefix that extracts half of what the whole one does."""
    shares = {prefix: data.still_extracted(prefix) for prefix in lengths}
    if shares[lengths[-1]].value is None:
        return "The whole prefix extracts too few windows for further figures."
    enough = next(prefix for prefix in lengths if (shares[prefix].value or 0.0) >= 0.5)
    if enough == lengths[-1]:
        return "No shorter prefix extracts half of the windows that the whole prefix extracts."
    return (
        f"{enough} tokens are enough for {shares[enough]:share} of the windows that the whole "
        "prefix extracts."
    )
