"""The flags that commands share, and which setting each one is.

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
    Path | None, typer.Option(help="Text that the model has not seen, in the same formats.")
]
Reference = Annotated[
    str | None,
    typer.Option(help="Model before fine-tuning, named like MODEL: attacked as well, in pairs."),
]
ProfileName = Annotated[str | None, typer.Option("--profile", help="A shipped profile or a path.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings of an earlier run: its config.toml.")
]
Attacks = Annotated[
    str | None,
    typer.Option(help="Comma-separated: none, copy, dynamic-hard, constant, dynamic."),
]
PrefixTokens = Annotated[int | None, typer.Option(help="Tokens the model is shown.")]
SuffixTokens = Annotated[int | None, typer.Option(help="Tokens it has to continue with.")]
Placement = Annotated[
    str | None, typer.Option(help="Where windows lie in a sample: start, end or sliding.")
]
Stride = Annotated[int | None, typer.Option(help="Tokens between sliding windows.")]
Limit = Annotated[int | None, typer.Option(help="Draw at most this many samples of each file.")]
SkipBadLines = Annotated[
    bool, typer.Option("--skip-bad-lines", help="Report malformed lines as skipped.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps or spread.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16.")]
Quantize = Annotated[
    str | None, typer.Option(help="Load weights in fewer bits: int8, llm-int8 or nf4.")
]
Bos = Annotated[str | None, typer.Option(help="Start inputs with BOS: auto, yes, no.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Base = Annotated[str | None, typer.Option(help="Base model of an adapter, if not as it says.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Open pickled weights, which can run code.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Folds = Annotated[int | None, typer.Option(help="Parts that are audited in turn.")]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn.")]
BatchSize = Annotated[int | None, typer.Option(help="Windows per extraction pass.")]
MaxExact = Annotated[
    float | None, typer.Option(help="Fail if more than this share is extracted exactly.")
]
MaxFractional = Annotated[
    float | None, typer.Option(help="Fail if more than this share of suffix tokens is extracted.")
]
MaxLift = Annotated[
    float | None, typer.Option(help="Fail if a prompt gets more than this share above none.")
]
MaxNew = Annotated[
    int | None, typer.Option(help="Fail if more windows than this are new since --baseline.")
]
MaxLeaked = Annotated[
    float | None,
    typer.Option(help="Fail if more than this share is extracted, and not from --reference."),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option("--baseline", help="Baseline file or run folder that --max-new counts from."),
]
GateOn = Annotated[
    str | None, typer.Option(help="What gates judge: upper (end of the interval) or estimate.")
]
KeyFile = Annotated[
    Path | None, typer.Option(help="Project key; else MEMAUDIT_KEY, else the user's own.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, as dynamic.depth=2."),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="On stdout: table, json, csv, jsonl, html, markdown, sarif, junit, github or "
        "cyclonedx.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Run folder to make.")]
Resume = Annotated[
    Path | None, typer.Option(help="Run folder of a scan that was stopped: go on with it.")
]
ShardOption = Annotated[
    str | None, typer.Option(help="i/n: do one share; merge puts all n together.")
]
GeneratorOption = Annotated[
    Path | None, typer.Option(help="Run folder whose prompts are used; nothing is fitted.")
]
Reveal = Annotated[bool, typer.Option("--reveal", help="Put audited text in the reports.")]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 also when a gate fails or cannot tell.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Also settings, and tracebacks.")]


# The flags that are no settings, or go under another name.
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
    """The flags that were used, as settings."""
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
