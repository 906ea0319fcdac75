"""A hand-built result that was audited beside a reference, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from made_result import make_scores

from memaudit.attack.facts import Epoch, FitRecord
from memaudit.data.corpus import Corpus
from memaudit.gate.thresholds import judge, judge_controls
from memaudit.pipeline.scoring import group_windows
from memaudit.report.result import (
    FoldFit,
    ReferenceAttack,
    ReferenceResult,
    ScanResult,
)
from memaudit.score.origin import Pair, origins, pair_seed
from memaudit.score.samples import SampleScores, score_samples
from memaudit.score.scores import WindowScores

SHIFT = 3
"""The reference extracts as many windows as it is told, from the fourth on."""


def _samples(scores: WindowScores, corpus: Corpus) -> SampleScores:
    return score_samples(scores, group_windows(corpus))


def with_reference(
    result: ScanResult, hits: Mapping[str, int], name: str = "tb7m-base"
) -> ScanResult:
    """``hits`` by attack of the reference; of the controls it extracts none."""
    attacks = tuple(
        ReferenceAttack(
            attack.attack,
            _shifted(attack.attack, hits[attack.attack], result.data),
            None
            if result.controls is None
            else make_scores(attack.attack, 0, result.controls.windows),
        )
        for attack in result.attacks
        if attack.attack != "copy"
    )
    found = {attack.attack: attack for attack in result.attacks}
    data = [
        Pair(one.attack, found[one.attack].samples, _samples(one.data, result.data))
        for one in attacks
    ]
    controls = [
        Pair(one.attack, its, _samples(one.controls, result.controls))
        for one in attacks
        if (its := found[one.attack].control_samples) is not None
        and one.controls is not None
        and result.controls is not None
    ]
    settings, seed = result.config.scores, result.config.protocol.seed
    curve = (Epoch(0, float("nan"), 1, 3.2), Epoch(1, 2.5, 2, 2.9))
    reference = ReferenceResult(
        model=replace(result.target, name=name, fingerprint={"model.safetensors": "12" * 32}),
        attacks=attacks,
        data=origins(data, result.data.clusters, settings, pair_seed(seed, "data")),
        controls=origins(controls, result.controls.clusters, settings, pair_seed(seed, "controls"))
        if result.controls is not None
        else None,
        fits=(FoldFit("dynamic", 0, FitRecord("epoch 1", curve, "done", 9, 90, 10, "float32")),),
    )
    summaries = [attack.summary for attack in result.attacks]
    gate = judge_controls(summaries)
    verdicts = judge(summaries, result.config.gate, None, reference.data[-1].leaked)
    return replace(
        result,
        reference=reference,
        verdicts=(*verdicts, *([gate] if gate is not None else [])),
        config=result.config.model_copy(update={"reference": name}),
    )


def _shifted(attack: str, hits: int, corpus: Corpus) -> WindowScores:
    scores = make_scores(attack, hits, corpus.windows)
    return scores.take(np.roll(np.arange(len(scores)), SHIFT))
