"""Settings: frozen objects that validate themselves.

Knows every setting, its default and its bounds. Knows only the paths of models and data, and not
where a value came from. Does not import torch, so usage errors appear at once.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from memaudit.config.base import (
    MAX_INTEGER,
    Fraction,
    NotNegative,
    Positive,
    Settings,
    Share,
    UserPath,
)
from memaudit.config.flags import (
    ALLOW_PICKLE,
    BATCH_SIZE,
    DEVICE,
    OFFLINE,
    SEED,
    TRUST_REMOTE_CODE,
    Flag,
)
from memaudit.config.tuning import ConstantSettings as ConstantSettings
from memaudit.config.tuning import DynamicSettings as DynamicSettings
from memaudit.config.tuning import TuningSettings as TuningSettings
from memaudit.sensitive.categories import ALL, Category

AttackName = Literal["none", "copy", "dynamic-hard", "constant", "dynamic"]
LADDER: tuple[AttackName, ...] = ("none", "copy", "dynamic-hard", "constant", "dynamic")
"""All attacks, weakest first. An attack's index is part of random seeds: append, never insert."""
PREFIX_ONLY = "prefix only"
"""Name of the attack ``none`` in all that people read; files and flags keep ``none``."""
NEED_FOLDS: frozenset[AttackName] = frozenset({"copy", "constant", "dynamic"})
"""Attacks that learn or copy from other windows of the data."""
Bos = Literal["auto", "yes", "no"]
Pairs = Literal["auto", "chat", "alpaca", "joined"]
OVERLAPPING = range(8, 17)
"""S for which sliding windows overlap by half: a name or a number of S/2 tokens is then whole in
one suffix, however they fall."""
MOST_COLUMNS = 100
"""Most columns of the data that are copied; every row of the tables has a cell for each."""
CHAT_DATE = date(2024, 7, 26)
"""Default date of the Llama 3 chat template."""
RUNS = Path("memaudit-runs")
"""Parent of the run folder if ``out`` is not set."""


def attack_label(attack: str) -> str:
    """Return the name of an attack for people to read."""
    return PREFIX_ONLY if attack == "none" else attack


def attack_subject(attack: str) -> str:
    """Return the subject of a sentence on what an attack did."""
    return "the prefix alone" if attack == "none" else attack


