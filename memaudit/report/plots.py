"""Plot lines and intervals, as SVG for the page or as PNG.

Knows matplotlib. Knows nothing of results: numbers and short names in, a picture out. The same
numbers give the same bytes, so there is no date. In SVG, colours are CSS variables, so that the
page can be light or dark.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from memaudit.report.curves import Axis, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ON_WHITE = {
    "ink": "#1b1f24",
    "rule": "#d0d7de",
    "none": "#57606a",
    "copy": "#9a6700",
    "dynamic-hard": "#8250df",
    "constant": "#0969da",
    "dynamic": "#cf222e",
    "any": "#1b1f24",
    "series-1": "#cf222e",
    "series-2": "#0969da",
    "series-3": "#57606a",
    "series-4": "#8250df",
    "series-5": "#9a6700",
    "series-6": "#116329",
}
"""Colours of the light page, by name of variable."""
COLOURS = frozenset(ON_WHITE) - {"ink", "rule"}
"""Allowed colours of a line."""
DASHES = ("", "-", "--", ":", "-.")
MARKERS = ("", "o", "s", "D", "^", "v", "x", "+")
_STAND_INS = {name: f"#0102{place:02x}" for place, name in enumerate(ON_WHITE)}
"""Placeholder colours, replaced by the variables in the markup."""
_DOTS_PER_INCH = 200
_LEGEND_WIDTH, _LEGEND_MARK = 84, 8
"""Width of a legend, and of a mark in it, in letters."""
_MOST_WHISKERS = 20
"""Most points of a line with separate intervals; longer lines have a band."""
_SIZE = (5.4, 3.3)
"""Inches of 72 units: as wide as a phone, so that letters stay readable on one."""
Palette = Mapping[str, str]
"""Colour by name."""
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLES = re.compile(r"<style.*?</style>", re.DOTALL)
_EMPTY = re.compile(r'<g id="[^"]*"/>\s*|<defs>\s*</defs>\s*')
_FONT = re.compile(r" font-family: [^;\"]*;")
_STARTS_AT = "<svg "
_ATTRIBUTES = re.compile(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>")


class Estimate(NamedTuple):
    """A figure with its interval."""

    row: int
    """Row of its name, from 0."""
    attack: str
    """Attack whose colour it has."""
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Estimates of one kind."""

    name: str
    estimates: Sequence[Estimate]
    marker: str
    """Matplotlib marker: ``o``, ``s``."""
    hollow: bool


def line_plot(name: str, lines: Sequence[Line], x: Axis, y: Axis, columns: int = 3) -> str:
    """Plot curves with a legend below, as SVG. ``name`` starts every id in the markup."""
    with _figure(_STAND_INS) as figure:
        _plot_lines(figure, lines, x, y, columns, _STAND_INS)
        return _markup(figure, name)


def line_picture(title: str, lines: Sequence[Line], x: Axis, y: Axis, columns: int = 3) -> bytes:
    """Plot curves under a title, on white, as PNG."""
    out = io.BytesIO()
    with _figure(ON_WHITE) as figure:
        _plot_lines(figure, lines, x, y, columns, ON_WHITE)
        figure.suptitle(title)
        software = {"Software": None}  # its version would change the bytes
        figure.savefig(out, format="png", dpi=_DOTS_PER_INCH, facecolor="white", metadata=software)
    return out.getvalue()


