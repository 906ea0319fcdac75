"""The flags that commands share, and the setting that each sets.

Knows names and help texts. Imports nothing heavy: ``--help`` has to answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        help="Hub id, local folder, .gguf file or PEFT adapter folder.", metavar="MODEL"
    ),
]
DataArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Text to audit: .jsonl, .json, .csv, .tsv, .txt, .parquet, or a folder of text files.",
        metavar="DATA",
    ),
]
Controls = Annotated[
    Path | None, typer.Option(help="Text the model has not seen, in the same formats as DATA.")
]
Reference = Annotated[
    str | None,
    typer.Option(help="Model before fine-tuning: every attack runs on it too."),
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Name of a shipped profile, or a path.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file, such as config.toml of an earlier run."),
]
Attacks = Annotated[
    str | None,
    typer.Option(help="Attacks, comma-separated: none, copy, dynamic-hard, constant, dynamic."),
]
PrefixTokens = Annotated[int | None, typer.Option(help="Tokens of the prefix shown to the model.")]
SuffixTokens = Annotated[int | None, typer.Option(help="Tokens of the suffix it has to extract.")]
Placement = Annotated[
    str | None, typer.Option(help="Position of windows in a sample: start, end or sliding.")
]
Stride = Annotated[int | None, typer.Option(help="Tokens between the starts of sliding windows.")]
Limit = Annotated[
    int | None, typer.Option(help="Audit up to this many random samples of each file.")
]
SkipBadLines = Annotated[
    bool,
    typer.Option("--skip-bad-lines", help="Report malformed lines as skipped instead of stopping."),
]
Device = Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda, cuda:1, mps or spread.")]
Dtype = Annotated[
    str | None, typer.Option(help="Number format: auto, float32, bfloat16 or float16.")
]
Quantize = Annotated[str | None, typer.Option(help="Quantize the weights: int8, llm-int8 or nf4.")]
Bos = Annotated[str | None, typer.Option(help="Start inputs with BOS: auto, yes or no.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Base = Annotated[str | None, typer.Option(help="Base model of an adapter, if it has moved.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Open pickled weights, which can run code.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Folds = Annotated[int | None, typer.Option(help="Number of folds, audited in turn.")]
Seed = Annotated[int | None, typer.Option(help="Random seed.")]
BatchSize = Annotated[int | None, typer.Option(help="Windows per extraction pass.")]
MaxExact = Annotated[
    float | None, typer.Option(help="Fail if more than this share of windows is extracted exactly.")
]
MaxFractional = Annotated[
    float | None, typer.Option(help="Fail if more than this share of suffix tokens is extracted.")
]
MaxLift = Annotated[
    float | None, typer.Option(help="Fail if a prompt extracts more than this share above none.")
]
MaxNew = Annotated[
    int | None,
    typer.Option(help="Fail if more windows than this are newly extracted since --baseline."),
]
MaxLeaked = Annotated[
    float | None,
    typer.Option(help="Fail if more than this share is extracted, but not from --reference."),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option("--baseline", help="Baseline file or run folder for --max-new."),
]
GateOn = Annotated[
    str | None, typer.Option(help="What gates judge: upper (end of the interval) or estimate.")
]
KeyFile = Annotated[
    Path | None, typer.Option(help="Project key (default: MEMAUDIT_KEY, then the user's key).")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. dynamic.depth=2."),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="Output on stdout: table, json, csv, jsonl, html, markdown, sarif, junit, github or "
        "cyclonedx.",
    ),
]
TableOrJson = Annotated[str, typer.Option("--format", help="Output on stdout: table or json.")]
Out = Annotated[Path | None, typer.Option(help="Run folder to create.")]
Resume = Annotated[Path | None, typer.Option(help="Run folder of a stopped scan to continue.")]
ShardOption = Annotated[
    str | None, typer.Option(help="i/n: scan share i of n; merge combines all n.")
]
GeneratorOption = Annotated[
    Path | None, typer.Option(help="Run folder whose prompts to use instead of fitting.")
]
Reveal = Annotated[bool, typer.Option("--reveal", help="Include audited text in the reports.")]
RevealFigures = Annotated[
    bool,
    typer.Option("--reveal", help="Write all figures; the model can turn them back into text."),
]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 even if a gate fails or is inconclusive.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Also show settings, and tracebacks of internal errors.")
]


# Flags that are not settings, or have another name there.
_NOT_SETTINGS = frozenset(
    (
        *("profile", "config_file", "set_", "output_format", "exit_zero", "quiet", "verbose"),
        *("timed_windows", "rounds", "generate_batches", "resume", "shard", "shards"),
    )
)
_SECTION = {
    "windows": ("prefix_tokens", "suffix_tokens", "placement", "stride", "limit", "skip_bad_lines"),
    "target": (
        *("device", "dtype", "quantize", "bos", "revision", "base"),
        *("trust_remote_code", "allow_pickle", "offline"),
    ),
    "protocol": ("folds", "seed"),
    "extraction": ("batch_size",),
    "gate": (
        *("max_exact", "max_fractional", "max_lift", "max_new", "max_leaked"),
        *("baseline", "gate_on"),
    ),
}


def settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, as settings."""
    section_of = {name: section for section, names in _SECTION.items() for name in names}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in _NOT_SETTINGS or value is None or value is False:
            continue
        if name == "attacks":
            value = [attack.strip() for attack in value.split(",")]
        if name in section_of:
            values.setdefault(section_of[name], {})[name] = value
        else:
            values[name] = value
    return values