class WindowSettings(Settings):
    """How windows are cut from samples."""

    prefix_tokens: Annotated[
        NotNegative,
        Flag("--prefix-tokens", "Most tokens of the prefix (default: fits the data).", "Windows"),
    ] = 0
    """P in formulas. 0 chooses it from the data: 50, the benchmark's (Carlini et al. 2022), for
    texts; the longest text before a given suffix, up to 512 tokens."""
    suffix_tokens: Annotated[
        NotNegative,
        Flag("--suffix-tokens", "Tokens of the suffix (default: fits the data).", "Windows"),
    ] = 0
    """S in formulas. 0 chooses it from the data: half the length of texts, from 8 to 50; the length
    of given suffixes, from 8 to 16. Nine records in ten have that length."""
    placement: Annotated[
        Literal["auto", "start", "end", "sliding"],
        Flag("--placement", "Place of windows in a sample: auto, start, end, sliding.", "Windows"),
    ] = "auto"
    """In a text, or in the suffix where that is given. ``sliding`` cuts windows every ``stride``
    tokens over all of it. ``auto``: ``sliding`` if P or S is chosen from the data, else
    ``start``."""
    stride: Annotated[
        Positive | None,
        Flag("--stride", "Tokens between the starts of sliding windows.", "Windows"),
    ] = None
    """Default: S, so that the suffixes cover the sample; half of S if that is 8 to 16, so that a
    number or a name is whole in one of them. The last window ends with the sample."""
    limit: Annotated[
        Positive | None,
        Flag("--limit", "Audit up to this many random samples of each file.", "Windows"),
    ] = None
    """The seed chooses them."""
    skip_bad_lines: Annotated[
        bool,
        Flag(
            "--skip-bad-lines", "Report malformed lines as skipped instead of stopping.", "Windows"
        ),
    ] = False
    text_field: Annotated[
        str | None, Flag("--text-field", "Field with the text, if not text.", "Windows")
    ] = None
    prefix_field: Annotated[
        str | None, Flag("--prefix-field", "Field with the prefix, if not prefix.", "Windows")
    ] = None
    suffix_field: Annotated[
        str | None, Flag("--suffix-field", "Field with the suffix, if not suffix.", "Windows")
    ] = None
    keep_columns: Annotated[
        tuple[str, ...],
        Field(max_length=MOST_COLUMNS),
        Flag("--keep-columns", "Columns of the data to copy into the tables, by name.", "Windows"),
    ] = ()
    """They are in samples.csv, windows.csv and the page for anyone to read; no others are."""
    pairs: Annotated[
        Pairs,
        Flag("--pairs", "Questions and answers become: auto, chat, alpaca or joined.", "Windows"),
    ] = "auto"
    """Records such as instruction + output or question + answer. ``chat``: two turns, rendered by
    the model's chat template. ``alpaca``: Alpaca's prompt, then the answer. ``joined``: one after
    the other, as they are. ``auto``: ``joined`` for prompt + completion, ``chat`` for others."""
    chat_date: Annotated[date, Field(ge=date(1970, 1, 1), le=date(9000, 1, 1))] = CHAT_DATE
    """Date given to a chat template that asks for today's, so that chats render the same every
    day. Use the day of training if it is known."""

    @property
    def length(self) -> int:
        """P+S: tokens in one window."""
        if not (self.prefix_tokens and self.suffix_tokens):
            raise ValueError("the windows' size is not chosen yet")
        return self.prefix_tokens + self.suffix_tokens

    @property
    def chosen_placement(self) -> Literal["start", "end", "sliding"]:
        """Placement, with ``auto`` resolved."""
        if self.placement != "auto":
            return self.placement
        return "start" if self.prefix_tokens and self.suffix_tokens else "sliding"

    @property
    def step(self) -> int:
        """Tokens between the starts of sliding windows."""
        overlap = 2 if self.suffix_tokens in OVERLAPPING else 1
        return self.stride or self.suffix_tokens // overlap

    @field_validator("chat_date", mode="before")
    @classmethod
    def _is_date(cls, value: Any) -> Any:
        if not isinstance(value, (str, date)) or (isinstance(value, str) and value.isdigit()):
            raise ValueError("write the date as 2024-07-26")  # a number would mean seconds
        return value

    @model_validator(mode="after")
    def _stride_slides(self) -> WindowSettings:
        if self.stride is not None and self.chosen_placement != "sliding":
            raise ValueError("stride is only used with placement = 'sliding'")
        return self

    @model_validator(mode="after")
    def _names_one_form(self) -> WindowSettings:
        if self.text_field is not None and (self.prefix_field or self.suffix_field) is not None:
            raise ValueError("text_field cannot be combined with prefix_field or suffix_field")
        return self


class TargetSettings(Settings):
    """How the model under audit is loaded."""

    revision: Annotated[
        str | None, Flag("--revision", "Branch, tag or commit on the hub.", "Model")
    ] = None
    device: Annotated[str, DEVICE] = "auto"
    """``spread`` uses every CUDA device and puts the rest in main memory and on disk; ``auto`` does
    so if one device is too small."""
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Flag("--dtype", "Number format: auto, float32, bfloat16 or float16.", "Model"),
    ] = "auto"
    """Format of the weights."""
    bos: Annotated[Bos, Flag("--bos", "Start inputs with BOS: auto, yes or no.", "Model")] = "auto"
    """``auto`` follows the tokenizer for texts and the chat template for chats."""
    quantize: Annotated[
        Literal["int8", "llm-int8", "nf4"] | None,
        Flag("--quantize", "Quantize the weights: int8, llm-int8 or nf4.", "Model"),
    ] = None
    """``int8`` (torchao), 4-bit ``nf4`` or ``llm-int8`` (bitsandbytes). ``llm-int8`` also rounds
    activations."""
    prepack: Literal["auto", "yes", "no"] = "auto"
    """On a CPU, keep a second copy of the linear layers' weights in the order they are read."""
    base: Annotated[
        str | None, Flag("--base", "Base model of an adapter, if it has moved.", "Model")
    ] = None
    """Default: the base that its config names."""
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    allow_pickle: Annotated[bool, ALLOW_PICKLE] = False
    offline: Annotated[bool, OFFLINE] = False
    training_tokens: Positive | None = None
    """Number of training tokens, if known; the report compares it with the parameter count."""


class ProtocolSettings(Settings):
    """How windows are split, so that no prompt scores a near-duplicate of its training text."""

    folds: Annotated[
        int, Field(ge=2, le=50), Flag("--folds", "Number of folds, audited in turn.", "Audit")
    ] = 2
    select_fraction: Fraction = 0.1
    """Share of the windows outside ``audit`` used to choose the epoch."""
    least_select: Positive = 30
    """Windows used to choose the epoch, if a third of those outside ``audit`` are as many. With
    fewer the choice would be a guess, so the fold takes no prompt."""
    split: Literal["clusters", "random"] = "clusters"
    """``random`` lets near-duplicates leak between parts; use it only to see the effect."""
    cluster_run: Positive = 20
    """Two samples that share a run of this many tokens are near-duplicates."""
    seed: Annotated[NotNegative, SEED] = 0


