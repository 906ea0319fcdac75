"""Sections of a report: pure functions from a finished run's report and samples to blocks.

Knows the content, the same in every format. Knows nothing of formats: each renderer neutralises
the text, and chooses the sections and how many windows it can bear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from memaudit.config.settings import PREFIX_ONLY, attack_label
from memaudit.report.blocks import Facts, Head, Table
from memaudit.report.groups import group_rows
from memaudit.report.leaks import leak_rows
from memaudit.report.model import Origin, Report
from memaudit.report.model_parts import AnyAttack, Attack
from memaudit.report.reading import (
    best,
    cautious_p,
    check_state,
    checks_of,
    confidence,
    controls_rate,
    count_text,
    extracted_by,
    gate_name,
    has_reference,
    hits,
    interval_text,
    ladder_rows,
    left_out,
    lift_texts,
    limits_of,
    not_run,
    origin_words,
    p_text,
    passed_through,
    rate_text,
    revealed_texts,
    scored,
    strongest,
    worst_rows,
)
from memaudit.report.wording import count, level, neutral, points_interval, shorten
from memaudit.score.estimate import MISSING, Unit, number, percent

_LONGEST_CELL = 80
"""Characters of a text from the data in a wide table or a title."""
_LONGEST_ID = 200
_MOST_PASSED = 6
"""Columns of the data in the page's table."""
_MOST_CONTROLS = 100
_ANY = "any: by at least one attack on the model."
_COPY = "copy never queries the model: it repeats what followed a similar prefix in the fit data."


def gates(report: Report) -> list[Table]:
    """Return the gates with their verdicts and reasons, if a limit was set, then the checks."""
    why = Head("why", style="prose")
    judged = [[gate_name(gate), gate.verdict, gate.reason] for gate in limits_of(report)]
    checked = [[gate.name, check_state(gate), gate.reason] for gate in checks_of(report)]
    heads = [Head("gate"), Head("verdict", style="verdict"), why]
    tables = [Table("gates", "Gates", "", heads, judged)] if judged else []
    heads = [Head("check"), Head("state", style="state"), why]
    return [*tables, *([Table("checks", "Checks", "", heads, checked)] if checked else [])]


def ladder(report: Report) -> Table:
    """Return the attacks, weakest first, with rates, lift and the difference from the controls."""
    attacks = ladder_rows(report)
    strong = strongest(report)
    columns = [
        Head("attack"),
        Head("extracted", "count", "samples of which a window comes out whole"),
        Head("rate", "share"),
        Head(
            f"{level(confidence(report))} interval",
            "share",
            "the outer ends of the exact (Clopper–Pearson) and clustered (bootstrap) intervals",
        ),
        Head("fractional", "share", "mean share of suffix tokens extracted in place"),
        Head("NLL", "nats", "mean, nats/token", 3),
        Head("lift", "points", f"rate above that of {PREFIX_ONLY}, in percentage points"),
        Head("gained", "count", "samples extracted, but not by the prefix alone", 1),
        Head("lost", "count", "samples that the prefix alone extracts and this attack does not", 1),
        Head("p", "p", "the larger p-value of two paired tests of the lift", 1),
    ]
    rows = [_ladder_row(attack) for attack in attacks]
    if any(attack.exact != attack.extracted for attack in attacks):
        columns.insert(4, Head("whole", "count", "samples of which every audited token comes out"))
        for row, attack in zip(rows, attacks, strict=True):
            row.insert(4, count_text(attack.exact))
    if any(controls_rate(attack) for attack in attacks):
        above = "interval of the difference from the controls' rate, in percentage points"
        columns += [
            Head("controls", "count"),
            Head("above controls", "points", above, 2),
            Head("p of that", "p", "two-sided p-value of that difference", 2),
        ]
        rows = [row + _above_controls(attack) for row, attack in zip(rows, attacks, strict=True)]
    missing = not_run(report)
    says = [_ANY] if len(attacks) > len(report.attacks) else []
    says += [_COPY] if any(attack.attack == "copy" for attack in attacks) else []
    impossible = left_out(report)
    unasked = [name for name in missing if name not in impossible]
    says += [f"Not run: {', '.join(unasked)}."] if unasked else []
    says += [f"Could not run, for lack of folds: {', '.join(impossible)}."] if impossible else []
    place = None if strong is None else attacks.index(strong)
    return Table("attacks", "Attacks, weakest first", "\n".join(says), columns, rows, place)


