"""Flags that several commands share and that are no settings.

Knows names and help texts. Imports nothing heavy: ``--help`` has to answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.report_files import FORMATS

RunFolder = Annotated[Path, typer.Argument(help="Run folder of a finished scan.", metavar="RUN")]
Resume = Annotated[
    Path | None,
    typer.Option(help="Run folder of a stopped scan to continue."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        help="i/n: scan share i of n; merge combines all n.",
        rich_help_panel="Audit",
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", help="Name of a shipped profile, or a path."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file, such as config.toml of an earlier run.",
        rich_help_panel="Settings",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting, e.g. dynamic.depth=2.",
        rich_help_panel="Settings",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        help=f"Output on stdout: {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
    ),
]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        metavar="FORMAT=FILE",
        help="Also write this format to a file; repeatable.",
        rich_help_panel="Output",
    ),
]
TableOrJson = Annotated[
    str,
    typer.Option("--format", help="Output on stdout: table or json."),
]
ExitZero = Annotated[
    bool,
    typer.Option(
        "--exit-zero",
        help="Exit 0 even if a gate fails or is inconclusive.",
        rich_help_panel="Gates",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress and no notes.", rich_help_panel="Output"),
]
OneLine = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print one line, the finding and the verdict; no progress and no notes.",
        rich_help_panel="Output",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Also show settings, and tracebacks of internal errors.",
        rich_help_panel="Output",
    ),
]