def interval_plot(name: str, rows: Sequence[str], spreads: Sequence[Spread], x: Axis) -> str:
    """Plot estimates with their intervals beside ``rows`` of names, the first on top."""
    with _figure(_STAND_INS) as figure:
        axes = figure.add_subplot()
        for place, spread in enumerate(spreads):
            _whiskers(axes, spread, 0.28 * (place - (len(spreads) - 1) / 2))
        _set_axes(axes, x, Axis("", ticks=range(len(rows)), names=rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(False, axis="y")
        _legend(figure, axes, 3)
        return _markup(figure, name)


def _plot_lines(
    figure: Figure, lines: Sequence[Line], x: Axis, y: Axis, columns: int, palette: Palette
) -> None:
    axes = figure.add_subplot()
    for line in lines:
        _plot_line(axes, line, palette[line.colour])
    _set_axes(axes, x, y)
    _legend(figure, axes, columns)


def _plot_line(axes: Axes, line: Line, colour: str) -> None:
    style: dict[str, Any] = {"color": colour, "linestyle": line.dash}
    style |= {"marker": line.marker, "markersize": 4, "label": line.name}
    if line.step:
        style["drawstyle"] = "steps-post"
    axes.plot(line.x, line.y, **style)
    if line.low is not None and line.high is not None:
        if len(line.x) <= _MOST_WHISKERS:
            axes.vlines(line.x, line.low, line.high, colors=colour, linewidth=1.0)
        else:
            band: dict[str, Any] = {"color": colour, "alpha": 0.18, "linewidth": 0}
            band |= {"step": "post"} if line.step else {}
            axes.fill_between(line.x, line.low, line.high, **band)


def _whiskers(axes: Axes, spread: Spread, shift: float) -> None:
    hollow: dict[str, Any] = {"mfc": "none"} if spread.hollow else {}
    for row, attack, x, low, high in spread.estimates:
        colour = _STAND_INS[attack]
        axes.hlines(row + shift, low, high, colors=colour, linewidth=1.4)
        axes.plot(x, row + shift, spread.marker, color=colour, markersize=6, **hollow)
    ink = _STAND_INS["ink"]
    axes.plot([], [], spread.marker, color=ink, label=spread.name, **hollow)  # for the legend


def _set_axes(axes: Axes, x: Axis, y: Axis) -> None:
    for axis, scale, ticks, limits, label in (
        (x, axes.set_xscale, axes.set_xticks, axes.set_xlim, axes.set_xlabel),
        (y, axes.set_yscale, axes.set_yticks, axes.set_ylim, axes.set_ylabel),
    ):
        if axis.logarithmic:
            scale("log")
            side = axes.xaxis if axis is x else axes.yaxis
            side.set_major_formatter(lambda value, place: f"{value:,.10g}")  # no powers of ten
        if axis.ticks is not None:
            ticks(list(axis.ticks), labels=None if axis.names is None else list(axis.names))
        limits(axis.low, axis.high)
        label(axis.label)
    axes.minorticks_off()
    axes.tick_params(length=0)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    unique = {name: handle for handle, name in zip(handles, names, strict=True)}
    if unique:
        fitting = max(1, _LEGEND_WIDTH // (max(map(len, unique)) + _LEGEND_MARK))
        figure.legend(
            unique.values(), unique.keys(), loc="outside lower center", ncols=min(columns, fitting)
        )


def _style(palette: Palette) -> Any:
    ink = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    return {
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "figure.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.6,
        "grid.color": palette["rule"],
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "text.parse_math": False,
        **dict.fromkeys(ink, palette["ink"]),
    }


@contextmanager
def _figure(palette: Palette) -> Iterator[Figure]:
    """Yield an empty figure in this module's style, whatever the user's settings."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs that it reads this machine's fonts
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Drawing

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_style(palette))
            yield Drawing(figsize=_SIZE, layout="constrained")
    finally:
        log.setLevel(level)


def _markup(figure: Figure, name: str) -> str:
    """Return the figure as an ``svg`` element that takes its size and colours from the page."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = _METADATA.sub("", text[text.index(_STARTS_AT) :])
    text = _EMPTY.sub("", _STYLES.sub("", text))
    text = _ATTRIBUTES.sub(r'<svg class="plot" \1 aria-hidden="true" focusable="false">', text, 1)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for variable, colour in _STAND_INS.items():
        text = text.replace(colour, "currentColor" if variable == "ink" else f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", _FONT.sub("", text)).strip()
