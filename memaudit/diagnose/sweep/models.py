"""Extraction against model size: further checkpoints on the same windows, without a prompt.

Knows the scores of every model. The audited model's scores come from the run.
"""

from __future__ import annotations

import numpy as np

from memaudit.diagnose.section import Section, heads
from memaudit.diagnose.subject import Part
from memaudit.diagnose.sweep.measure import Measurements, Model
from memaudit.diagnose.sweep.view import SHARE, View, differs_from_zero
from memaudit.diagnose.sweep.windows import describe_sample
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.report.wording import p_value

_NAME = "model-size"


def sweep_models(view: View, measured: Measurements) -> Section:
    """Compare every further model with the audited model."""
    sample = view.data.take(measured.sampled["data"].rows)
    rows = [_own_row(view, measured)]
    rows += [_row(view, measured, model, sample) for model in measured.further]
    sizes = [measured.parameters, *(model.parameters for model in measured.further)]
    columns = [
        *(*heads("text", "model"), *heads("count", "parameters"), *heads("share", "extracted")),
        *(*heads("points", "less audited"), *heads("count", "gained", "lost"), *heads("p", "p")),
        *(*heads("share", "of hidden"), *heads("nats", "suffix NLL", "NLL less audited")),
    ]
    if view.controls is not None:
        columns += [*heads("share", "controls"), *heads("nats", "controls, NLL")]
    table = FigureTable(
        name=_NAME,
        title="Model size",
        says=(
            "Every model on the same windows, without a prompt. Points: paired difference from the "
            "audited model. Gained and lost: sampled windows that only this model, or only the "
            "audited model, extracts. Of hidden: share of the sampled windows that only a prompt "
            "extracts from the audited model. p: the larger of McNemar's test and a sign-flip test "
            f"over clusters, if all windows were sampled. Sample: "
            f"{describe_sample(measured.sampled['data'], 'windows')}."
        ),
        columns=columns,
        rows=[rows[place] for place in np.argsort(sizes, kind="stable")],
    )
    note = (
        "Checkpoints may differ in more than size, such as training data and training length. The "
        "comparison shows a difference, not its cause."
    )
    return Section([_finding(view, measured, sample)], [note], [table], [_plot(view, measured)])


def _own_row(view: View, measured: Measurements) -> list[Cell]:
    row: list[Cell] = [f"{measured.audited} (audited)", measured.parameters]
    for role, part in view.parts.items():
        row.append(view.rate(part, part.extracted))
        row += [None] * 5 if role == "data" else []
        row.append(view.resamples.mean(part.score("suffix_nll", "none"), part.clusters))
        row += [None] if role == "data" else []
    return row


def _row(view: View, measured: Measurements, model: Model, sample: Part) -> list[Cell]:
    """Return a further model's row; ``sample`` holds the sampled windows."""
    scores, sampled, resamples = model.scores["data"], measured.sampled["data"], view.resamples
    own, exact, hidden = sample.extracted, scores.exact, sample.hidden
    row: list[Cell] = [
        model.name,
        model.parameters,
        sampled.rate(exact, resamples),
        sampled.change(exact, own, resamples),
        int((exact & ~own).sum()),
        int((own & ~exact).sum()),
        sampled.p_value(exact, own, resamples),
        view.rate(sample.take(hidden), exact[hidden]) if hidden.any() else None,
        sampled.mean(scores.nll, resamples),
        sampled.mean(scores.nll - sample.score("suffix_nll", "none"), resamples),
    ]
    if "controls" in model.scores:
        scores, sampled = model.scores["controls"], measured.sampled["controls"]
        row += [sampled.rate(scores.exact, resamples), sampled.mean(scores.nll, resamples)]
    return row


def _plot(view: View, measured: Measurements) -> Plot:
    sizes = [measured.parameters, *(model.parameters for model in measured.further)]
    names = [measured.audited, *(model.name for model in measured.further)]
    order = np.argsort(sizes, kind="stable").tolist()
    by_size = len(set(sizes)) == len(sizes)
    at = [float(sizes[place]) if by_size else float(row) for row, place in enumerate(order)]
    lines = []
    for role, colour, dash in (("data", "series-1", "-"), ("controls", "series-3", ":")):
        if role not in view.parts:
            continue
        sampled = measured.sampled[role]
        rates = [view.rates()[role]]
        rates += [
            sampled.rate(model.scores[role].exact, view.resamples) for model in measured.further
        ]
        ordered = [rates[place] for place in order]
        lines.append(Line.of(role, colour, at, ordered, dash=dash if by_size else "", marker="o"))
    size_axis = Axis("parameters", logarithmic=True)
    if not by_size:
        size_axis = Axis("model", False, at, [names[place] for place in order])
    return Plot(
        name=_NAME,
        title="Extraction against model size",
        says="Without a prompt, on the same windows.",
        x=size_axis,
        y=SHARE,
        lines=lines,
    )


def _finding(view: View, measured: Measurements, sample: Part) -> str:
    sampled, resamples, hidden = measured.sampled["data"], view.resamples, sample.hidden
    own = f"{view.rates()['data']:share}"
    sentences = [f"Model size: {measured.audited} (audited): {own} extracted."]
    for model in measured.further:
        exact = model.scores["data"].exact
        change = sampled.change(exact, sample.extracted, resamples)
        verdict = f"{change:points points}"
        p = sampled.p_value(exact, sample.extracted, resamples)
        if not differs_from_zero(change, p):
            verdict += ", which may be chance"
        elif p is not None:
            verdict += f", {p_value(p)}"
        sentences.append(
            f"{model.name} ({model.parameters:,} parameters): "
            f"{sampled.rate(exact, resamples):share} extracted, {verdict}."
        )
        if hidden.any():
            known, rest = (
                view.rate(sample.take(mask), exact[mask]) for mask in (hidden, sample.untouched)
            )
            sentences.append(
                f"It gives away {known:share} of the windows that only a prompt extracts from the "
                f"audited model, and {rest:share} of the windows that no attack extracts."
            )
    return " ".join(sentences)
