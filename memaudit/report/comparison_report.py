"""Comparison of a run with a baseline, in every format of ``compare``.

Knows comparisons and the place of a fingerprint's sample. Knows nothing of files or terminals, and
shows no text of any sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.text import Text

from memaudit.gate.baseline import ModelName, notes
from memaudit.gate.comparison import ANY, Change, ChangedSample, Comparison
from memaudit.report.blocks import Facts, Head, Table
from memaudit.report.ci import Case, junit_suite
from memaudit.report.markdown import blocks_to_markdown
from memaudit.report.terminal import LEAST_WIDTH, harmless, prose, render_blocks, to_text
from memaudit.report.wording import SCHEMA_VERSION, count, json_text, level, neutral, shorten

_COUNTS = ("before", "now", "newly", "no longer", "unchanged")
_LONGEST_ID = 200
_MOST_ROWS = 20
"""Samples listed in the table; JSON lists all."""
_STYLES = {"none": "bold green", "inconclusive": "bold yellow", "regression": "bold red"}
_WORDS = {
    "none": "NO REGRESSION",
    "inconclusive": "INCONCLUSIVE",
    "regression": "REGRESSION",
}


_VERDICTS = {"none": "pass", "inconclusive": "inconclusive", "regression": "fail"}


class Place(NamedTuple):
    """Place of a sample in the data."""

    sample_id: str
    line: int
    cluster: int


def render_comparison(
    comparison: Comparison, places: Mapping[str, Place], *, width: int, color: bool
) -> str:
    """Render the comparison in ``width`` columns. ``places``: fingerprint to place in the run."""
    word = Text(_WORDS[comparison.outcome], style=_STYLES[comparison.outcome])
    verdict = prose(Text.assemble(word, "  ", harmless(comparison.reason)))
    blocks = _blocks(comparison, places)
    return to_text([verdict, Text()], width=max(width, LEAST_WIDTH), color=color) + render_blocks(
        blocks, width=width, color=color
    )


def comparison_to_markdown(comparison: Comparison, places: Mapping[str, Place]) -> str:
    """Return the comparison for the summary of a CI step or a pull request."""
    title = f"memaudit compare: {comparison.run.model.name}"
    word = _VERDICTS[comparison.outcome]
    sentence = f"{_WORDS[comparison.outcome].capitalize()}. {comparison.reason}"
    return blocks_to_markdown(word, title, sentence, _blocks(comparison, places))


def comparison_to_junit(comparison: Comparison, started: str) -> str:
    """Return one suite with one case. started: when the run began."""
    case = Case("no regression", _VERDICTS[comparison.outcome], comparison.reason)
    before, now = comparison.baseline, comparison.run
    properties = {
        "memaudit": now.version,
        "model": now.model.name,
        "model.baseline": before.model.name,
        "newly_extracted": str(len(comparison.new)),
        "newly_extracted_only_run": str(len(comparison.new_only_run)),
        "no_longer_extracted": str(len(comparison.lost)),
    }
    return junit_suite("memaudit compare", [case], properties, started)


def comparison_to_json(comparison: Comparison, places: Mapping[str, Place]) -> str:
    """Return the comparison as JSON: ASCII, indented, ending in a line end."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "verdict": comparison.outcome,
        "reason": comparison.reason,
        "exit_code": comparison.exit_code,
        "models": {
            "baseline": _model(comparison.baseline.model, comparison.baseline.version),
            "run": _model(comparison.run.model, comparison.run.version),
            "changed": comparison.baseline.model.sha256 != comparison.run.model.sha256,
            "changed_files": _changed_files(comparison),
        },
        "terms": {
            "data_hmac_sha256": comparison.run.terms.data,
            "controls_hmac_sha256": comparison.run.terms.controls,
            "config_sha256": comparison.run.terms.config_hash,
            "key_id": comparison.run.terms.key_id,
            "bos": comparison.run.terms.bos,
        },
        "notes": list(notes(comparison.baseline, comparison.run)),
        "samples": {
            "both": comparison.overlap.both,
            "only_baseline": comparison.overlap.only_baseline,
            "extracted_only_baseline": comparison.overlap.extracted_only_baseline,
            "only_run": comparison.overlap.only_run,
            "newly_extracted_only_run": len(comparison.new_only_run),
        },
        "test": "exact McNemar test, two-sided, samples independent",
        "clustered_test": "exact sign test over clusters, two-sided",
        "confidence": comparison.confidence,
        "attacks": [_change(change) for change in comparison.changes],
        "newly_extracted": [_sample(sample, places) for sample in comparison.new],
        "newly_extracted_only_run": [_sample(sample, places) for sample in comparison.new_only_run],
        "no_longer_extracted": [_sample(sample, places) for sample in comparison.lost],
        "by_other_attacks": [
            _sample(sample, places) for sample in comparison.changed if sample.before and sample.now
        ],
    }
    return json_text(document)


