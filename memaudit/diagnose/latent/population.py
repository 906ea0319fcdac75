"""Windows that ``none`` does not extract, with scores of how well each is remembered.

Knows a run, its model and a reference. Must not know how scores are judged. N is the number of
these windows: first those of the data, then controls.
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
"""Score that all other scores are compared with: the test of Duan et al. 2024."""
AGAINST = "NLL against the reference"
MIN_K, MIN_K_PLUS = "Min-K% of the suffix", "Min-K%++ of the suffix"
MATCHED = "tokens before the first miss"
_OF_RUN = {"fractional": "right tokens of the output", "longest_run": "longest run in the output"}


@dataclass(frozen=True, eq=False)
class Population:
    """N windows that ``none`` does not extract, and their scores."""

    scores: Mapping[str, Floats]
    """Each (N,), higher for better remembered; no NaN."""
    clusters: Ints
    weights: Floats
    """(N,) windows that each represents."""
    control: Bools
    """(N,) whether a window is a control."""
    hidden: Bools
    """(N,) whether another attack of the run extracts the window."""
    known: Bools | None
    """(N,) whether ``none`` extracts the window in the known run; None without a known run."""
    dropped: tuple[str, ...] = ()
    """Scores left out because they are NaN for some window."""

    def take(self, index: NDArray[np.integer[Any]] | Bools) -> Population:
        """Return the windows at ``index``."""
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
class Unextracted:
    """Windows of the data and controls that ``none`` does not extract."""

    data: Part
    controls: Part | None
    """None if there are no such controls."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Data, then controls."""
        return (self.data,) if self.controls is None else (self.data, self.controls)

    @property
    def ids(self) -> NDArray[np.int32]:
        """(N,P+S)."""
        return np.concatenate([part.ids for part in self.parts])


def select_unextracted(subject: Subject) -> Unextracted:
    """Select the windows; raise UsageError if ``none`` extracts every window of the data."""
    data = subject.data.take(~subject.data.extracted)
    if not len(data):
        raise UsageError(
            f"{subject.run.folder}: the plain prefix extracts every window; nothing is latent"
        )
    controls = subject.controls
    if controls is not None:
        controls = controls.take(~controls.extracted)
    return Unextracted(data, controls if controls is not None and len(controls) else None)


def gather(
    subject: Subject,
    unextracted: Unextracted,
    known: Bools | None,
    before: Floats | None,
    share: float,
    advance: Advance,
) -> Population:
    """Score the windows by one pass and by the scores of the run.

    known: (N,); before: NLL by the reference (N,); share: k of Min-K%.
    """
    figures = subject.passes().read(unextracted.ids, partial(read_scores, share=share), advance)
    scores = {NLL: -figures["nll"]}
    if before is not None:
        scores[AGAINST] = before - figures["nll"]
    scores |= {MIN_K: figures["min_k"], MIN_K_PLUS: figures["min_k_plus"]}
    scores["log p_z"] = _of_run(unextracted, "log_p_z")
    scores[MATCHED] = figures["matched"].astype(np.float64)
    scores |= {name: _of_run(unextracted, score) for score, name in _OF_RUN.items()}
    sizes = [len(part) for part in unextracted.parts]
    dropped = tuple(name for name, score in scores.items() if np.isnan(score).any())
    return Population(
        scores={name: score for name, score in scores.items() if name not in dropped},
        clusters=np.concatenate([part.clusters for part in unextracted.parts]),
        weights=np.ones(sum(sizes)),
        control=np.repeat([False, True][: len(sizes)], sizes),
        hidden=np.concatenate([part.hidden for part in unextracted.parts]),
        known=known,
        dropped=dropped,
    )


def _of_run(unextracted: Unextracted, score: str) -> Floats:
    return np.concatenate([part.score(score, "none") for part in unextracted.parts])


def nll_before(
    subject: Subject, unextracted: Unextracted, reference: str | None, advance: Advance
) -> Floats | None:
    """Return the suffix NLL (N,) by the named reference, else by that of the run, if it had one.

    Raises UsageError and TargetError like a scan with a reference. The audited model stays in
    memory.
    """
    if reference is not None:
        return _read_reference(subject, unextracted, reference, advance)
    if not has_reference(subject.report):
        return None
    name = f"reference_{column('suffix_nll', 'none')}"
    return np.concatenate([figures(part.rows, name) for part in unextracted.parts])


def _read_reference(
    subject: Subject, unextracted: Unextracted, reference: str, advance: Advance
) -> Floats:
    config = _with_reference(subject.config, reference)
    tokenizer = subject.checkpoint.tokenizer
    windows = cut_files(config, tokenizer)
    own = reference_config(config)
    check_tokenizer(f"--reference {reference}", config, own, tokenizer, windows)
    checkpoint = load_reference(config, tokenizer, windows)
    try:
        nll = subject.passes(checkpoint).read(unextracted.ids, read_plain, advance)["nll"]
    finally:
        release(checkpoint)
    return np.asarray(nll, dtype=np.float64)


def _with_reference(config: ScanConfig, reference: str) -> ScanConfig:
    if reference == config.model:
        raise UsageError(f"--reference {reference}: is the audited model itself; name another")
    return config.model_copy(update={"reference": reference, "attacks": ("none",)})
