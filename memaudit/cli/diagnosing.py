"""The commands ``diagnose ...``: questions to a finished run, one command each.

Their flags are listed in each, because Typer reads them from signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memaudit.cli.border import Streams
from memaudit.cli.running import command_line, stoppable
from memaudit.cli.showing import check_diagnosis_format, show_diagnosis
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.diagnose.examination import Asked, Method
    from memaudit.diagnosis import DiagnosisName

Run = Annotated[Path, typer.Argument(help="Run folder of a finished scan.", metavar="RUN")]
Model = Annotated[
    str | None, typer.Option(help="Where the model lies now, if not where it was audited.")
]
Data = Annotated[Path | None, typer.Option(help="Where the data lie now, likewise.")]
Controls = Annotated[Path | None, typer.Option(help="Where the controls lie now, likewise.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Format = Annotated[str, typer.Option("--format", help="On stdout: table or json.")]
Most = Annotated[int | None, typer.Option("--windows", help="Of each group, at most.")]

_NOT_SETTINGS = frozenset(("output_format", "quiet", "verbose"))

diagnose_app = typer.Typer(
    name="diagnose",
    help="Ask a finished run what is hidden, where it sits and what drives it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _diagnose(
    name: DiagnosisName, method: Method[Asked], kind: type[Asked], given: dict[str, Any]
) -> None:
    """Diagnose a run, put the result into its folder and print it."""
    from memaudit.diagnose.examination import examine
    from memaudit.stored_diagnoses import require_unchanged, write_diagnosis
    from memaudit.target.failures import quiet_transformers

    check_diagnosis_format(given["output_format"])
    settings = _settings(kind, given)
    streams = Streams(given["quiet"], given["verbose"])
    require_unchanged(settings.run, name)
    with stoppable(), quiet_transformers():
        found = examine(method, settings, command_line(), streams.progress())
        write_diagnosis(found.run, found.record)
    streams.note(f"Written to {settings.run}, its page and manifest made anew")
    show_diagnosis(found.record, given["output_format"], streams)


def _settings(kind: type[Asked], given: dict[str, Any]) -> Asked:
    """The flags that were used, as settings. Raises UsageError."""
    from pydantic import ValidationError

    from memaudit.layers import explain_fault

    values = {
        name: value
        for name, value in given.items()
        if name not in _NOT_SETTINGS and value is not None
    }
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain_fault(error, dict.fromkeys(values, "flag"))) from None
