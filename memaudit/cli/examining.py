"""From flags to a diagnosis in its run's folder: what every command of ``diagnose`` does.

Knows the order of asking, writing and showing. Knows no single diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memaudit.cli.errors import Streams
from memaudit.cli.running import command_line, note_versions, stoppable
from memaudit.cli.showing import check_diagnosis_format, show_diagnosis
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.diagnose.examination import Asked, Method
    from memaudit.report.diagnosis import DiagnosisName

_NOT_SETTINGS = frozenset(("set_", "output_format", "quiet", "verbose"))


def examine_run(
    name: DiagnosisName, method: Method[Asked], kind: type[Asked], given: dict[str, Any]
) -> None:
    """Diagnose a run, put the result into its folder and print it."""
    from memaudit.diagnose.examination import examine
    from memaudit.run.diagnoses import is_signed, require_unchanged, write_diagnosis
    from memaudit.target.failures import quiet_transformers

    check_diagnosis_format(given["output_format"])
    settings = _settings(kind, given)
    streams = Streams(given["quiet"], given["verbose"])
    require_unchanged(settings.run, name)
    note_versions(streams)
    with stoppable(), quiet_transformers():
        found = examine(method, settings, command_line(), streams.progress())
        write_diagnosis(found.run, found.record)
    streams.note(f"Written to {settings.run}; its page and its manifest were made anew")
    if is_signed(settings.run):
        streams.note("The manifest had a signature, which does not fit the new one: sign it again")
    show_diagnosis(found.record, given["output_format"], streams)


def _settings(kind: type[Asked], given: dict[str, Any]) -> Asked:
    """The flags that were used, as settings. Raises UsageError."""
    from pydantic import ValidationError

    from memaudit.config.sources import explain_fault

    values = {name: value for name, value in given.items() if value is not None}
    values |= dict(_assigned(kind, word, given) for word in given["set_"] or ())
    for name in _NOT_SETTINGS:
        values.pop(name, None)
    sources = {
        name: f"--{name.replace('_', '-')}" if name in given else f"--set {name}" for name in values
    }
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain_fault(error, sources)) from None


def _assigned(kind: type[Asked], assignment: str, flags: Mapping[str, Any]) -> tuple[str, Any]:
    """``name=value``; several values with commas between them where the setting takes several."""
    name, equals, value = (part.strip() for part in assignment.partition("="))
    # The others have flags, which say what they mean and what they lift.
    own = sorted(set(kind.model_fields) - set(flags))
    if not equals or name not in own:
        raise UsageError(f"--set {assignment}: write NAME=VALUE; names: {', '.join(own) or 'none'}")
    several = isinstance(kind.model_fields[name].default, tuple)
    return name, [one.strip() for one in value.split(",")] if several else value
