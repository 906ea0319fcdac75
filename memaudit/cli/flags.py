"""Commands whose flags are made from settings, and their help in groups.

Knows how a setting becomes a flag. Knows no setting and no command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_args

import typer
from pydantic import BaseModel
from typer.core import TyperCommand

from memaudit.config.flags import Flagged, Panel, flags_of

Given = dict[str, Any]
"""Settings given by flags, with a dictionary for each section."""
Rest = ParamSpec("Rest")


def with_settings(
    kind: type[BaseModel],
    only: Collection[str] | None = None,
    *,
    without: Collection[str] = (),
    helps: Mapping[str, str] | None = None,
) -> Callable[[Callable[Concatenate[Given, Rest], None]], Callable[..., None]]:
    """Give a command the flags of settings; it receives those used as its first argument.

    only, without: names of settings or sections. helps: other help, by name.
    """
    every = flags_of(kind)
    assert all(any(_is_in((part,), name) for name in every) for part in (*(only or ()), *without))
    flagged = {
        name: setting
        for name, setting in every.items()
        if (only is None or _is_in(only, name)) and not _is_in(without, name)
    }

    def decorate(command: Callable[Concatenate[Given, Rest], None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        names = {name.replace(".", "_"): name for name in flagged}

        @wraps(command)
        def run(**values: Any) -> None:
            given: Given = {}
            for parameter, name in names.items():
                _put(given, name, _value(flagged[name], values.pop(parameter)))
            command(given, **values)  # type: ignore[call-arg]

        made = [
            _parameter(parameter, flagged[name], (helps or {}).get(name))
            for parameter, name in names.items()
        ]
        keywords = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]
        run.__signature__ = inspect.Signature([*made, *keywords])  # type: ignore[attr-defined]
        return run

    return decorate


def _is_in(names: Collection[str], name: str) -> bool:
    return name in names or name.partition(".")[0] in names


def _parameter(name: str, setting: Flagged, other_help: str | None) -> inspect.Parameter:
    """Return the parameter of a setting, annotated for Typer."""
    flag, kind = setting.flag, setting.kind
    help_ = other_help or flag.help
    if flag.is_argument:
        info: Any = typer.Argument(help=help_, metavar=flag.name)
    else:
        info = typer.Option(flag.name, help=help_, metavar=flag.metavar, rich_help_panel=flag.panel)
    if flag.repeatable:
        shape: Any = list[str] | None
    elif kind is bool:
        shape = bool
    else:
        # Choices are text here: the settings check them, whatever source they come from.
        shape = (kind if kind in (int, float, Path) else str) | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if kind is bool else None,
        annotation=Annotated[shape, info],
    )


def _value(setting: Flagged, given: Any) -> Any:
    """Return the value of a flag; None if it was not used."""
    if setting.kind is bool or setting.flag.repeatable:
        return given or None
    if setting.kind is tuple and given is not None:
        return [item.strip() for item in given.split(",")]
    return given


def _put(given: Given, name: str, value: Any) -> None:
    section, dot, key = name.rpartition(".")
    if value is not None:
        (given.setdefault(section, {}) if dot else given)[key] = value


class GroupedCommand(TyperCommand):
    """Command whose help lists its options in groups, the most used first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then every group of options that is not empty."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        groups |= {panel: [] for panel in get_args(Panel)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                groups["Arguments" if is_argument else panel].append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
