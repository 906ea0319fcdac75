"""``diagnose attention``: concentration of attention in extracted and other windows.

Knows groups of windows, the figures of their attention, and the wording of findings and notes.
"""

from __future__ import annotations

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.attention.figures import Windows, contrasts, strongest
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.attention.view import Pair, View, plots, tables
from memaudit.diagnose.attention.weights import (
    Layers,
    concentration,
    eager_attention,
    find_layers,
    reduced,
    stacked,
    visible,
)
from memaudit.diagnose.disclosure import ALL_WITHHELD
from memaudit.diagnose.passes import Found
from memaudit.diagnose.subject import Part, Subject, draw
from memaudit.report.diagnosis import Diagnosis
from memaudit.report.wording import count
from memaudit.score.resample import LEAST_CLUSTERS

_ABOUT = (
    "Is attention more concentrated where a model returns memorized text? The diagnosis compares "
    "extracted with other windows by the entropy of attention in each layer, as a share of the "
    "largest possible, at the positions that predict the suffix (after Zeng et al. 2024)."
)


def diagnose_attention(
    subject: Subject, settings: AttentionSettings, progress: Progress
) -> Diagnosis:
    """Read the attention of all groups in one pass over each window.

    Raises:
        TargetError: the model gives no attention weights.
    """
    with eager_attention(subject.checkpoint):
        layers = find_layers(subject.checkpoint)
        groups = _read(subject, layers, settings, progress)
    if not groups:
        return Diagnosis("attention", _ABOUT, [ALL_WITHHELD], [], [], [])
    scores = subject.config.scores
    blocks = [layer.block.number for layer in layers.layers]
    view = View(groups, blocks, subject.resamples(settings.seed))
    return Diagnosis(
        name="attention",
        about=_ABOUT,
        findings=_findings(view, withheld="extracted" in subject.disclosure.withheld),
        notes=_notes(view, layers, has_controls=subject.controls is not None),
        tables=tables(view),
        plots=plots(view),
        settings={
            "windows": str(settings.windows),
            "seed": str(settings.seed),
            "confidence": str(scores.confidence),
            "bootstrap": str(scores.bootstrap),
        },
    )


def _read(
    subject: Subject, layers: Layers, settings: AttentionSettings, progress: Progress
) -> dict[str, Windows]:
    """Return the figures by group, in the order of the legend; no group is empty."""
    rng = np.random.default_rng([settings.seed, 0])
    data = subject.data
    masks = {
        "extracted": data.extracted,
        "hidden": data.hidden,
        "not extracted": ~(data.extracted | data.hidden),
    }
    parts = {name: data.take(draw(mask, settings.windows, rng)) for name, mask in masks.items()}
    if subject.controls is not None:
        everything = np.ones(len(subject.controls), dtype=bool)
        parts["controls"] = subject.controls.take(draw(everything, settings.windows, rng))
    parts = {
        name: part
        for name, part in parts.items()
        if len(part) and subject.disclosure.admits(name, part.clusters)
    }
    if not parts:
        return {}
    ids = np.concatenate([part.ids for part in parts.values()])
    passes = subject.passes(**layers.options)
    visible_places = visible(passes, layers, ids.shape[1])
    with (
        progress.stage("attention", len(ids)) as advance,
        reduced(
            layers.layers, lambda at, weights: concentration(weights, visible_places[at])
        ) as latest,
    ):
        figures = passes.read(ids, lambda batch: stacked(latest, layers.layers, batch), advance)
    return _split(parts, figures)


def _split(parts: dict[str, Part], figures: Found) -> dict[str, Windows]:
    groups, start = {}, 0
    for name, part in parts.items():
        rows = slice(start, start + len(part))
        start += len(part)
        own = {figure: values[rows] for figure, values in figures.items()}
        groups[name] = Windows(name, part.clusters, own)
    return groups


def _findings(view: View, *, withheld: bool) -> list[str]:
    few = {name for name, group in view.groups.items() if _clusters(group) < LEAST_CLUSTERS}
    extracted = view.groups.get("extracted")
    findings = []
    if extracted is None and withheld:
        findings.append("Too few windows are extracted for figures of them; the notes count them.")
    elif extracted is None:
        findings.append("No window is extracted, so there is nothing to compare.")
    elif "extracted" in few:
        findings.append(
            f"Too few windows are extracted to compare: {count(len(extracted), 'window')} in "
            f"{count(_clusters(extracted), 'near-duplicate cluster')}."
        )
    if not view.pairs:
        findings.append("There is nothing to compare with: only one group of windows has figures.")
    elif view.pairs[0].second.name in few:
        return [
            *findings,
            f"There are too few {_windows(view.pairs[0].second.name)} to compare with.",
        ]
    return findings + [
        _describe_pair(view, pair) for pair in view.pairs if pair.first.name not in few
    ]


def _clusters(group: Windows) -> int:
    return len(np.unique(group.clusters))


def _windows(name: str) -> str:
    return name if name == "controls" else f"{name} windows"


def _describe_pair(view: View, pair: Pair) -> str:
    """Describe the strongest contrast of a pair, with an interval joint over all layers."""
    aucs = contrasts(pair.first, pair.second, view.resamples, together=True)
    at = strongest(aucs)
    best = aucs[at]
    named = f"{_windows(pair.first.name)} against {_windows(pair.second.name)}"
    named = named[0].upper() + named[1:]
    if pair.first.name == "controls":
        named = f"The control, {_windows(pair.first.name)} against {_windows(pair.second.name)}"
    auc = ", ".join(best.parts(".2f"))
    clear = [place for place, area in enumerate(aucs) if area.above(0.5) or area.below(0.5)]
    if at not in clear:
        return (
            f"{named}: the concentration of attention differs beyond chance in no block; the "
            f"difference is largest in block {view.blocks[at]} (AUC {auc})."
        )
    more = "more" if best.above(0.5) else "less"
    means = " against ".join(
        f"{group.figures['entropy'][:, at].mean():.3f}" for group in (pair.first, pair.second)
    )
    return (
        f"{named}: attention is {more} concentrated in the former in block {view.blocks[at]}, "
        f"where the difference is largest (AUC {auc}; entropy {means}). It differs beyond chance "
        f"in {len(clear)} of {len(aucs)} blocks."
    )


def _notes(view: View, layers: Layers, *, has_controls: bool) -> list[str]:
    numbers = ", ".join(str(number) for number in view.blocks)
    notes = [
        "AUC: the chance that attention is more concentrated (1 minus entropy) in a window of the "
        "first group than in one of the second; 0.5 means no difference. Intervals in the findings "
        f"hold for all {len(view.blocks)} layers at once (by the largest deviation in each "
        "resample); those in tables and plots hold for each layer.",
        "Repetitive or formulaic text concentrates attention too, extracted or not. A contrast "
        "shows how the model works when it recites; it does not prove memory.",
        "Weights were read with eager attention; the run's own implementation may round "
        "differently.",
    ]
    if not has_controls:
        notes.append(
            "The run had no controls, so it is unknown whether other text shows the same contrast."
        )
    if len(view.blocks) < layers.blocks:
        notes.append(f"Only these blocks, of {layers.blocks}, give attention weights: {numbers}.")
    if not all(layer.whole for layer in layers.layers):
        notes.append(
            "Attention sinks of the model take a share of each position's attention; figures are "
            "shares of the rest."
        )
    return notes