class ExtractionSettings(Settings):
    """How windows are decoded."""

    batch_size: Annotated[Positive | None, BATCH_SIZE] = None
    """Default: chosen to fit the free memory."""


class ScoreSettings(Settings):
    """How scores and their intervals are computed."""

    confidence: Fraction = 0.95
    """Confidence level of every interval."""
    bootstrap: Annotated[int, Field(ge=100, le=MAX_INTEGER)] = 2000
    """Resamples of the cluster bootstrap."""
    top_k: Positive = 40
    """k of the top-k sampler for p_z (Hayes et al. 2024); other tokens have probability 0."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the sampler of p_z."""


class SensitiveSettings(Settings):
    """Counting of sensitive content in the suffixes."""

    enabled: bool = True
    """Search the suffixes for sensitive content."""
    region: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "US"
    """Country (ISO 3166) whose national format is used for phone numbers without ``+``."""
    categories: Annotated[tuple[Category, ...], Field(min_length=1)] = (ALL,)
    """Categories to search, of those that have a detector. Those of ``recognizers`` and
    ``secrets`` are searched in any case."""
    recognizers: Annotated[
        UserPath | None,
        Flag("--recognizers", "Recognizers to add, a YAML file as Presidio reads it.", "Audit"),
    ] = None
    secrets: Annotated[
        UserPath | None,
        Flag("--secrets", "Exact strings to search for: one a line, or a .csv.", "Audit"),
    ] = None
    """A ``.csv`` has the columns ``value`` and, if wanted, ``category``."""
    entity_model: str | None = None
    """Hub id or folder of a token classification model that marks names, addresses or both."""

    @model_validator(mode="after")
    def _files_are_used(self) -> SensitiveSettings:
        if not self.enabled and (self.recognizers or self.secrets) is not None:
            raise ValueError("enabled = false leaves recognizers and secrets unused; drop one")
        return self


class GateSettings(Settings):
    """Thresholds that make the audit fail. None is set by default."""

    max_exact: Annotated[
        Share | None,
        Flag("--max-exact", "Fail if more than this share of windows is extracted exactly."),
    ] = None
    """The attack that extracts the most counts."""
    max_fractional: Annotated[
        Share | None,
        Flag(
            "--max-fractional",
            "Fail if more than this share of suffix tokens is extracted.",
            "Gates",
        ),
    ] = None
    """Tokens count at the right position; the attack with the largest mean share counts."""
    max_lift: Annotated[
        Share | None,
        Flag("--max-lift", "Fail if a prompt extracts more than this share above none.", "Gates"),
    ] = None
    """Lift: exact rate of any prompt minus that of ``none``."""
    max_new: Annotated[
        NotNegative | None,
        Flag(
            "--max-new",
            "Fail if more samples than this are newly extracted since --baseline.",
            "Gates",
        ),
    ] = None
    max_leaked: Annotated[
        Share | None,
        Flag(
            "--max-leaked",
            "Fail if more than this share is extracted, but not from --reference.",
            "Gates",
        ),
    ] = None
    """Share of windows leaked by fine-tuning: any attack extracts them from the target, and none
    from the reference."""
    max_any: Annotated[
        Share | None,
        Flag(
            "--max-any",
            "Fail if more than this share of samples is extracted by at least one attack.",
            "Gates",
        ),
    ] = None
    """All attacks on the model together; ``copy`` does not count."""
    max_sensitive: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}=[0-9]{1,15}$")], ...],
        Flag(
            "--max-sensitive",
            "Fail if more than N samples give items of a category away; repeatable.",
            "Gates",
            metavar="CATEGORY=N",
            repeatable=True,
        ),
    ] = ()
    """Samples of which at least one attack on the model extracts a window that holds an item, such
    as ``phone=0``. Categories are those that the run searches."""
    baseline: Annotated[
        UserPath | None, Flag("--baseline", "Baseline file or run folder for --max-new.", "Gates")
    ] = None
    gate_on: Annotated[
        Literal["upper", "estimate"],
        Flag("--gate-on", "What gates judge: upper (end of the interval) or estimate.", "Gates"),
    ] = "upper"
    """``max_new`` and ``max_sensitive`` are exact counts and have no interval."""

    @property
    def sensitive_limits(self) -> dict[str, int]:
        """Category to the most samples that may give an item of it away."""
        pairs = (limit.split("=") for limit in self.max_sensitive)
        return {category: int(most) for category, most in pairs}

    @model_validator(mode="after")
    def _each_category_once(self) -> GateSettings:
        if len(self.sensitive_limits) < len(self.max_sensitive):
            raise ValueError("max_sensitive names a category twice; give one limit for each")
        return self

    @model_validator(mode="after")
    def _max_new_has_baseline(self) -> GateSettings:
        if (self.max_new is None) != (self.baseline is None):
            if self.baseline is None:
                raise ValueError("max_new is only used with baseline, the run to compare with")
            raise ValueError(
                "baseline is only used with max_new, the number of new samples allowed"
            )
        return self


