"""From flags to a diagnosis in its run folder: the steps that all diagnoses share.

Knows no particular diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memaudit.cli.errors import Streams
from memaudit.cli.running import command_line, note_versions, stoppable
from memaudit.cli.showing import check_table_or_json, show_diagnosis
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.diagnose.examination import Asked, Method
    from memaudit.report.diagnosis import DiagnosisName

_NOT_SETTINGS = frozenset(("set_", "output_format", "quiet", "verbose"))


def examine_run(
    name: DiagnosisName, method: Method[Asked], kind: type[Asked], flags: dict[str, Any]
) -> None:
    """Diagnose a run, put the result into its folder and print it."""
    from memaudit.diagnose.examination import examine
    from memaudit.run.diagnoses import is_signed, require_unchanged, write_diagnosis
    from memaudit.target.failures import quiet_transformers

    check_table_or_json(flags["output_format"])
    settings = _settings(kind, flags)
    streams = Streams(flags["quiet"], flags["verbose"])
    require_unchanged(settings.run, name)
    note_versions(streams)
    with stoppable(streams), quiet_transformers():
        examined = examine(method, settings, command_line(), streams.progress())
        write_diagnosis(examined.run, examined.record)
    streams.note(f"Written to {settings.run}; its page and manifest were updated")
    if is_signed(settings.run):
        streams.note("The manifest had a signature that no longer matches: sign it again")
    show_diagnosis(examined.record, flags["output_format"], streams)


def _settings(kind: type[Asked], flags: dict[str, Any]) -> Asked:
    """Return the flags that were given, as settings. Raises UsageError."""
    from pydantic import ValidationError

    from memaudit.config.sources import explain_fault

    values = {name: value for name, value in flags.items() if value is not None}
    values |= dict(_assigned(kind, word, flags) for word in flags["set_"] or ())
    for name in _NOT_SETTINGS:
        values.pop(name, None)
    sources = {
        name: f"--{name.replace('_', '-')}" if name in flags else f"--set {name}" for name in values
    }
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain_fault(error, sources)) from None


def _assigned(kind: type[Asked], assignment: str, flags: Mapping[str, Any]) -> tuple[str, Any]:
    """Parse ``name=value``; a setting that takes several values splits them at commas."""
    name, equals, value = (part.strip() for part in assignment.partition("="))
    # The other settings have flags of their own.
    own = sorted(set(kind.model_fields) - set(flags))
    if not equals or name not in own:
        raise UsageError(f"--set {assignment}: write NAME=VALUE; names: {', '.join(own) or 'none'}")
    is_list = isinstance(kind.model_fields[name].default, tuple)
    return name, [item.strip() for item in value.split(",")] if is_list else value
