"""``diagnose attention``: whether attention is more concentrated where text is extracted.

Knows groups of windows, what was read of their attention, and how it is said.
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
from memaudit.score.resample import LEAST_CLUSTERS

_ABOUT = (
    "Is attention more concentrated where a model extracts what it has memorized? For the "
    "positions that foretell the suffix: the entropy of their attention in each layer, as a share "
    "of the largest possible, for extracted and for other windows (after Zeng et al. 2024)."
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
        findings=_conclude(view, withheld="extracted" in subject.disclosure.withheld),
        notes=_remark(view, layers, has_controls=subject.controls is not None),
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
    """Group name -> what was read, in the order of the legend; no group without windows."""
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
    seen = visible(passes, layers, ids.shape[1])
    with (
        progress.stage("attention", len(ids)) as advance,
        reduced(layers.layers, lambda at, weights: concentration(weights, seen[at])) as made,
    ):
        found = passes.read(ids, lambda one: stacked(made, layers.layers, one), advance)
    return _split(parts, found)


def _split(parts: dict[str, Part], found: Found) -> dict[str, Windows]:
    groups, start = {}, 0
    for name, part in parts.items():
        rows = slice(start, start + len(part))
        start += len(part)
        figures = {figure: values[rows] for figure, values in found.items()}
        groups[name] = Windows(name, part.clusters, figures)
    return groups


def _conclude(view: View, *, withheld: bool) -> list[str]:
    few = {name for name, group in view.groups.items() if _clusters(group) < LEAST_CLUSTERS}
    extracted = view.groups.get("extracted")
    said = []
    if extracted is None and withheld:
        said.append("Extracted windows are too few for figures of them; the notes count them.")
    elif extracted is None:
        said.append("No window is extracted: there is nothing to compare the others with.")
    elif "extracted" in few:
        said.append(
            f"What is extracted is too little to compare: {len(extracted)} windows in "
            f"{_clusters(extracted)} near-duplicate clusters."
        )
    if not view.pairs:
        said.append("Nothing to compare with: there are figures of one kind of window only.")
    elif view.pairs[0].other.name in few:
        return [*said, f"There are too few {_windows(view.pairs[0].other.name)} to compare with."]
    return said + [_say(view, pair) for pair in view.pairs if pair.one.name not in few]


def _clusters(group: Windows) -> int:
    return len(np.unique(group.clusters))


def _windows(name: str) -> str:
    return name if name == "controls" else f"{name} windows"


def _say(view: View, pair: Pair) -> str:
    """The strongest contrast of a pair, by an interval that holds for all layers at once."""
    found = contrasts(pair.one, pair.other, view.resamples, together=True)
    at = strongest(found)
    best = found[at]
    named = f"{_windows(pair.one.name)} against {_windows(pair.other.name)}"
    named = named[0].upper() + named[1:]
    if pair.one.name == "controls":
        named = f"The control, {_windows(pair.one.name)} against {_windows(pair.other.name)}"
    auc = ", ".join(best.parts(".2f"))
    apart = [place for place, one in enumerate(found) if one.above(0.5) or one.below(0.5)]
    if at not in apart:
        return (
            f"{named}: in no block does concentration of attention tell one from the other beyond "
            f"chance; they are furthest apart in block {view.blocks[at]} (AUC {auc})."
        )
    more = "more" if best.above(0.5) else "less"
    means = " against ".join(
        f"{group.figures['entropy'][:, at].mean():.3f}" for group in (pair.one, pair.other)
    )
    return (
        f"{named}: attention of the former is {more} concentrated in block {view.blocks[at]}, "
        f"where they are furthest apart (AUC {auc}; entropy {means}); in {len(apart)} of "
        f"{len(found)} blocks they are apart beyond chance."
    )


def _remark(view: View, layers: Layers, *, has_controls: bool) -> list[str]:
    numbers = ", ".join(str(one) for one in view.blocks)
    notes = [
        "AUC: the chance that attention is more concentrated (1 minus entropy) in a window of the "
        "first kind than in one of the second; 0.5 says nothing. In the findings intervals hold "
        f"for all {len(view.blocks)} layers at once (from the largest deviation in each resample), "
        "in tables and plots for each.",
        "Text that repeats itself or is formulaic concentrates attention too, extracted or not: a "
        "contrast shows how the model works where it recites, and does not prove memory.",
        "Weights were read with attention worked out step by step (eager); the run's own way may "
        "round otherwise.",
    ]
    if not has_controls:
        notes.append("The run had no controls: whether other text differs likewise is not known.")
    if len(view.blocks) < layers.blocks:
        notes.append(f"Of {layers.blocks} blocks only these give attention weights: {numbers}.")
    if not all(layer.whole for layer in layers.layers):
        notes.append(
            "Attention sinks of the model take a share of each position's attention; what is left "
            "is taken as the whole."
        )
    return notes
