"""From flags to a diagnosis in its run folder: the steps that all diagnoses share.

Knows no particular diagnosis.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from memaudit.cli.errors import Streams
from memaudit.cli.flags import Given
from memaudit.cli.running import command_line, note_versions, stoppable
from memaudit.cli.showing import require_run, show_diagnosis
from memaudit.config.flags import flags_of, plain_type
from memaudit.errors import UnsealedRunWarning, UsageError

if TYPE_CHECKING:
    from memaudit.diagnose.settings import DiagnoseSettings
    from memaudit.report.diagnosis import DiagnosisName


def examine_run(
    name: DiagnosisName, settings: DiagnoseSettings, output_format: str, streams: Streams
) -> None:
    """Diagnose a run, put the result into its folder and print it.

    It is only printed, with a warning, if the run would lose the seal of a key that is not at hand.
    """
    require_run(settings.run)
    from memaudit.diagnose.protocol import examine
    from memaudit.run.diagnoses import (
        is_signed,
        require_unchanged,
        seal_at_risk,
        write_diagnosis,
    )
    from memaudit.target.failures import quiet_transformers

    require_unchanged(settings.run, name)
    if (at_risk := seal_at_risk(settings.run)) is not None:
        streams.note(f"The diagnosis will only be printed. {at_risk}")
    note_versions(streams)
    with stoppable(streams), quiet_transformers():
        examined = examine(name, settings, command_line(), streams.progress())
        if at_risk is None:
            write_diagnosis(examined.run, examined.record)
    if at_risk is not None:
        warnings.warn(f"The diagnosis was only printed. {at_risk}", UnsealedRunWarning, 2)
    else:
        streams.note(f"Written to {settings.run}; its page and manifest were updated")
        if is_signed(settings.run):
            streams.note("The manifest had a signature that no longer matches: sign it again")
    show_diagnosis(examined.record, output_format, streams)


def diagnosis_settings(
    kind: type[DiagnoseSettings], given: Given, sets: Iterable[str]
) -> DiagnoseSettings:
    """Return the settings given by flags and by ``--set``. Raises UsageError."""
    from pydantic import ValidationError

    from memaudit.config.sources import explain_fault

    assigned = dict(_assigned(kind, word) for word in sets)
    sources = {name: f"--set {name}" for name in assigned}
    sources |= {name: setting.flag.name for name, setting in flags_of(kind).items()}
    try:
        return kind.model_validate({**given, **assigned})
    except ValidationError as error:
        raise UsageError(explain_fault(error, sources)) from None


def _assigned(kind: type[DiagnoseSettings], assignment: str) -> tuple[str, Any]:
    """Parse ``name=value``; a setting that takes several values splits them at commas."""
    name, equals, value = (part.strip() for part in assignment.partition("="))
    own = sorted(kind.model_fields.keys() - flags_of(kind).keys() - {"run"})
    if not equals or name not in own:
        raise UsageError(f"--set {assignment}: write NAME=VALUE; names: {', '.join(own) or 'none'}")
    is_list = plain_type(kind.model_fields[name].annotation) is tuple
    return name, [item.strip() for item in value.split(",")] if is_list else value