def _model(model: ModelName, version: str) -> dict[str, str]:
    return {"name": model.name, "sha256": model.sha256, "memaudit": version}


def _changed_files(comparison: Comparison) -> list[str] | None:
    """Return the model files that differ; None where one side knows only the digest."""
    before, now = comparison.baseline.model.files, comparison.run.model.files
    if before is None or now is None:
        return None
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _change(change: Change) -> dict[str, Any]:
    return {
        "attack": change.attack,
        "before": change.before,
        "now": change.now,
        "newly_extracted": change.new,
        "no_longer_extracted": change.lost,
        "unchanged_extracted": change.unchanged,
        "unchanged_not_extracted": change.neither,
        "clusters_worse": change.worse,
        "clusters_better": change.better,
        "p_value": change.p_value,
        "clustered_p_value": change.clustered_p_value,
        "adjusted_p_value": change.adjusted,
    }


def _sample(sample: ChangedSample, places: Mapping[str, Place]) -> dict[str, Any]:
    place = places[sample.fingerprint]
    return {
        "fingerprint": sample.fingerprint,
        "sample_id": place.sample_id,
        "line": place.line,
        "cluster": place.cluster,
        "before": list(sample.before),
        "now": list(sample.now),
    }


def _blocks(comparison: Comparison, places: Mapping[str, Place]) -> Iterator[Table | Facts]:
    yield _ladder(comparison)
    for title, samples, heading in (
        ("Newly extracted", comparison.new, "extracted by"),
        ("Extracted and added to the data", comparison.new_only_run, "extracted by"),
        ("No longer extracted", comparison.lost, "was extracted by"),
    ):
        if samples:
            yield _listed(title, samples, heading, places)
    yield Facts("", list(_provenance_lines(comparison)))


def _ladder(comparison: Comparison) -> Table:
    rows = [
        [
            change.attack,
            *map(str, (change.before, change.now, change.new, change.lost, change.unchanged)),
            f"{change.adjusted:.2g}",
        ]
        for change in comparison.changes
    ]
    tests = len(comparison.changes)
    times = f", times {tests} for as many tests" if tests > 1 else ""
    together = " any: by at least one attack on the model." if tests > 1 else ""
    return Table(
        "changes",
        f"Samples extracted, of {comparison.overlap.both:,} in both",
        f"unchanged: extracted both times.{together} p: two-sided, the larger of the exact "
        f"McNemar test over samples and the exact sign test over clusters{times}; a change "
        f"for the worse is a regression if significant at {level(comparison.confidence)} "
        "confidence.",
        [Head("attack"), *(Head(name, "count") for name in _COUNTS), Head("p", "p")],
        rows,
        next((n for n, change in enumerate(comparison.changes) if change.attack == ANY), None),
    )


def _listed(
    title: str, samples: tuple[ChangedSample, ...], heading: str, places: Mapping[str, Place]
) -> Table:
    clusters = len({places[sample.fingerprint].cluster for sample in samples})
    spread = f"{count(len(samples), 'sample')} in {count(clusters, 'cluster')}"
    rows = []
    for sample in samples[:_MOST_ROWS]:
        place = places[sample.fingerprint]
        name = shorten(neutral(place.sample_id), _LONGEST_ID)
        attacks = ", ".join(sample.now or sample.before)
        rows.append([name, str(place.line), attacks])
    heads = [Head("sample", style="id"), Head("line", "count")]
    more = len(samples) - _MOST_ROWS
    says = f"and {more:,} more; --format json lists all" if more > 0 else ""
    return Table("samples", f"{title}: {spread}", says, [*heads, Head(heading)], rows)


def _provenance_lines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    before, now = comparison.baseline, comparison.run
    yield "Model", f"before: {before.model.name}, sha256 {before.model.sha256[:16]}"
    yield "", f"now: {now.model.name}, sha256 {now.model.sha256[:16]}"
    if before.model.sha256 == now.model.sha256:
        yield "", "unchanged: both runs audited the same model files"
    elif files := _changed_files(comparison):
        yield "", f"changed: {', '.join(files)}"
    for note in notes(before, now):
        yield "Note", note
    if before.version != now.version:
        yield "Tool", f"memaudit {before.version} before, {now.version} now"
    terms = now.terms
    yield (
        "Data",
        f"hmac-sha256 {terms.data[:16]}, {count(now.samples, 'sample')}; key {terms.key_id}",
    )
