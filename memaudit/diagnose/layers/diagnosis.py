"""``diagnose layers``: blocks of a model that carry its memory, and blocks that carry its skill.

Knows the order of the steps: ablations, costs, report.
"""

from __future__ import annotations

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.anatomy.blocks import find_blocks, refusal
from memaudit.diagnose.layers.ablation import NOISE, ablate
from memaudit.diagnose.layers.costs import cost
from memaudit.diagnose.layers.figures import View, plots, tables
from memaudit.diagnose.layers.findings import conclude, remark
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.subject import Subject
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples

_ABOUT = (
    "Which blocks carry memory, and which carry the skill that all text needs? In one block at a "
    "time, each position attends only to itself (Menta et al. 2025), or the feed-forward part is "
    "removed. The cost to extracted windows is compared with the cost to controls."
)


def diagnose_layers(subject: Subject, settings: LayersSettings, progress: Progress) -> Diagnosis:
    """Ablate the parts of every block, one at a time.

    Raises:
        TargetError: the model has no blocks, or no part that can be removed.
    """
    blocks = find_blocks(subject.checkpoint)
    if not any(block.attention is not None or block.has_feed_forward for block in blocks):
        raise refusal(
            subject.checkpoint,
            "no block has attention that can be limited to its own position, or a feed-forward "
            "part that can be removed",
        )
    ablated = ablate(subject, blocks, settings.windows, settings.seed, progress)
    scores = subject.config.scores
    rng = np.random.default_rng([settings.seed, 1])
    costs = cost(ablated, Resamples.of(scores, rng))
    skill = "controls" if len(ablated.controls) else "not extracted"
    view = View(blocks, ablated, costs, skill)
    return Diagnosis(
        name="layers",
        about=_ABOUT,
        findings=conclude(ablated, costs, skill),
        notes=remark(blocks, ablated, subject.controls is not None, scores.confidence),
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