def _ladder_row(attack: Attack | AnyAttack) -> list[str]:
    rate = attack.extracted
    name = attack_label(attack.attack)
    row = [name, count_text(rate), rate_text(rate), interval_text(rate.interval)]
    if isinstance(attack, AnyAttack):
        return [*row, "", "", *lift_texts(None)]
    means = [percent(attack.fractional.estimate), number(attack.suffix_nll)]
    return [*row, *means, *lift_texts(attack.lift)]


def _above_controls(attack: Attack | AnyAttack) -> list[str]:
    cells = [count_text(controls_rate(attack))]
    difference = attack.controls and attack.controls.difference
    if not difference:
        return [*cells, "", ""]
    ends = difference.interval.ends
    interval = MISSING if math.isnan(sum(ends)) else points_interval(ends)
    return [*cells, interval, p_text(difference.p_value)]


def origins(report: Report) -> list[Table]:
    """Return the samples known before the fine-tuning or leaked by it, for data and controls.

    With one attack, the equal row of all attacks together is left out.
    """
    if report.reference is None:
        return []
    both = {
        "data": ("Known before the fine-tuning, or leaked by it", report.reference.data),
        "controls": ("The same for the controls", report.reference.controls or ()),
    }
    parts = [part for part, (_, attacks) in both.items() if attacks]
    tables = []
    for part in parts:
        title, attacks = both[part]
        distinct = attacks[:-1] if len(attacks) == 2 else attacks
        rows = [_origin_row(origin) for origin in distinct]
        heads = [replace(h, about=h.about if part == parts[-1] else "") for h in _ORIGIN_HEADS]
        tables.append(Table(f"origin-{part}", title, "", heads, rows))
    return tables


_ORIGIN_HEADS = (
    Head("attack"),
    Head("known before", "count", "samples also extracted from the reference"),
    Head("leaked", "count", "by the fine-tuning, extracted from this model alone"),
    Head("forgotten", "count", "extracted from the reference alone"),
    Head("neither", "count"),
    Head("share", "share", "leaked samples, of all"),
    Head("interval", "share", "the outer ends of the exact and clustered intervals"),
    Head("p", "p", "leaked against forgotten, the larger of two paired tests"),
    Head("NLL before", "nats", "mean over the suffixes on the reference, nats/token", 1),
    Head("NLL now", "nats", "on this model", 1),
    Head("change", "nats", "from before to now", 1),
    Head("interval of the change", "nats", "over clusters", 1),
)


def _origin_row(origin: Origin) -> list[str]:
    leaked, nll = origin.leaked, origin.suffix_nll
    low, high = map(_signed, nll.interval.ends)
    return [
        attack_label(origin.attack),
        *map(str, (origin.known_before, leaked.k, origin.forgotten, origin.neither)),
        rate_text(leaked),
        interval_text(leaked.interval),
        p_text(cautious_p(origin)),
        number(nll.reference),
        number(nll.target),
        _signed(nll.change),
        f"{low} to {high}",
    ]


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "-"


def leaks(report: Report) -> list[Table]:
    """Return the sensitive categories by sample, then the groups; empty if there are none."""
    attacks, rows, missing = leak_rows(report.sensitive)
    holding = "those with an item of the category in a suffix that its prompt does not hold"
    columns = [
        Head("category"),
        Head("samples", "count", holding),
        Head("extracted", "count", "of them, by at least one attack on the model; then by each"),
        *(Head(attack, "count") for attack in attacks),
    ]
    says = f"Not searched: {missing}." if missing else ""
    title = "Sensitive content that comes out, by sample"
    table = [Table("sensitive", title, says, columns, rows)] if rows else []
    return [*table, *group_rows(report)]


