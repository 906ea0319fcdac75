"""The result of a scan: plain figures and ids, everything that a report may show.

Knows the stages' outputs. Knows nothing of how they came about, and holds no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memaudit.attack.facts import BatchFacts, FitRecord
from memaudit.config.settings import AttackName, ScanConfig
from memaudit.data.corpus import Corpus, FoldSizes
from memaudit.gate.thresholds import GateVerdict, exit_code
from memaudit.gate.validity import Validity
from memaudit.score.origin import Origin
from memaudit.score.scores import AttackSummary, WindowScores
from memaudit.sensitive.counting import SensitiveContent

if TYPE_CHECKING:
    from memaudit.target.placement import Choice


@dataclass(frozen=True, eq=False)
class Revealed:
    """Text of the windows, only where the user asked for it. All of length N."""

    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    output: Mapping[AttackName, tuple[str, ...]]
    """What each attack extracted."""


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
    """One attack over all windows."""

    attack: AttackName
    data: WindowScores
    controls: WindowScores | None
    summary: AttackSummary
    permuted: Permuted


@dataclass(frozen=True)
class FoldFit:
    """A fit and where it belongs."""

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
    """What was resolved automatically, and why."""


@dataclass(frozen=True, eq=False)
class ReferenceAttack:
    """One attack on the reference, over the windows that the target was audited on."""

    attack: AttackName
    data: WindowScores
    controls: WindowScores | None


@dataclass(frozen=True, eq=False)
class ReferenceResult:
    """The model before fine-tuning, attacked as the target was, and the two held together."""

    model: TargetFacts
    attacks: tuple[ReferenceAttack, ...]
    """In the order of the ladder; ``copy``, which asks no model, has no part in it."""
    data: tuple[Origin, ...]
    """Of each of them, then of all together."""
    controls: tuple[Origin, ...] | None
    """The same of the controls, where there are any."""
    fits: tuple[FoldFit, ...]
    """Of the prompts that were fitted on the reference."""


@dataclass(frozen=True)
class RunFacts:
    """When, where and how the audit ran."""

    version: str
    """Of memaudit."""
    command: str
    started: str
    """ISO 8601, UTC."""
    finished: str
    """Likewise: when the figures were there."""
    seconds: Mapping[str, float]
    """Wall time of each stage; of a run that was resumed, of the work that was kept."""
    resumed: int
    """How often the run was gone on with after it had been stopped."""
    processes: int
    """That shared the work."""
    key_id: str
    """Names the project key that the fingerprints were made under."""
    batch_size: int
    """Windows per extraction pass, after any backing off."""
    batch_size_reason: str
    libraries: Mapping[str, str]
    """Package to version."""
    machine: Mapping[str, str]
    """Platform, processor count, accelerator."""
    determinism: Mapping[str, str]
    """What of torch's settings decides whether the same run gives the same figures."""
    batches: Mapping[str, BatchFacts] = field(default_factory=dict)
    """Of ``extraction`` and ``tuning``: windows of a pass, as planned and as memory left them."""


@dataclass(frozen=True, eq=False)
class ScanResult:
    """Everything one audit found."""

    config: ScanConfig
    sources: Mapping[str, str]
    """Dotted setting to where its value came from."""
    target: TargetFacts
    data: Corpus
    controls: Corpus | None
    fold_sizes: tuple[FoldSizes, ...]
    """Empty where no attack needed any, as where prompts fitted earlier were used."""
    attacks: tuple[AttackResult, ...]
    """In the order of the ladder."""
    fits: tuple[FoldFit, ...]
    verdicts: tuple[GateVerdict, ...]
    notes: tuple[str, ...]
    """What the user has to know to read the figures: one sentence each."""
    fingerprints: Mapping[str, tuple[str, ...]]
    """By role, ``data`` and ``control``: one for each window (data.fingerprints)."""
    run: RunFacts
    revealed: Mapping[str, Revealed]
    """By role, ``data`` and ``control``; empty unless asked for."""
    file_hmacs: Mapping[str, str]
    """By role: the HMAC-SHA256 of the file's content under the project's key."""
    sensitive: SensitiveContent | None = None
    """What the suffixes hold; None where nothing was looked for."""
    reference: ReferenceResult | None = None
    """What the model before fine-tuning gives away; None where none was named."""
    prompt_files: Mapping[str, str] = field(default_factory=dict)
    """File name to SHA-256 of the fitted prompts that audited: this run's, or those that
    ``--generator`` named."""
    validity: Validity | None = None
    """What was counted to tell whether the run means anything; None where nothing was."""

    @property
    def exit_code(self) -> int:
        """0, 1 or 4, as the verdicts say."""
        return exit_code(self.verdicts)

    def attack(self, name: AttackName) -> AttackResult | None:
        """The result of one attack, if it ran."""
        return next((result for result in self.attacks if result.attack == name), None)
