"""What probes and silenced units show; `unit_report` and `unit_tables` have the units.

Knows scores and sets of units. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.neurons.measure import Measurements
from memaudit.diagnose.neurons.probing import Against, Contrast, Probing, Source, judge
from memaudit.diagnose.neurons.representations import PLACES, Place
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.neurons.unit_report import Figures, silencing_findings, silencing_notes
from memaudit.diagnose.neurons.unit_tables import silencing_section
from memaudit.diagnose.section import Section, heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Diagnosis, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_FITTED_CLUSTERS, Resamples

ABOUT = (
    "Linear probes on hidden states: do they separate extracted windows from other text (Slonski "
    "2024, arXiv 2412.01014)? Feed-forward units that stop an extraction when silenced: how small "
    "a set is enough, and what does it cost elsewhere (NeMo, Hintersdorf et al. 2024, "
    "arXiv 2406.02366, applied to language models)?"
)
_NEGATIVES: dict[Against, str] = {"data": "data that no attack extracts", "controls": "controls"}
_WHERE: dict[Place, str] = {
    "border": "at the last token of the prefix",
    "suffix": "averaged over the suffix",
}


class _Style(NamedTuple):
    """Name and line style of one kind of probe."""

    against: Against
    source: Source
    name: str
    colour: str
    dash: str


_LINES = (
    _Style("data", "trained", "extracted, against other data", "series-1", "-"),
    _Style("controls", "trained", "extracted, against controls", "series-2", "-"),
    _Style("data", "hidden", "hidden, against other data", "series-4", "-"),
    _Style("data", "random", "random weights, against other data", "series-3", ":"),
    _Style("controls", "random", "random weights, against controls", "series-3", "--"),
    _Style("data", "permuted", "permuted labels, against other data", "series-5", ":"),
    _Style("controls", "permuted", "permuted labels, against controls", "series-5", "--"),
)
_PLOTTED = (0, 1, 2, 3, 5)
"""Positions of the plotted lines; the rest would overlap them."""


def report(
    measured: Measurements, settings: NeuronsSettings, resamples: Resamples, disclosure: Disclosure
) -> Diagnosis:
    """Judge the probes, and describe the sets of units."""
    probing = judge(measured.probing, resamples)
    units = Section([measured.reason])
    if measured.silencing is not None:
        figures = Figures(measured.silencing, resamples)
        notes, left_out = silencing_notes(figures), measured.without_units
        if left_out:
            notes.append(
                f"{left_out} of {probing.depth} blocks have no units that can be silenced one by "
                "one (fused experts, or no feed-forward part). They were left unchanged."
            )
        units = silencing_section(figures, silencing_findings(figures), notes)
    probes = Section(_findings(probing), _notes(probing), _tables(probing), _plots(probing))
    names = (
        *("windows", "probe_blocks", "unit_windows", "most_units", "silence", "erased"),
        *("trials", "random_sets", "cost_windows", "seed"),
    )
    words = {name: getattr(settings, name) for name in names}
    return Section.joined([units, probes]).diagnosis("neurons", ABOUT, words)


def _findings(probing: Probing[Estimate]) -> list[str]:
    findings: list[str] = []
    for contrast in probing.contrasts:
        if contrast.probes:
            findings.extend(_contrast(contrast, probing))
            continue
        findings.append(
            f"Probes against {_NEGATIVES[contrast.against]}: too few clusters. There are "
            f"{probing.extracted_clusters} clusters with an extracted window and "
            f"{contrast.negative_clusters} clusters to compare with; a probe takes "
            f"{LEAST_FITTED_CLUSTERS} of each."
        )
    return findings


def _contrast(contrast: Contrast[Estimate], probing: Probing[Estimate]) -> Iterator[str]:
    for place in PLACES:
        trained = contrast.probes["trained", place]
        best = _best(trained)
        if best is None:
            yield f"Probes {_WHERE[place]}: the hidden states are not finite."
            continue
        auc = trained[best]
        random = _highest(contrast.probes.get(("random", place), ()))
        permuted = _highest(contrast.probes["permuted", place])
        tokens, nll = contrast.baselines["tokens"], contrast.baselines["nll"]
        verdict = _beyond_chance(auc, (random, tokens), permuted)
        yield (
            f"Hidden states {_WHERE[place]} separate extracted windows from "
            f"{_NEGATIVES[contrast.against]} best at block {probing.blocks[best]} of "
            f"{probing.depth} (the first is 0), with an AUC of {auc}. Random weights reach "
            f"{random or 'no value'}, permuted labels {permuted or 'no value'}, token statistics "
            f"{tokens}: {verdict}. The suffix's NLL alone reaches {nll:.3f}."
        )
    yield _against_baselines(contrast)
    if contrast.against == "data":
        yield from _hidden(contrast)


def _beyond_chance(
    auc: Estimate, baselines: Sequence[Estimate | None], permuted: Estimate | None
) -> str:
    """Return the verdict on an AUC; it exceeds a baseline if their intervals do not overlap."""
    if permuted is not None and not auc.above(permuted.high):
        return "no better than chance"
    known = [estimate for estimate in baselines if estimate is not None]
    if any(not auc.above(estimate.high) for estimate in known):
        return "not clearly better than the words alone"
    if len(known) < len(baselines):
        return "the share of the words alone is not known"
    return "better than random weights and token statistics, which may also be skill"


def _against_baselines(contrast: Contrast[Estimate]) -> str:
    both = [estimate for place in PLACES for estimate in contrast.probes["trained", place]]
    best = _highest(both)
    tokens, nll = contrast.baselines["tokens"], contrast.baselines["nll"]
    beyond = best is not None and best.above(nll.high)
    verdict = (
        "the best probe is better"
        if beyond
        else "no probe is clearly better than the suffix's predictability"
    )
    return (
        f"Without hidden states, token statistics reach {tokens} and the "
        f"suffix's NLL {nll:.3f} against {_NEGATIVES[contrast.against]}: {verdict}."
    )


def _hidden(contrast: Contrast[Estimate]) -> Iterator[str]:
    """Yield a finding on hidden windows, at the block that is best for extracted windows."""
    if ("hidden", "border") not in contrast.probes or contrast.hidden_nll is None:
        return
    best = _best(contrast.probes["trained", "border"])
    if best is None:
        return
    auc = contrast.probes["hidden", "border"][best]
    nll = contrast.hidden_nll
    yield (
        f"The same probe {_WHERE['border']} separates hidden windows, which it was not fitted on, "
        f"from {_NEGATIVES[contrast.against]} with an AUC of {auc}; their suffix's NLL alone "
        f"reaches {nll}."
    )


def _best(estimates: Sequence[Estimate]) -> int | None:
    values = np.array([estimate.value for estimate in estimates], dtype=np.float64)  # NaN for None
    return int(np.nanargmax(values)) if np.isfinite(values).any() else None


def _highest(estimates: Sequence[Estimate]) -> Estimate | None:
    best = _best(estimates)
    return None if best is None else estimates[best]


def _notes(probing: Probing[Estimate]) -> list[str]:
    notes = [
        "The best block is chosen by its AUC, which is therefore a little high. Compare it with "
        "the highest AUC of random weights and permuted labels.",
        "A probe may read how predictable or how common a text is. Only an AUC above those of "
        "random weights, token statistics and the suffix's NLL indicates memory.",
    ]
    if all(contrast.against != "controls" for contrast in probing.contrasts):
        notes.append(
            "The run had no controls: extracted windows are compared only with other data of the "
            "run, some of which may be memorized, too."
        )
    if probing.no_twin is not None:
        notes.append(f"No comparison with random weights: {probing.no_twin}.")
    return notes if probing.has_probes else notes[2:]


def _tables(probing: Probing[Estimate]) -> list[FigureTable]:
    """Return a table per place, and a table of the baselines."""
    if not probing.has_probes:
        return []
    tables = []
    for place in PLACES:
        curves = [
            (style, estimates)
            for style in _LINES
            if (estimates := _estimates(probing, style, place))
        ]
        rows: list[list[Cell]] = [
            [str(block), *(estimates[at] for _, estimates in curves)]
            for at, block in enumerate(probing.blocks)
        ]
        tables.append(
            FigureTable(
                name=f"probe-{place}",
                title=f"What a linear probe reads {_WHERE[place]}",
                says=_caption(place),
                columns=[
                    *heads("text", "block"),
                    *heads("number", *(style.name for style, _ in curves)),
                ],
                rows=rows,
            )
        )
    return [*tables, _baselines(probing)]


def _caption(place: Place) -> str:
    reach = (
        "The model has seen no suffix token there, so only its expectation can separate windows."
        if place == "border"
        else "The model has seen the suffix there, so its words alone can separate windows, too."
    )
    return (
        f"AUC of a logistic regression on a block's hidden states {_WHERE[place]}, each window "
        f"scored by a probe that saw no window of its cluster. {reach} 0.5 is chance."
    )


def _baselines(probing: Probing[Estimate]) -> FigureTable:
    rows: list[list[Cell]] = []
    for contrast in probing.contrasts:
        if contrast.probes:
            rows.append(
                [
                    _NEGATIVES[contrast.against],
                    contrast.negatives,
                    contrast.negative_clusters,
                    contrast.baselines["tokens"],
                    contrast.baselines["nll"],
                    contrast.hidden_nll,
                ]
            )
    return FigureTable(
        name="probe-baselines",
        title="Separation of extracted windows without hidden states",
        says=(
            f"AUC of {probing.extracted} extracted windows in {probing.extracted_clusters} "
            "clusters, by a probe on the frequency and repetition of their tokens, and by the "
            "suffix's NLL alone."
        ),
        columns=[
            *heads("text", "against"),
            *heads("count", "windows", "clusters"),
            *heads("number", "token statistics", "suffix NLL", "suffix NLL, hidden windows"),
        ],
        rows=rows,
    )


def _estimates(probing: Probing[Estimate], style: _Style, place: Place) -> Sequence[Estimate]:
    for contrast in probing.contrasts:
        if contrast.against == style.against:
            return contrast.probes.get((style.source, place), ())
    return ()


def _plots(probing: Probing[Estimate]) -> list[Plot]:
    """Return a plot of the AUC over depth per place."""
    plots = []
    for place in PLACES:
        lines = [
            _line(probing, _LINES[at], estimates)
            for at in _PLOTTED
            if (estimates := _estimates(probing, _LINES[at], place))
        ]
        if lines:
            plots.append(
                Plot(
                    name=f"probe-{place}",
                    title=f"What a linear probe reads {_WHERE[place]}, over depth",
                    says="Shaded: the interval over clusters. 0.5 is chance.",
                    x=Axis("block", ticks=list(probing.blocks)),
                    y=Axis("AUC of the probe", high=1.0),
                    lines=lines,
                )
            )
    return plots


def _line(probing: Probing[Estimate], style: _Style, estimates: Sequence[Estimate]) -> Line:
    depth = list(probing.blocks)
    return Line.of(style.name, style.colour, depth, estimates, dash=style.dash, marker="o")
