"""Windows that ``none`` does not extract, with scores of how well each is remembered.

Knows a run, its model and a reference. Must not know how scores are judged. N is the number of
these windows: first those of the data, then controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.journal import Advance, Progress
from memaudit.data.plan import cut_files
from memaudit.diagnose.latent.known_run import known_windows
from memaudit.diagnose.latent.perturbation import Noise, Perturbed, perturb, perturbation_scores
from memaudit.diagnose.latent.scores import read_plain, read_scores
from memaudit.diagnose.latent.settings import LatentSettings
from memaudit.diagnose.subject import Part, Subject, draw
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

    @property
    def data(self) -> Bools:
        """(N,) whether a window is of the data."""
        return ~self.control

    @property
    def hidden_data(self) -> Bools:
        """(N,) windows of the data that another attack of the run extracts."""
        return self.hidden & ~self.control

    @property
    def known_data(self) -> Bools:
        """(N,) windows of the data that the known run extracts; none without such a run."""
        return self.data & (np.zeros_like(self.hidden) if self.known is None else self.known)

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


@dataclass(frozen=True, eq=False)
class Trial:
    """Effect of the perturbations on sampled windows."""

    sampled: Population
    """Sampled windows that ``none`` does not extract, with all scores."""
    perturbed: Perturbed
    """Figures of ``sampled``."""
    extracted: Perturbed
    """Figures of windows of the data that ``none`` extracts."""
    extracted_clusters: Ints


@dataclass(frozen=True, eq=False)
class Measurements:
    """Scores of all windows that ``none`` does not extract, and the effect of perturbations."""

    extracted: Part
    """Windows of the data that ``none`` extracts."""
    unextracted: Unextracted
    population: Population
    """Scores of ``unextracted``."""
    trial: Trial | None
    noise: Noise | None
    controls_extracted: int
    """Controls that ``none`` extracts."""
    has_attacks: bool
    """True if the run has another attack on the model."""


def measure(subject: Subject, settings: LatentSettings, progress: Progress) -> Measurements:
    """Score the windows that ``none`` does not extract, and perturb the weights.

    Raises:
        UsageError: every window is extracted, or there is nothing to judge by; a reference or a
            known run does not fit.
        TargetError: the weights cannot be perturbed, or the reference cannot be loaded.
    """
    unextracted = select_unextracted(subject)
    has_attacks = len(subject.data.attacks) > 1
    can_judge = has_attacks or unextracted.controls is not None or settings.known is not None
    if not can_judge and not settings.draws:
        raise UsageError(
            f"{subject.run.folder}: nothing to judge by; the diagnosis needs controls, another "
            "attack on the model, --known or --set draws"
        )
    known, total = None, sum(map(len, unextracted.parts))
    if settings.known is not None:
        known = known_windows(settings.known, subject.run, subject.data.rows)
        known = known[~subject.data.extracted]
        known = np.append(known, np.zeros(total - len(known), dtype=bool))
    before = nll_before(subject, unextracted, settings.reference, progress)
    with progress.stage("latent: scores", total) as advance:
        population = gather(subject, unextracted, known, before, settings.min_k, advance)
    noise, trial = None, None
    if settings.draws:
        noise = Noise(settings.strength, settings.draws, settings.seed)
        trial = run_trial(subject, unextracted, population, noise, settings.windows, progress)
    controls = subject.controls
    return Measurements(
        extracted=subject.data.take(subject.data.extracted),
        unextracted=unextracted,
        population=population,
        trial=trial,
        noise=noise,
        controls_extracted=0 if controls is None else int(controls.extracted.sum()),
        has_attacks=has_attacks,
    )


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
    subject: Subject, unextracted: Unextracted, reference: str | None, progress: Progress
) -> Floats | None:
    """Return the suffix NLL (N,) by the named reference, else by that of the run, if it had one.

    Raises UsageError and TargetError like a scan with a reference. The audited model stays in
    memory.
    """
    if reference is not None:
        with progress.stage("latent: reference", len(unextracted.ids)) as advance:
            return _read_reference(subject, unextracted, reference, advance)
    if not has_reference(subject.report):
        return None
    name = f"reference_{column('suffix_nll', 'none')}"
    return np.concatenate([figures(part.rows, name) for part in unextracted.parts])


def _read_reference(
    subject: Subject, unextracted: Unextracted, reference: str, advance: Advance
) -> Floats:
    if reference == subject.config.model:
        raise UsageError(f"--reference {reference}: is the audited model itself; name another")
    update = {"reference": reference, "attacks": ("none",)}
    config = subject.config.model_copy(update=update)
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


def run_trial(
    subject: Subject,
    unextracted: Unextracted,
    population: Population,
    noise: Noise,
    limit: int,
    progress: Progress,
) -> Trial:
    """Perturb the model and read at most ``limit`` windows of each group.

    Groups: windows known to be hidden, by another attack or another run; other windows of the
    data; controls; windows that ``none`` extracts.
    """
    rng = np.random.default_rng([noise.seed, 1])
    rows, weights = _sample(population, limit, rng)
    extracted = subject.data.sample(limit, rng, subject.data.extracted)
    ids = np.concatenate([unextracted.ids[rows], extracted.ids])
    total = len(ids) * (1 + noise.draws)
    with progress.stage("latent: perturbed weights", total) as advance:
        perturbed = perturb(subject, ids, noise, advance)
    own = perturbed.take(slice(0, len(rows)))
    sampled = replace(population.take(rows), weights=weights)
    sampled = replace(sampled, scores={**sampled.scores, **perturbation_scores(own)})
    return Trial(sampled, own, perturbed.take(slice(len(rows), None)), extracted.clusters)


def _sample(population: Population, limit: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Sample rows of each group, in order, and the number of windows that each represents."""
    hidden = population.hidden_data | population.known_data
    rows, weights = [], []
    for group in (hidden, ~hidden & population.data, population.control):
        sampled = draw(group, limit, rng)
        rows.append(sampled)
        weights.append(np.full(len(sampled), group.sum() / max(1, len(sampled))))
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(rows)[order], np.concatenate(weights)[order]
