"""The brief: one page for a manager, with five sentences, one picture and what to do next.

Knows the report and the page's style. Knows nothing of windows: whoever needs more reads the page
or the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from markupsafe import Markup

from memaudit.report.charts import rates_card
from memaudit.report.findings import (
    controls_sentence,
    extent_sentence,
    given_away,
    group_sentences,
    plain_sentence,
    sensitive_sentence,
    union_sentence,
)
from memaudit.report.model import Report
from memaudit.report.page import fill
from memaudit.report.reading import limits_of, model_attacks, verdict, void_reason

_MOST_OF = 0.9
"""Share of the tokens from which the records count as tested whole."""
_FEW_CONTROLS = 100
"""Controls below which even no hit leaves a rate of more than 3 % possible."""


def to_brief(report: Report) -> str:
    """Return the page as HTML: self-contained, without scripts and without audited text."""
    word, sentence = verdict(report)
    return fill(
        "brief.html.jinja",
        report=report,
        name=PurePath(report.target.name).name,
        word=word,
        verdict=sentence,
        sentences=sentences(report),
        steps=next_steps(report),
        card=rates_card(report),
        svg=Markup,
    )


def sentences(report: Report) -> tuple[tuple[str, str], ...]:
    """Return the five answers with their questions: what, of what kind, how sure, what not, so?"""
    together = report.any
    if together is None or not together.extracted.n:
        leaked = kind = report.headline[-1]
    else:
        leaked = _leaked(report)
        kind = " ".join([sensitive_sentence(report), *group_sentences(report)])
    return (
        ("What leaked?", leaked),
        ("What does it hold?", kind),
        ("How sure is that?", controls_sentence(report)),
        ("What was tested?", f"{extent_sentence(report)} {report.limits[0]}"),
        ("Does the run pass?", verdict(report)[1]),
    )


def _leaked(report: Report) -> str:
    if void := void_reason(report):
        return f"The rates of this run mean nothing. {void}"
    parts = (plain_sentence(report), union_sentence(report))
    return " ".join(part for part in parts if part)


def next_steps(report: Report) -> tuple[str, ...]:
    """Return what to do next, the most urgent first."""
    return tuple(_steps(report))


def _steps(report: Report) -> Iterator[str]:
    if void_reason(report):
        yield "Mend what made the run void, and scan again: its rates show nothing."
        return
    together = report.any
    hits = 0 if together is None else together.extracted.k
    if hits:
        yield (
            "Do not release these weights before the records that come out were looked at: "
            "samples.csv lists them (columns extracted_…), with their lines in the data file."
        )
    if given_away(report):
        yield (
            "Tell whoever answers for data protection: what comes out holds sensitive content, by "
            "category in report.html."
        )
    if hits:
        yield (
            "Remove or mask these records, remove duplicates, train again with fewer epochs or "
            "repetitions, and scan again; memaudit compare shows what changed."
        )
    if report.controls is None:
        yield (
            "Give text that the model has not seen (--controls): without it, memorized and "
            "merely predictable text cannot be told apart."
        )
    elif report.controls.used < _FEW_CONTROLS:
        yield f"Give more controls: {report.controls.used:,} say little about predictable text."
    if not any(attack.fits for attack in model_attacks(report)):
        yield "Run the trained prompts too (--profile standard): they bring out more."
    if report.data.audited_tokens < _MOST_OF * report.data.tokens:
        yield "Test the rest of the records too (--placement sliding)."
    if not limits_of(report):
        yield "Set a limit (such as --max-any 0.01), so that the next scan can pass or fail."
    yield "Keep this run as the baseline of the next: memaudit baseline write."