def worst_windows(
    report: Report, windows: pd.DataFrame, most: int, *, page: bool = False
) -> list[Table]:
    """Return the worst windows, up to ``most``; empty if no attack gets a token of any.

    page: with all scores, columns of the data, and then the extracted controls.
    """
    data, controls = scored(windows, "data"), scored(windows, "control")
    worst = data.iloc[worst_rows(report, data, most)]
    wrong = controls.iloc[worst_rows(report, controls, _MOST_CONTROLS)]
    wrong = wrong.iloc[np.flatnonzero(hits(report, wrong).any(axis=0) & page)]
    if not page and not len(worst):
        return []
    names = passed_through(windows) if page else []
    says = f"The worst {count(len(worst), 'window')} of {len(data):,}"
    says += f", and {count(len(wrong), 'extracted control')}" if len(wrong) else ""
    left, names = len(names) - _MOST_PASSED, names[:_MOST_PASSED]
    says += f"; {count(left, 'column')} of the data left out" if left > 0 else ""
    extracted = int(hits(report, data).any(axis=0).sum())
    title = f"Worst windows, of {extracted:,} extracted"
    columns = list(_window_columns(report, pd.concat([worst, wrong]), page))
    for name in names:
        unit: Unit = "number" if _is_numeric(windows[name]) else "text"
        texts = [shorten(text, _LONGEST_CELL) for part in (worst, wrong) for text in part[name]]
        columns.append((Head(shorten(name, _LONGEST_CELL), unit), texts))
    return [
        Table(
            "samples",
            title if extracted else "Closest to being extracted",
            f"{says}. windows.csv holds all rows.",
            [head for head, _ in columns],
            list(zip(*(cells for _, cells in columns), strict=True)),
        )
    ]


def _window_columns(
    report: Report, rows: pd.DataFrame, page: bool
) -> Iterator[tuple[Head, list[str]]]:
    """Yield each column with the cells of the rows. page: with all scores."""
    longest = _LONGEST_CELL if page else _LONGEST_ID
    names = [shorten(neutral(name), longest) for name in rows["sample_id"]]
    yield Head("sample", style="id"), names
    for name in ("line", "window"):
        yield Head(name, "count"), [*map(str, rows[name])]
    if page:
        yield Head("role"), [*rows["role"]]
    yield Head("extracted by"), [extracted_by(report, row) for row in rows.to_dict("records")]
    if has_reference(report):
        yield Head("known from"), origin_words(report, rows)
    matched = f"matched of {report.data.suffix_tokens}"
    scores = [(Head(matched, "count", "most tokens before a mismatch"), "matched", 0)]
    if page:
        scores += [(Head("longest run", "count"), "longest_run", 0)]
        right = "largest share of the suffix in place"
        scores += [(Head("tokens right", "share", right), "fractional", 2)]
    scores += [(Head("NLL", "nats", "lowest, nats/token"), "suffix_nll", 3 if page else 2)]
    for head, score, digits in scores:
        values = best(report, rows, score, least=score == "suffix_nll")
        yield head, [number(value, digits) for value in values]
    if page:
        needed = "samples needed for an even chance to see the suffix"
        head = Head("samples for p = 0.5", "number", needed)
        yield head, [*map(_samples_needed, rows["queries_p50"])]


def _samples_needed(needed: float) -> str:
    if math.isnan(needed):
        return "-"
    if math.isinf(needed):
        return "∞"
    return f"{needed:.0f}" if needed < 1e6 else f"{needed:.1e}"


def _is_numeric(column: pd.Series[Any]) -> bool:
    texts = column[column != ""]
    return len(texts) > 0 and bool(pd.to_numeric(texts, errors="coerce").notna().all())


def revealed(report: Report, windows: pd.DataFrame, most: int) -> list[Facts]:
    """Return the text of the worst windows, up to ``most``; empty unless the run revealed it."""
    texts = revealed_texts(report, windows)
    rows = scored(windows, "data")
    worst = rows.iloc[worst_rows(report, rows, most) if texts else np.arange(0)]
    return [
        Facts(
            f"{shorten(neutral(row['sample_id']), _LONGEST_CELL)}, line {row['line']}, "
            f"window {row['window']}: extracted by {extracted_by(report, row)}",
            [(name, row[column]) for name, column in texts],
        )
        for row in worst.to_dict("records")
    ]


_MEASURED = {"tested": "measured", "partly": "measured in part", "not tested": "not measured"}
"""Words that nobody reads as passed or failed."""


def frameworks(report: Report) -> Table:
    """Return what each framework asks for, and what this run measured of it."""
    heads = [*map(Head, ("framework", "reference", "asks for", "this run"))]
    heads += [Head("what was done", style="prose")]
    rows = [
        [row.framework, row.reference, row.asks, _MEASURED[row.tested], row.did]
        for row in report.frameworks
    ]
    title = "What frameworks ask for, and what this run measured of it"
    return Table("frameworks", title, "", heads, rows)
