"""The report: the form of report.json, its schema, and one type for all who read it.

Knows fields and their bounds. Knows nothing of how a result becomes a report (`build`) or of how
one is shown. Figures that do not exist or are not finite are NaN here and null in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt

from memaudit.config.settings import AttackName
from memaudit.gate.thresholds import Verdict
from memaudit.report.model_parts import (
    AnyAttack,
    Attack,
    Bounds,
    Count,
    Figure,
    Fit,
    Interval,
    Many,
    Part,
    Rate,
    Seeds,
    Settings,
    Sha256,
    Share,
    Whole,
)
from memaudit.report.model_validity import Validity
from memaudit.report.wording import json_text
from memaudit.sensitive.detectors import Category

KeyId = Annotated[str, Field(pattern="^[0-9a-f]{8}$")]


class Tool(Part):
    """The program that wrote the report."""

    name: Literal["memaudit"]
    version: str


class Gate(Part):
    """A gate, judged."""

    name: Literal[
        "max-exact",
        "max-fractional",
        "max-lift",
        "max-new",
        "max-leaked",
        "max-any",
        "max-sensitive",
        "controls",
        "attacks",
        "validity",
    ]
    threshold: Figure
    """Largest figure that passes: a share; for max-lift a difference of shares, for max-new and
    max-sensitive a number of samples. For controls the rate to exceed; null for attacks and
    validity."""
    attack: str
    """Attack that decided; empty if none did, or all together did."""
    estimate: Annotated[float, Bounds(-1, 1)]
    """Figure on the data: a share; for max-lift a difference of shares, for max-new the share of
    newly extracted samples, for max-leaked that of samples leaked by fine-tuning, for
    max-sensitive that of the samples with an item that give one away."""
    bound: Figure
    """Upper end of its interval."""
    verdict: Verdict
    reason: str
    """Reason for the verdict, in a sentence."""
    category: str
    """Category that max-sensitive limits; empty for other gates."""


class Since(Part):
    """The samples since the baseline, as the gate max-new counts them."""

    both: Count
    """Samples of the baseline and of this run."""
    only_baseline: Count
    """Samples removed from the data."""
    extracted_only_baseline: Count
    """Samples removed from the data that the baseline lists as extracted."""
    only_run: Count
    """Samples added to the data."""
    newly_extracted: Count
    """Samples that an attack on the model extracts and the baseline does not list."""
    newly_extracted_only_run: Count
    """Number of them that were added to the data."""


class Searched(Part):
    """A category that was searched."""

    category: Category
    method: str


class NotSearched(Part):
    """A category that was not searched."""

    category: Category
    reason: str


class Leak(Part):
    """Samples that hold items of one category in a suffix, without items that the prompt holds."""

    category: Category
    title: str
    """Category in words, a plural."""
    samples: Count
    """Samples with at least one item."""
    windows: Count
    """Windows with at least one item."""
    found: Count
    """Items in all windows."""
    extracted: Count
    """Samples of which an attack on the model extracts a window that holds an item and is not
    template alone."""
    extracted_by: Mapping[AttackName, Count]
    """Attack to the samples of which it extracts such a window."""
    leaked: Count | None
    """Extracted samples of which no attack extracts such a window from the reference; null without
    one."""


class Sensitive(Part):
    """Sensitive content of the suffixes."""

    scope: str
    looked_for: Many[Searched]
    not_looked_for: Many[NotSearched]
    data: Many[Leak]
    controls: Many[Leak] | None
    """Null without controls."""


class GroupRollUp(Part):
    """The groups of the data with samples that come out. Their names are in samples.csv alone."""

    groups: Count
    """Groups with a sample that can be extracted."""
    extracted: Count
    """Groups with a sample that an attack on the model extracts."""
    extracted_by: Mapping[AttackName, Count]
    """Attack to the groups with a sample that it extracts."""
    sensitive: Mapping[Category, Count]
    """Category to the groups with an extracted window that holds an item of it."""


class NllMeans(Part):
    """Mean suffix NLL of both models, nats/token, over samples with a finite NLL from both."""

    target: Figure
    reference: Figure
    change: Figure
    """Target minus reference, paired; for any, of the lowest NLL from each."""
    interval: Interval


class Origin(Part):
    """One attack on the same samples of both models."""

    attack: Literal["none", "dynamic-hard", "constant", "dynamic", "any"]
    """``any`` stands for all attacks together."""
    known_before: Count
    """Samples extracted from target and reference."""
    leaked: Rate
    """Samples extracted from the target alone, of all."""
    forgotten: Count
    """Samples extracted from the reference alone."""
    neither: Count
    """Samples extracted from neither."""
    p_value: Share
    test: str
    clustered_p_value: Share
    clustered_test: str
    suffix_nll: NllMeans


class _Fitted(Part):
    """Names the attack of a fit."""

    attack: Literal["constant", "dynamic"]


class ReferenceFit(Fit, _Fitted):
    """A prompt fitted on the reference."""


class Choice(Part):
    """A setting that was resolved automatically."""

    value: str
    reason: str


class Model(Part):
    """A model that was attacked."""

    name: str
    revision: str | None
    architecture: str
    """Class of the model."""
    parameters: Count
    training_tokens: Whole | None
    """Tokens that it was trained on, if the user gave their number."""
    training_tokens_per_parameter: Annotated[float, Bounds(0)]
    remote_code_allowed: StrictBool
    pickle_allowed: StrictBool
    fingerprint: Mapping[str, Sha256]
    """File to SHA-256: weights, adapter, tokenizer, template, configuration."""
    choices: Mapping[str, Choice]
    """Settings that were resolved automatically, and why."""


Origins = Annotated[Many[Origin], Field(min_length=2, max_length=5)]


class Reference(Part):
    """The model before fine-tuning, attacked in the same way."""

    scope: str
    model: Model
    data: Origins
    """Each attack on a model, weakest first, then any."""
    controls: Origins | None
    """Null without controls."""
    fits: Many[ReferenceFit]
    """Prompts fitted on the reference."""


class Framework(Part):
    """A request of a framework, and what this run did about it."""

    framework: str
    reference: str
    """Place in the framework."""
    asks: str
    """Request, paraphrased."""
    tested: Literal["tested", "partly", "not tested"]
    did: str
    evidence: Many[Annotated[str, Field(pattern="^/")]]
    """JSON pointers into this document."""


class Skipped(Part):
    """Records that gave no window, for one reason."""

    reason: str
    count: Whole


class ClusterSize(Part):
    """Number of clusters of one size."""

    samples: Count
    clusters: Count


class Clusters(Part):
    """Clusters of near-duplicate samples."""

    count: Count
    largest: Count
    """Samples in the largest cluster, without those that are template alone; as are the sizes."""
    sizes: Many[ClusterSize]


class ScoredFold(Part):
    """Windows that were scored in one fold."""

    fold: StrictInt
    windows: Count


class Corpus(Part):
    """A file of records, and its windows."""

    path: str
    hmac_sha256: Sha256
    """HMAC-SHA256 of the file's content under the project's key. The plain SHA-256 of a short file
    could be looked up."""
    key_id: KeyId
    """Id of that key."""
    rows: Count
    """Records in the file, good or bad."""
    bad: Count
    """Records that cannot be used."""
    samples: Count
    """Good records examined, after any limit."""
    used: Count
    """Samples that gave a window."""
    template_alone: Count
    """Used samples in which every window is template or repeats its prefix. No rate counts them."""
    windows: Count
    tokens: Count
    """Tokens of the used samples that could be audited: their texts, or their given suffixes."""
    audited_tokens: Count
    """Tokens that are in a suffix."""
    template_tokens: Count
    """Audited tokens that are template, or repeat what stands before them."""
    prefix_tokens: Count
    """Tokens of the longest prefix."""
    suffix_tokens: Count
    boundary_shifts: Count
    """Windows whose first suffix token begins inside the prefix string."""
    skipped: Many[Skipped]
    clusters: Clusters
    scored_by_fold: Many[ScoredFold]


class Fold(Part):
    """Windows in each part of one fold."""

    fold: Count
    fit: Count
    select: Count
    audit: Count


class PromptFiles(Part):
    """Fitted prompts; none if no attack is fitted."""

    origin: Literal["fitted in this run", "fitted earlier"]
    sha256: Mapping[str, Sha256]
    """File to SHA-256."""


class Batches(Part):
    """Windows per pass of one kind of work."""

    planned: Whole
    smallest: Whole
    final: Whole
    shortages: Count
    """How often memory ran out and the size was halved."""
    recomputed: StrictBool
    """True if the backward pass recomputed activations."""
    remark: str
    """The same in words; empty if memory sufficed."""


class Run(Part):
    """When, where and how the audit ran."""

    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC: when the figures were complete."""
    seconds: Mapping[str, Annotated[float, Bounds(0, missing=False)]]
    """Wall time of each stage; for a resumed run, of the work that was stored."""
    resumed: Count
    """Times the run was resumed."""
    processes: Whole
    """Processes that shared the work."""
    batch_size: Whole
    """Windows per extraction pass, after any backing off."""
    batch_size_reason: str
    batch_shape: tuple[Whole, Whole]
    """Windows of a pass, and tokens of each without BOS and soft prompt."""
    batches: Mapping[Literal["extraction", "tuning"], Batches]
    """Windows per pass of extraction and tuning, as planned and as memory allowed."""
    libraries: Mapping[str, str]
    """Package to version."""
    machine: Mapping[str, str]
    """Platform, processors, accelerator."""
    determinism: Mapping[str, str]
    """Torch settings that decide whether a repeated run gives the same figures."""


