"""What the probes found, in sentences, tables and plots.

Knows the figures of the probes and the form of a diagnosis. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.neurons.probing import Against, Contrast, Probing, Source
from memaudit.diagnose.neurons.representations import PLACES, Place
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_FITTED_CLUSTERS

_OTHERS: dict[Against, str] = {"data": "data that no attack extracts", "controls": "controls"}
_WHERE: dict[Place, str] = {
    "border": "at the last token of the prefix",
    "suffix": "averaged over the suffix",
}


class _Shown(NamedTuple):
    """How one kind of probe is named and drawn."""

    against: Against
    source: Source
    name: str
    colour: str
    dash: str


_LINES = (
    _Shown("data", "trained", "extracted, against other data", "series-1", "-"),
    _Shown("controls", "trained", "extracted, against controls", "series-2", "-"),
    _Shown("data", "hidden", "hidden, against other data", "series-4", "-"),
    _Shown("data", "random", "random weights, against other data", "series-3", ":"),
    _Shown("controls", "random", "random weights, against controls", "series-3", "--"),
    _Shown("data", "permuted", "permuted labels, against other data", "series-5", ":"),
    _Shown("controls", "permuted", "permuted labels, against controls", "series-5", "--"),
)
_DRAWN = (0, 1, 2, 3, 5)
"""Those of them that are drawn: the others look like their neighbours."""


def probing_findings(probing: Probing) -> list[str]:
    """The most important first."""
    said: list[str] = []
    for contrast in probing.contrasts:
        if contrast.probes:
            said.extend(_findings(contrast, probing))
            continue
        said.append(
            f"Probes against {_OTHERS[contrast.against]}: nothing can be said, as there are "
            f"{probing.extracted_clusters} clusters with an extracted window and "
            f"{contrast.negative_clusters} with one of the others, and each must be at least "
            f"{LEAST_FITTED_CLUSTERS}."
        )
    return said


def _findings(contrast: Contrast, probing: Probing) -> Iterator[str]:
    for place in PLACES:
        trained = contrast.probes["trained", place]
        best = _best(trained)
        if best is None:
            yield f"Probes {_WHERE[place]}: hidden states are no numbers."
            continue
        found = trained[best]
        random = _highest(contrast.probes.get(("random", place), ()))
        permuted = _highest(contrast.probes["permuted", place])
        tokens, nll = contrast.baselines["tokens"], contrast.baselines["nll"]
        verdict = _beyond_chance(found, (random, tokens), permuted)
        yield (
            f"Hidden states {_WHERE[place]} tell extracted windows from "
            f"{_OTHERS[contrast.against]} with an AUC of {found} at block "
            f"{probing.blocks[best]} of {probing.depth} (the first is 0), the best; random weights "
            "give at best "
            f"{random or 'nothing'}, permuted labels {permuted or 'nothing'}, token statistics "
            f"{tokens}: {verdict}. The suffix's NLL alone reaches "
            f"{nll:.3f}."
        )
    yield _against_baselines(contrast)
    if contrast.against == "data":
        yield from _hidden(contrast)


def _beyond_chance(
    found: Estimate, words: Sequence[Estimate | None], permuted: Estimate | None
) -> str:
    """What an AUC says beside its controls, taken to differ where the intervals lie apart."""
    if permuted is not None and not found.above(permuted.high):
        return "no more than chance"
    known = [one for one in words if one is not None]
    if any(not found.above(one.high) for one in known):
        return "not clearly beyond what the words alone give"
    if len(known) < len(words):
        return "what of it the words alone give is not known"
    return "beyond random weights and token statistics; skill could do that too"


def _against_baselines(contrast: Contrast) -> str:
    both = [one for place in PLACES for one in contrast.probes["trained", place]]
    best = _highest(both)
    tokens, nll = contrast.baselines["tokens"], contrast.baselines["nll"]
    beyond = best is not None and best.above(nll.high)
    verdict = (
        "the best probe tells more than that"
        if beyond
        else "no probe tells clearly more than how predictable the suffix is to the model"
    )
    return (
        f"With no hidden state at all, token statistics reach {tokens} and the "
        f"suffix's NLL {nll:.3f} against {_OTHERS[contrast.against]}: {verdict}."
    )


def _hidden(contrast: Contrast) -> Iterator[str]:
    """Of the block that tells extracted windows best, which was not chosen by hidden ones."""
    if ("hidden", "border") not in contrast.probes or contrast.hidden_nll is None:
        return
    best = _best(contrast.probes["trained", "border"])
    if best is None:
        return
    found = contrast.probes["hidden", "border"][best]
    nll = contrast.hidden_nll
    yield (
        f"Hidden windows, which no probe was fitted on, look like extracted ones "
        f"{_WHERE['border']} with an AUC of {found} against "
        f"{_OTHERS[contrast.against]}; their suffix's NLL alone gives {nll}."
    )


def _best(found: Sequence[Estimate]) -> int | None:
    values = np.array([one.value for one in found], dtype=np.float64)  # NaN for None
    return int(np.nanargmax(values)) if np.isfinite(values).any() else None


def _highest(found: Sequence[Estimate]) -> Estimate | None:
    best = _best(found)
    return None if best is None else found[best]


def probing_notes(probing: Probing) -> list[str]:
    """What a reader of the probes has to know."""
    notes = [
        "A block is called the best after the fact, so that its AUC is a little high; compare it "
        "with the highest that random weights and permuted labels reach.",
        "A probe that tells extracted windows apart may read how predictable or how common a text "
        "is; only what goes beyond random weights, token statistics and the suffix's NLL speaks "
        "of memory.",
    ]
    if all(contrast.against != "controls" for contrast in probing.contrasts):
        notes.append(
            "The run had no controls: extracted windows are compared with other data of the run "
            "only, some of which may be memorized too."
        )
    if probing.no_twin is not None:
        notes.append(f"No comparison with random weights: {probing.no_twin}.")
    return notes if any(contrast.probes for contrast in probing.contrasts) else notes[2:]


def probing_tables(probing: Probing) -> list[FigureTable]:
    """One of each place, and one of what needs no hidden state."""
    if not any(contrast.probes for contrast in probing.contrasts):
        return []
    tables = []
    for place in PLACES:
        shown = [(one, found) for one in _LINES if (found := _found(probing, one, place))]
        rows: list[list[Cell]] = [
            [str(block), *(found[at] for _, found in shown)]
            for at, block in enumerate(probing.blocks)
        ]
        tables.append(
            FigureTable(
                name=f"probe-{place}",
                title=f"What a linear probe reads {_WHERE[place]}",
                says=_says(place),
                columns=[
                    Column("block", "text"),
                    *(Column(one.name, "number") for one, _ in shown),
                ],
                rows=rows,
            )
        )
    return [*tables, _baselines(probing)]


def _says(place: Place) -> str:
    seen = (
        "The suffix has not been seen there: only what the model expects can tell windows apart."
        if place == "border"
        else "The suffix has been seen there, so that its words can be told from others too."
    )
    return (
        f"AUC of a logistic regression on a block's hidden states {_WHERE[place]}, each window "
        f"scored by a probe that saw no window of its cluster. {seen} 0.5 is chance."
    )


def _baselines(probing: Probing) -> FigureTable:
    rows: list[list[Cell]] = []
    for contrast in probing.contrasts:
        if contrast.probes:
            rows.append(
                [
                    _OTHERS[contrast.against],
                    contrast.negatives,
                    contrast.negative_clusters,
                    contrast.baselines["tokens"],
                    contrast.baselines["nll"],
                    contrast.hidden_nll,
                ]
            )
    return FigureTable(
        name="probe-baselines",
        title="What tells extracted windows without any hidden state",
        says=(
            f"AUC of {probing.extracted} extracted windows in {probing.extracted_clusters} "
            "clusters against others: by a probe on how frequent and repetitive their tokens are, "
            "and by the suffix's NLL alone."
        ),
        columns=[
            Column("against", "text"),
            Column("windows", "count"),
            Column("clusters", "count"),
            Column("token statistics", "number"),
            Column("suffix NLL", "number"),
            Column("suffix NLL, hidden windows", "number"),
        ],
        rows=rows,
    )


def _found(probing: Probing, shown: _Shown, place: Place) -> Sequence[Estimate]:
    for contrast in probing.contrasts:
        if contrast.against == shown.against:
            return contrast.probes.get((shown.source, place), ())
    return ()


def probing_plots(probing: Probing) -> list[Plot]:
    """AUC over depth, one of each place."""
    plots = []
    for place in PLACES:
        lines = [
            _line(probing, _LINES[at], found)
            for at in _DRAWN
            if (found := _found(probing, _LINES[at], place))
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


def _line(probing: Probing, shown: _Shown, found: Sequence[Estimate]) -> Line:
    depth = list(probing.blocks)
    return Line.of(shown.name, shown.colour, depth, found, dash=shown.dash, marker="o")