class ScanConfig(Settings):
    """All settings of an audit."""

    model: Annotated[str, Flag("MODEL", "Hub id, local folder, .gguf file or PEFT adapter folder.")]
    data: Annotated[
        UserPath,
        Flag(
            "DATA",
            "Text to audit: .jsonl, .json, .csv, .tsv, .txt, .parquet, .xlsx, a folder of text "
            "files, or hf://owner/name.",
        ),
    ]
    controls: Annotated[
        UserPath | None,
        Flag("--controls", "Text the model has not seen, in the same formats as DATA."),
    ] = None
    out: Annotated[UserPath | None, Flag("--out", "Run folder to create.")] = None
    reference: Annotated[
        str | None, Flag("--reference", "Model before fine-tuning: every attack runs on it too.")
    ] = None
    """Named like ``model``."""
    generator: Annotated[
        UserPath | None,
        Flag("--generator", "Run folder whose prompts to use instead of fitting.", "Audit"),
    ] = None
    """A file with fitted prompts will do too."""
    key_file: Annotated[
        UserPath | None,
        Flag("--key-file", "Project key (default: MEMAUDIT_KEY, then the user's key).", "Settings"),
    ] = None
    """The key signs fingerprints."""
    attacks: Annotated[
        tuple[AttackName, ...],
        Field(min_length=1),
        Flag("--attacks", "Attacks, comma-separated: none, copy, dynamic-hard, constant, dynamic."),
    ] = LADDER
    reveal: Annotated[bool, Flag("--reveal", "Include audited text in the reports.", "Output")] = (
        False
    )
    """The text of prefixes, suffixes and outputs."""
    windows: WindowSettings = Field(default_factory=WindowSettings)
    target: TargetSettings = Field(default_factory=TargetSettings)
    protocol: ProtocolSettings = Field(default_factory=ProtocolSettings)
    constant: ConstantSettings = Field(default_factory=ConstantSettings)
    dynamic: DynamicSettings = Field(default_factory=DynamicSettings)
    extraction: ExtractionSettings = Field(default_factory=ExtractionSettings)
    scores: ScoreSettings = Field(default_factory=ScoreSettings)
    sensitive: SensitiveSettings = Field(default_factory=SensitiveSettings)
    gate: GateSettings = Field(default_factory=GateSettings)

    @model_validator(mode="after")
    def _limits_are_searched(self) -> ScanConfig:
        if self.gate.max_sensitive and not self.sensitive.enabled:
            raise ValueError("gate.max_sensitive is only used with sensitive.enabled = true")
        return self

    @model_validator(mode="after")
    def _reference_fits(self) -> ScanConfig:
        if self.reference is None:
            if self.gate.max_leaked is not None:
                raise ValueError(
                    "gate.max_leaked is only used with reference, the model before fine-tuning"
                )
            return self
        if self.generator is not None:
            raise ValueError(
                "reference cannot be combined with generator: the reference needs prompts fitted "
                "on it, in the same folds; leave one out"
            )
        is_default_version = self.target.revision is None and self.target.base is None
        if self.reference == self.model and is_default_version:
            raise ValueError(
                f"reference = {self.reference!r} is the audited model itself; give the model "
                "before fine-tuning"
            )
        return self

    @model_validator(mode="after")
    def _start_fits(self) -> ScanConfig:
        constant, dynamic = self.constant.num_virtual_tokens, self.dynamic.num_virtual_tokens
        if self.dynamic.starts_from_constant and constant != dynamic:
            raise ValueError(
                f"constant.num_virtual_tokens = {constant} and dynamic.num_virtual_tokens = "
                f"{dynamic} differ: make them equal, or set dynamic.start = 'vocabulary'"
            )
        return self
