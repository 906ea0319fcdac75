"""``diagnose layers``: which blocks of a model carry what it memorized, and which its skill.

Knows the figures of every ablation, and puts them into sentences, tables and plots.
"""

from __future__ import annotations

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.anatomy.blocks import find_blocks, refusal
from memaudit.diagnose.layers.ablation import NOISE, ablate
from memaudit.diagnose.layers.costs import cost
from memaudit.diagnose.layers.figures import View, plots, tables
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.layers.words import conclude, remark
from memaudit.diagnose.subject import Subject
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples

_ABOUT = (
    "Which blocks carry what is extracted, and which the skill that all text needs? In one block "
    "at a time each position attends to itself alone (Menta et al. 2025), or the feed-forward part "
    "is taken away; what that costs extracted windows is held against what it costs controls."
)


def diagnose_layers(subject: Subject, settings: LayersSettings, progress: Progress) -> Diagnosis:
    """Take every block apart in turn.

    Raises:
        TargetError: the model has no blocks, or none of which anything can be taken away.
    """
    blocks = find_blocks(subject.checkpoint)
    if not any(block.attention is not None or block.has_feed_forward for block in blocks):
        raise refusal(
            subject.checkpoint,
            "no block has attention that can be told to look at itself alone, or a feed-forward "
            "part that can be taken away",
        )
    found = ablate(subject, blocks, settings.windows, settings.seed, progress)
    scores = subject.config.scores
    rng = np.random.default_rng([settings.seed, 1])
    costs = cost(found, Resamples.of(scores, rng))
    skill = "controls" if len(found.controls) else "not extracted"
    view = View(blocks, found, costs, skill)
    return Diagnosis(
        name="layers",
        about=_ABOUT,
        findings=conclude(found, costs, skill),
        notes=remark(blocks, found, subject.controls is not None, scores.confidence),
        tables=tables(view),
        plots=plots(view),
        settings={
            "windows": str(settings.windows),
            "seed": str(settings.seed),
            "noise": ", ".join(map(str, NOISE)),
            "confidence": str(scores.confidence),
            "bootstrap": str(scores.bootstrap),
        },
    )
