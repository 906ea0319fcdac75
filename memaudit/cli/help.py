"""The command ``help``: the documentation pages in the terminal."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.options import Verbose
from memaudit.errors import UsageError

_LINK = r"\[([^\]]+)\]\(([a-z-]+)\.md(?:#[\w-]+)?\)"
"""A link from one page to another: its text and the topic."""
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def show_help(
    topic: Annotated[
        str | None,
        typer.Argument(help="Page to show; without it, all topics are listed.", metavar="TOPIC"),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="How to show the page: terminal or markdown.")
    ] = "terminal",
    verbose: Verbose = False,
) -> None:
    """Show a page of the documentation, or list all topics. Works offline."""
    with exit_on_error(verbose):
        from memaudit.docs.pages import list_topics, read_page

        if output_format not in ("terminal", "markdown"):
            raise UsageError(f"--format {output_format}: choose terminal or markdown")
        if topic is None:
            typer.echo(_render_topics(list_topics()), nl=False)
        elif output_format == "markdown":
            typer.echo(read_page(topic), nl=False)
        else:
            streams = Streams(quiet=True, verbose=verbose)
            page = render_page(read_page(topic), width=streams.width, color=streams.color)
            typer.echo(page, nl=False)


def render_page(page: str, *, width: int, color: bool) -> str:
    """Return a Markdown page as text of this width, with links to other pages as commands."""
    from io import StringIO

    from rich.console import Console
    from rich.markdown import Markdown

    page = re.sub(rf"\({_LINK}\)", r"(`memaudit help \2`)", page)
    page = re.sub(_LINK, r"\1 (`memaudit help \2`)", page).replace("](../../", "](")
    if not color:  # without color, the backticks are all that sets code apart
        page = _CODE.sub(r"`` `\1` ``", page)
    console = Console(
        file=StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    with console.capture() as capture:
        console.print(Markdown(page, hyperlinks=color, code_theme="ansi_dark"))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(lines) + "\n"


def _render_topics(topics: dict[str, str]) -> str:
    width = max(map(len, topics))
    lines = [f"  {topic:<{width}}  {heading}" for topic, heading in topics.items()]
    return "\n".join(["Topics of memaudit help TOPIC:", "", *lines]) + "\n"
