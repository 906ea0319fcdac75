"""report.html: the whole result as one self-contained page.

Knows the template and its values. Every string is neutralised, then escaped by the template; only
the plots, which hold no string from outside, enter as markup. The page's content security policy
forbids all external content, and allows its one script by hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from memaudit.report.diagnosis import DiagnosisRecord
from memaudit.report.page_diagnoses import diagnosis_sections
from memaudit.report.page_evidence import framework_rows, leak_cards, origin_cards
from memaudit.report.page_figures import matched_card, rates_card, sampling_cards, training_cards
from memaudit.report.page_groups import group_cards
from memaudit.report.page_tables import (
    attack_table,
    provenance,
    revealed_windows,
    sample_table,
    settings_rows,
)
from memaudit.report.reading import gate_name, not_run, verdict
from memaudit.report.report_json import Document
from memaudit.report.wording import neutral, shorten

_LONGEST_STRING = 4_000
_MOST_NOTES = 200
_FILES = resources.files("memaudit.report").joinpath("html")


def to_html(
    document: Document, samples: pd.DataFrame, diagnoses: tuple[DiagnosisRecord, ...] = ()
) -> str:
    """Return the page. The same run gives the same bytes. Shows audited text only if revealed."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    script = _read("sort.js")
    word, sentence = verdict(document)
    head, attacks = attack_table(document)
    return environment.from_string(_read("page.html.jinja")).render(
        document=document,
        word=word,
        sentence=sentence,
        gates=[(gate_name(gate), gate["verdict"], gate["reason"]) for gate in document["gates"]],
        notes=document["notes"][:_MOST_NOTES],
        first=[rates_card(document), matched_card(document, samples)],
        attack_head=head,
        attack_rows=attacks,
        not_run=not_run(document),
        leaks=[*origin_cards(document), *leak_cards(document)],
        cards=[*sampling_cards(document, samples), *group_cards(document, samples)],
        frameworks=framework_rows(document),
        training=list(training_cards(document)),
        diagnoses=diagnosis_sections(diagnoses),
        table=sample_table(document, samples),
        revealed=revealed_windows(document, samples),
        facts=provenance(document),
        settings=settings_rows(document),
        style=Markup(_read("style.css")),
        script=Markup(script),
        script_hash=Markup(_hash(script)),
        svg=Markup,
    )


def _read(name: str) -> str:
    return _FILES.joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """Return the name of a script in a content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _harmless(value: Any) -> Any:
    """Neutralise and shorten a string before the template escapes it."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return shorten(neutral(value), _LONGEST_STRING)
    return value
