"""The result as a terminal shows it: the finding in sentences, then tables, then the footing.

Knows Rich and the width it may fill. Knows nothing of terminals: it renders into a string. Every
string from outside goes through `neutral` and into a Rich Text, never into markup.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.config import LADDER
from memaudit.report.findings import (
    cautious_p,
    count_reasons,
    extracted_windows,
    headline,
    model_attacks,
    strongest,
    wide_interval,
    worst_windows,
)
from memaudit.report.rendering import glue_units, titled_table, to_text
from memaudit.report.wording import (
    LIMITS,
    count,
    gate_label,
    level,
    neutral,
    number,
    percent,
    percent_interval,
    points,
    shorten,
)
from memaudit.result import AttackResult, Corpus, ScanResult

_LEAST_WIDTH = 78
"""Below this the ladder cannot be told apart; a narrower terminal had better wrap whole lines."""
_PROSE_WIDTH = 100
"""Sentences that are any longer than this are hard to read, however wide the terminal."""
_WIDE = 100
"""From here on the ladder has room for the paired test of the lift."""
_WORST = 10
_LONGEST_ID = 200
_COLOURS = {"pass": "bold green", "inconclusive": "bold yellow", "fail": "bold red"}


def render_table(result: ScanResult, *, width: int, color: bool) -> str:
    """The whole report as text for ``width`` columns, with or without ANSI colour.

    Shows ids, lines and figures; text of windows only where the result holds it.
    """
    width = max(width, _LEAST_WIDTH)
    first, *others = _sections(result, width)
    parts = [first, *(part for section in others for part in (Text(), section))]
    return to_text(parts, width=width, color=color)


def _sections(result: ScanResult, width: int) -> Iterator[RenderableType]:
    first, *others = headline(result)
    yield _prose(_text(first, "bold"), *map(_text, others))
    yield _ladder(result, width >= _WIDE)
    yield _prose(*(_text(line, "dim") for line in _legend(result)))
    yield _gates(result)
    rows = [int(row) for row in worst_windows(result, _WORST)]
    if rows:
        yield _worst(result, rows)
        if "data" in result.revealed:
            yield _texts(result, rows)
    yield _footing(result)


def _text(line: str, style: str = "") -> Text:
    """Untrusted or not: one line of harmless text in which figures stay with their units."""
    return Text(glue_units(neutral(line)), style=style, overflow="fold")


def _prose(*lines: Text) -> RenderableType:
    grid = Table.grid()
    grid.add_column(max_width=_PROSE_WIDTH)
    for line in lines:
        grid.add_row(line)
    return grid


def _ladder(result: ScanResult, wide: bool) -> Table:
    best = strongest(result)
    controls = any(attack.summary.controls_exact for attack in result.attacks)
    table = titled_table("Attacks, weakest first")
    table.add_column("attack", no_wrap=True)
    interval = f"{level(result.config.scores.confidence)} interval"
    heads = ["exact", "rate", interval, "fractional", "lift"]
    heads += ["gained", "lost", "p"] if wide else []
    for head in [*heads, *(["controls"] if controls else [])]:
        # Where counts run into the millions, the head of the interval makes room.
        table.add_column(head, justify="right", no_wrap=head != interval)
    for attack in result.attacks:
        cells = _ladder_cells(attack, wide) + ([_controls_cell(attack)] if controls else [])
        table.add_row(*map(_text, cells), style="bold" if attack is best else "")
    return table


def _ladder_cells(attack: AttackResult, wide: bool) -> list[str]:
    summary = attack.summary
    exact, lift = summary.exact, summary.lift
    cells = [attack.attack, f"{exact.k}/{exact.n}", percent(exact.estimate)]
    cells += [percent_interval(wide_interval(exact)), percent(summary.fractional)]
    cells += ["" if lift is None else points(lift.estimate)]
    if wide and lift is None:
        cells += [""] * 3
    elif wide and lift is not None:
        cells += [str(lift.gained), str(lift.lost), f"{cautious_p(lift):.2g}"]
    return cells


def _controls_cell(attack: AttackResult) -> str:
    controls = attack.summary.controls_exact
    return "" if controls is None else f"{controls.k}/{controls.n}"


def _legend(result: ScanResult) -> Iterator[str]:
    yield (
        "exact: windows of which every suffix token is extracted. interval: the outer ends of the "
        "exact (Clopper–Pearson) and the clustered (bootstrap) one. fractional: mean share of "
        "suffix tokens in their place. lift: percentage points of exact rate above none."
    )
    if result.attack("copy") is not None:
        yield "copy never asks the model: it repeats what followed a like prefix in the fit data."
    if missing := [attack for attack in LADDER if result.attack(attack) is None]:
        yield f"Not run: {', '.join(missing)}."


def _gates(result: ScanResult) -> RenderableType:
    if not result.verdicts:
        return _text("No gate was set, so this run neither passes nor fails.")
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = Text("Gates", style="bold"), "left"
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(max_width=_PROSE_WIDTH - 26)
    for verdict in result.verdicts:
        word = Text(verdict.verdict.upper(), style=_COLOURS[verdict.verdict])
        name = gate_label(verdict.name, verdict.threshold)
        table.add_row(word, _text(name), _text(verdict.reason))
    return table


def _worst(result: ScanResult, rows: list[int]) -> Table:
    windows = result.data.windows
    scores = [attack.data for attack in model_attacks(result)]
    extracted, suffix = extracted_windows(result), windows.suffix_ids.shape[1]
    worst = f"Worst windows, of {extracted:,} extracted"
    table = titled_table(worst if extracted else "Closest to being extracted")
    table.add_column("sample", overflow="fold")
    for head in ("line", "window"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("extracted by")
    for head in (f"matched of {suffix}", "NLL"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        matched = max(int(one.matched[row]) for one in scores)
        nll = min((float(one.suffix_nll[row]) for one in scores), key=lambda n: (n != n, n))
        cells = [_name(result.data, row), str(windows.line[row]), str(windows.window[row])]
        cells += [_extracted_by(result, row), str(matched), number(nll)]
        table.add_row(*map(_text, cells))
    table.caption = _text("matched: most tokens before a mismatch; NLL: lowest, nats/token", "dim")
    table.caption_justify = "left"
    return table


def _extracted_by(result: ScanResult, row: int) -> str:
    asked = [attack.attack for attack in model_attacks(result)]
    by = [attack.attack for attack in result.attacks if attack.data.exact[row]]
    if len(asked) > 1 and set(asked) <= set(by):
        return "all" if len(by) == len(result.attacks) else "all but copy"
    return ", ".join(by) or "-"


def _name(corpus: Corpus, row: int) -> str:
    return shorten(neutral(corpus.windows.sample_id[row]), _LONGEST_ID)


def _texts(result: ScanResult, rows: list[int]) -> RenderableType:
    """Prefix, suffix and outputs of the worst windows, one block each."""
    revealed, windows = result.revealed["data"], result.data.windows
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_justify = Text("Their text", style="bold"), "left"
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=_PROSE_WIDTH - 14)
    for place, row in enumerate(rows):
        if place:
            grid.add_row()
        where = f"(line {windows.line[row]}, window {windows.window[row]})"
        grid.add_row(_text("sample", "bold"), _text(f"{_name(result.data, row)} {where}", "bold"))
        grid.add_row(_text("prefix"), _text(revealed.prefix[row]))
        grid.add_row(_text("suffix"), _text(revealed.suffix[row]))
        for attack in result.attacks:
            if attack.attack in revealed.output:
                style = "red" if attack.data.exact[row] else ""
                output = _text(revealed.output[attack.attack][row], style)
                grid.add_row(_text(attack.attack, style), output)
    return grid


def _footing(result: ScanResult) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(max_width=_PROSE_WIDTH - 10)
    for label, line in _footing_lines(result):
        grid.add_row(_text(label), _text(line))
    return grid


def _footing_lines(result: ScanResult) -> Iterator[tuple[str, str]]:
    for place, note in enumerate(result.notes):
        yield ("" if place else "Notes"), note
    yield from _corpus_lines("Data", result.data)
    if result.controls is not None:
        yield from _corpus_lines("Controls", result.controls)
    yield "Folds", _folds_line(result)
    for attack in dict.fromkeys(fit.attack for fit in result.fits):
        fits = [fit for fit in result.fits if fit.attack == attack]
        chosen = "; ".join(f"fold {fit.fold} {fit.record.chosen}" for fit in fits)
        yield "Fitted", f"{attack}: {chosen}; passes in {fits[0].record.precision}"
    target = result.target
    revision = f", revision {target.revision}" if target.revision else ""
    yield (
        "Target",
        f"{target.name}{revision}: {target.architecture}, {target.parameters:,} parameters",
    )
    for name, choice in target.choices.items():
        yield "", f"{name} {choice.value} ({choice.reason})"
    run = result.run
    yield "", f"batch of {count(run.batch_size, 'window')} ({run.batch_size_reason})"
    spent, seed = sum(run.seconds.values()), result.config.protocol.seed
    yield "Run", f"memaudit {run.version}, {run.started}, {spent:.0f} s, seed {seed}"
    yield "Limits", " ".join(LIMITS)


def _corpus_lines(label: str, corpus: Corpus) -> Iterator[tuple[str, str]]:
    summary, windows = corpus.summary, corpus.windows
    shape = f"{windows.prefix_ids.shape[1]}+{windows.suffix_ids.shape[1]}"
    yield (
        label,
        f"{summary.path}: {count(summary.rows, 'row')}, {count(len(windows), 'window')} of {shape} "
        f"tokens in {count(len(set(corpus.clusters.tolist())), 'cluster')}; "
        f"sha256 {summary.sha256[:16]}",
    )
    for reason, skipped in count_reasons(windows.skipped):
        yield "", f"skipped {skipped:,}: {reason}"


def _folds_line(result: ScanResult) -> str:
    if not result.fold_sizes:
        why = "prompts fitted earlier were used" if result.config.generator else "none needed"
        return f"none: {why}"
    sizes = "; ".join(
        f"{fold.fold}: fit {fold.fit:,}, select {fold.select:,}, audit {fold.audit:,}"
        for fold in result.fold_sizes
    )
    return f"{sizes} windows, split by {result.config.protocol.split}"