class Fingerprints(Part):
    """How fingerprints were made."""

    form: Literal["w1"]
    """What the fingerprint of every window starts with."""
    sample_form: Literal["s1"]
    """What the fingerprint of every sample starts with."""
    key_id: KeyId
    """Id of the project key; the key itself is nowhere in a run."""


class Config(Part):
    """Settings of the run."""

    values: Settings
    """Every setting, nested as in config.toml."""
    sources: Mapping[str, str]
    """Dotted setting to where its value came from."""


class Hashes(Part):
    """Hashes of settings and results."""

    config: Sha256
    """SHA-256 of config.toml."""
    policy: Sha256
    """SHA-256 of the gates' settings."""
    results: Sha256
    """SHA-256 of attacks, any, gates, sensitive and reference as canonical JSON: sorted keys, no
    space, ASCII."""


class Report(Part):
    """The result of one audit. null stands for a figure that does not exist or is not finite."""

    model_config = ConfigDict(
        title="memaudit report",
        json_schema_extra={
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "urn:memaudit:report:1",
        },
    )

    schema_version: Literal[4]
    tool: Tool
    command: str
    """Command line that ran."""
    exit_code: Literal[0, 1, 4]
    """0 passed or no limit set, 1 a gate failed, 4 inconclusive."""
    headline: Annotated[Many[str], Field(min_length=1)]
    """The finding in sentences."""
    summary: str
    """The finding in one line."""
    gates: Many[Gate]
    """Verdicts of the limits that were set, and of the checks controls, attacks and validity, which
    no limit asks for. Without a limit a run passes or fails nothing, though its checks pass."""
    baseline: Since | None
    """Null without a baseline, or without an attack on the model."""
    attacks: Many[Attack]
    """Attacks that ran, weakest first."""
    any: AnyAttack | None
    """Samples that at least one attack on the model extracts; null if none ran."""
    attacks_not_run: Many[AttackName]
    sensitive: Sensitive | None
    """Null if nothing was searched."""
    groups: GroupRollUp | None
    """Null unless the data has a group field."""
    reference: Reference | None
    """Null without a reference."""
    validity: Validity
    """Its verdict is the gate validity, which is present only if the run means nothing."""
    notes: Many[str]
    """Caveats for reading the figures."""
    limits: Annotated[Many[str], Field(min_length=1)]
    """What the figures do not show."""
    frameworks_note: str
    """What the next rows do not show."""
    frameworks: Many[Framework]
    """What frameworks ask for and what this run did: evidence, not a finding of compliance."""
    target: Model
    data: Corpus
    controls: Corpus | None
    folds: Many[Fold]
    """Empty if no attack needed any, as with prompts fitted earlier, or none were possible."""
    prompt_files: PromptFiles
    run: Run
    fingerprints: Fingerprints
    seeds: Seeds
    """Every random draw follows from these."""
    config: Config
    hashes: Hashes

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting, nested as in config.toml."""
        return dict(self.config.values)

    def document(self) -> dict[str, Any]:
        """Return the content of report.json."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """Return report.json: ASCII, indented, ending in a line end."""
        return json_text(self.document())
