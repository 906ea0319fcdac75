"""Result of a scan: plain figures and ids, everything that a report may show.

Knows the stages' outputs. Knows nothing of how they were made, and holds no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memaudit.attack.facts import BatchFacts, FitRecord
from memaudit.config.settings import AttackName, ScanConfig
from memaudit.data.corpus import Corpus, FoldSizes
from memaudit.gate.thresholds import GateVerdict, NewSamples, exit_code
from memaudit.gate.validity import Validity
from memaudit.score.origin import Origin
from memaudit.score.samples import SampleScores
from memaudit.score.scores import WindowScores
from memaudit.score.summary import AttackSummary
from memaudit.sensitive.counting import SensitiveContent

if TYPE_CHECKING:
    from memaudit.target.placement import Choice


@dataclass(frozen=True, eq=False)
class Revealed:
    """Text of the windows, only if the user asked for it. All of length N."""

    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    output: Mapping[AttackName, tuple[str, ...]]
    """Attack to extracted text."""


@dataclass(frozen=True)
class Permuted:
    """Outputs compared with the suffixes of unrelated windows."""

    k: int
    """Outputs equal to such a suffix."""
    n: int
    """Windows that could be compared."""
    fractional: float
    """Mean share of equal positions; NaN where n is 0."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack over all windows and samples."""

    attack: AttackName
    data: WindowScores
    controls: WindowScores | None
    samples: SampleScores
    """Scores of the data's samples, in the order of their first windows."""
    control_samples: SampleScores | None
    summary: AttackSummary
    permuted: Permuted


@dataclass(frozen=True)
class FoldFit:
    """A fit with its attack and fold."""

    attack: AttackName
    fold: int
    record: FitRecord


@dataclass(frozen=True)
class TargetFacts:
    """The model under audit, as the report names it."""

    name: str
    revision: str | None
    architecture: str
    """Class of the model."""
    parameters: int
    fingerprint: Mapping[str, str]
    """File name to SHA-256: weights, adapter, tokenizer, template, configuration."""
    choices: Mapping[str, Choice]
    """Settings resolved automatically, with reasons."""


@dataclass(frozen=True, eq=False)
class ReferenceAttack:
    """One attack on the reference, over the windows that the target was audited on."""

    attack: AttackName
    data: WindowScores
    controls: WindowScores | None


@dataclass(frozen=True, eq=False)
class ReferenceResult:
    """The model before fine-tuning, attacked like the target, and the comparison of both."""

    model: TargetFacts
    attacks: tuple[ReferenceAttack, ...]
    """Attacks in the order of the ladder, without ``copy``, which queries no model."""
    data: tuple[Origin, ...]
    """Origins for each attack, then for all together."""
    controls: tuple[Origin, ...] | None
    """Origins on the controls; None without controls."""
    fits: tuple[FoldFit, ...]
    """Fits of the prompts on the reference."""


@dataclass(frozen=True)
class RunFacts:
    """When, where and how the audit ran."""

    version: str
    """Version of memaudit."""
    command: str
    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC: when the figures were complete."""
    seconds: Mapping[str, float]
    """Wall time of each stage; for a resumed run, of the work that was stored."""
    resumed: int
    """Times the run was resumed."""
    processes: int
    """Number of processes that shared the work."""
    key_id: str
    """Id of the project key of the fingerprints."""
    batch_size: int
    """Windows per extraction pass, after any backing off."""
    batch_size_reason: str
    libraries: Mapping[str, str]
    """Package to version."""
    machine: Mapping[str, str]
    """Platform, processor count, accelerator."""
    determinism: Mapping[str, str]
    """Torch settings that decide whether a repeated run gives the same figures."""
    batches: Mapping[str, BatchFacts] = field(default_factory=dict)
    """Windows per pass of ``extraction`` and ``tuning``, as planned and as memory allowed."""


@dataclass(frozen=True, eq=False)
class ScanResult:
    """All results of one audit."""

    config: ScanConfig
    sources: Mapping[str, str]
    """Dotted setting to where its value came from."""
    target: TargetFacts
    data: Corpus
    controls: Corpus | None
    fold_sizes: tuple[FoldSizes, ...]
    """Empty if no attack needed folds, as with prompts fitted earlier."""
    attacks: tuple[AttackResult, ...]
    """Attacks in the order of the ladder."""
    fits: tuple[FoldFit, ...]
    verdicts: tuple[GateVerdict, ...]
    notes: tuple[str, ...]
    """Caveats for reading the figures: one sentence each."""
    fingerprints: Mapping[str, tuple[str, ...]]
    """Role, ``data`` or ``control``, to one fingerprint for each window (data.fingerprints)."""
    sample_fingerprints: Mapping[str, tuple[str, ...]]
    """Role to one fingerprint for each sample that has a window."""
    run: RunFacts
    revealed: Mapping[str, Revealed]
    """Role, ``data`` or ``control``, to text; empty unless asked for."""
    file_hmacs: Mapping[str, str]
    """Role to the HMAC-SHA256 of the file's content under the project key."""
    any: AttackSummary | None = None
    """What at least one attack on the model extracts; None if none ran."""
    sensitive: SensitiveContent | None = None
    """Sensitive content of the suffixes; None if nothing was searched."""
    reference: ReferenceResult | None = None
    """Result on the model before fine-tuning; None without a reference."""
    new: NewSamples | None = None
    """Samples since the baseline; None without a baseline, or without an attack on the model."""
    prompt_files: Mapping[str, str] = field(default_factory=dict)
    """File name to SHA-256 of the fitted prompts used: this run's, or those of ``--generator``."""
    validity: Validity | None = None
    """Counts that decide whether the run is void; None if nothing was counted."""

    @property
    def exit_code(self) -> int:
        """0, 1 or 4, from the verdicts."""
        return exit_code(self.verdicts)

    def attack(self, name: AttackName) -> AttackResult | None:
        """Return the result of one attack; None if it did not run."""
        return next((result for result in self.attacks if result.attack == name), None)
