"""The windows that ``none`` does not extract, with what tells how well each is remembered.

Knows a run, its model and a reference. Knows nothing of how scores are judged. N stands for these
windows of the data, followed by those of the controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.extraction import Advance
from memaudit.config.settings import ScanConfig
from memaudit.data.plan import cut_files
from memaudit.diagnose.latent.scores import read_plain, read_scores
from memaudit.diagnose.subject import Part, Subject
from memaudit.errors import UsageError
from memaudit.pipeline.reference import check_tokenizer, load_reference, reference_config, release
from memaudit.report.reading import column, figures, has_reference
from memaudit.score.stats import Bools, Floats, Ints

NLL = "suffix NLL"
"""The score that every other one is held against: the test of Duan et al. 2024."""
AGAINST = "NLL against the reference"
MIN_K, MIN_K_PLUS = "Min-K% of the suffix", "Min-K%++ of the suffix"
MATCHED = "tokens before the first miss"
_OF_RUN = {"fractional": "right tokens of the output", "longest_run": "longest run in the output"}


@dataclass(frozen=True, eq=False)
class Population:
    """N windows, none of which ``none`` extracts, and their scores."""

    scores: Mapping[str, Floats]
    """Each (N,), the higher the better remembered; none is NaN."""
    clusters: Ints
    weights: Floats
    """(N,) windows that each stands for."""
    control: Bools
    """(N,) whether it is one of the controls."""
    hidden: Bools
    """(N,) whether another attack of the run extracts it."""
    known: Bools | None
    """(N,) whether ``none`` extracts it in the run that is known; None where none is."""
    dropped: tuple[str, ...] = ()
    """Scores that are left out, since they are NaN for some window."""

    def take(self, index: NDArray[np.integer[Any]] | Bools) -> Population:
        """The windows at ``index``."""
        return Population(
            scores={name: score[index] for name, score in self.scores.items()},
            clusters=self.clusters[index],
            weights=self.weights[index],
            control=self.control[index],
            hidden=self.hidden[index],
            known=None if self.known is None else self.known[index],
            dropped=self.dropped,
        )


@dataclass(frozen=True, eq=False)
class Left:
    """What ``none`` leaves over: a part of the data, and of the controls where there are any."""

    data: Part
    controls: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The data, then the controls."""
        return (self.data,) if self.controls is None else (self.data, self.controls)

    @property
    def ids(self) -> NDArray[np.int32]:
        """(N,P+S)."""
        return np.concatenate([part.ids for part in self.parts])


def left_over(subject: Subject) -> Left:
    """Raises UsageError where every window of the data is extracted."""
    data = subject.data.take(~subject.data.extracted)
    if not len(data):
        raise UsageError(
            f"{subject.run.folder}: the plain prefix extracts every window; nothing is latent"
        )
    controls = subject.controls
    if controls is not None:
        controls = controls.take(~controls.extracted)
    return Left(data, controls if controls is not None and len(controls) else None)


def gather(
    subject: Subject,
    left: Left,
    known: Bools | None,
    before: Floats | None,
    share: float,
    advance: Advance,
) -> Population:
    """Score all of them by one pass and by what the run says.

    known: (N,); before: NLL from the reference (N,); share: k of Min-K%.
    """
    found = subject.passes().read(left.ids, partial(read_scores, share=share), advance)
    scores = {NLL: -found["nll"]}
    if before is not None:
        scores[AGAINST] = before - found["nll"]
    scores |= {MIN_K: found["min_k"], MIN_K_PLUS: found["min_k_plus"]}
    scores["log p_z"] = _of_run(left, "log_p_z")
    scores[MATCHED] = found["matched"].astype(np.float64)
    scores |= {name: _of_run(left, score) for score, name in _OF_RUN.items()}
    sizes = [len(part) for part in left.parts]
    dropped = tuple(name for name, score in scores.items() if np.isnan(score).any())
    return Population(
        scores={name: score for name, score in scores.items() if name not in dropped},
        clusters=np.concatenate([part.clusters for part in left.parts]),
        weights=np.ones(sum(sizes)),
        control=np.repeat([False, True][: len(sizes)], sizes),
        hidden=np.concatenate([part.hidden for part in left.parts]),
        known=known,
        dropped=dropped,
    )


def _of_run(left: Left, score: str) -> Floats:
    return np.concatenate([part.score(score, "none") for part in left.parts])


def nll_before(
    subject: Subject, left: Left, reference: str | None, advance: Advance
) -> Floats | None:
    """Suffix NLL (N,) from the reference: one that is named, else the run's, if it had one.

    Raises UsageError and TargetError as a scan with a reference does. The audited model stays in
    memory meanwhile.
    """
    if reference is not None:
        return _asked(subject, left, reference, advance)
    if not has_reference(subject.document):
        return None
    name = f"reference_{column('suffix_nll', 'none')}"
    return np.concatenate([figures(part.rows, name) for part in left.parts])


def _asked(subject: Subject, left: Left, reference: str, advance: Advance) -> Floats:
    config = _with_reference(subject.config, reference)
    tokenizer = subject.checkpoint.tokenizer
    windows = cut_files(config, tokenizer)
    own = reference_config(config)
    check_tokenizer(f"--reference {reference}", config, own, tokenizer, windows)
    checkpoint = load_reference(config, tokenizer, windows)
    try:
        nll = subject.passes(checkpoint).read(left.ids, read_plain, advance)["nll"]
    finally:
        release(checkpoint)
    return np.asarray(nll, dtype=np.float64)


def _with_reference(config: ScanConfig, reference: str) -> ScanConfig:
    if reference == config.model:
        raise UsageError(f"--reference {reference}: is the audited model itself; name another")
    return config.model_copy(update={"reference": reference, "attacks": ("none",)})
