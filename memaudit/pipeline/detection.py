"""Detectors of a scan: those of the settings and of the user's files, and what is in kept columns.

Knows settings, the files and the plan. Knows nothing of models or attacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from memaudit.config.settings import ScanConfig
from memaudit.data.corpus import Corpus
from memaudit.data.forms import REPETITIONS
from memaudit.data.plan import Plan
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.report.wording import shorten
from memaudit.sensitive import presidio
from memaudit.sensitive.categories import ALL, NATIONAL_ID, NO_DETECTOR
from memaudit.sensitive.detectors import Detector, choose_detectors, make_detectors
from memaudit.sensitive.listed_secrets import read_secrets
from memaudit.sensitive.recognizers import read_recognizers

_LONGEST_NAME = 80
"""Characters of a column's name in a note."""
_OWN = ("id", "group", REPETITIONS)
"""Columns of the data that the tables have in any case."""


def load_detectors(config: ScanConfig, key: ProjectKey) -> tuple[Detector, ...]:
    """Return the detectors of the settings and files, in the order in which they claim text.

    Raises UsageError for a file that is not understood, a category without a detector, or a gate
    on a category that is not searched.
    """
    settings = config.sensitive
    if not settings.enabled:
        return ()
    detectors = make_detectors(settings.region)
    if presidio.is_installed() and {ALL, NATIONAL_ID} & {*settings.categories}:
        detectors += (presidio.national_ids(),)
    if settings.recognizers is not None:
        detectors += read_recognizers(settings.recognizers)
    if settings.secrets is not None:
        detectors += read_secrets(settings.secrets, key.sign_file)
    chosen = choose_detectors(detectors, settings.categories)
    by_model = ("name", "address") if settings.entity_model is not None else ()
    require_searched(config, {*by_model, *(detector.category for detector in chosen)})
    return chosen


def require_searched(config: ScanConfig, searched: Collection[str]) -> None:
    """Raise UsageError if a gate limits a category that this run does not search."""
    for category in config.gate.sensitive_limits:
        if category not in searched:
            why = NO_DETECTOR.get(category, "it is no category of this run")
            raise UsageError(
                f"--max-sensitive {category}: this run does not search it ({why}); it searches "
                f"{', '.join(sorted(searched)) or 'nothing'}"
            )


def detection_notes(plan: Plan, detectors: Sequence[Detector]) -> Iterator[str]:
    """Yield notes on recognizers that an extra added, and on what the tables show of columns."""
    if any(detector.kind == "presidio" for detector in detectors):
        yield presidio.note()
    for corpus in (plan.data, plan.controls):
        if corpus is not None:
            columns = _columns(corpus)
            for name, values in columns.items():
                yield from _column_note(name, values, corpus, detectors)


def _columns(corpus: Corpus) -> Mapping[str, Sequence[str]]:
    """Return the columns whose values are in the tables, by name in the data: a value a record."""
    windows, rows = corpus.windows, corpus.first_rows.tolist()
    records = [*(windows.extra[row] for row in rows), *(bad.extra for bad in windows.skipped)]
    ids = [*(windows.sample_id[row] for row in rows), *(bad.sample_id for bad in windows.skipped)]
    return {
        "id": ids,
        "group": [windows.group[row] or "" for row in rows],
        **{name: [record.get(name, "") for record in records] for name in windows.columns},
    }


def _column_note(
    name: str, values: Sequence[str], corpus: Corpus, detectors: Sequence[Detector]
) -> Iterator[str]:
    """Yield a note on what is in a column; for an own one only if something is.

    A column's name stands beside its values as a word does in a sentence.
    """
    label = "" if name in _OWN else f"{name}: "
    texts = [label + value for value in values]
    counted = []
    for detector in detectors:
        spans = detector.find(texts)
        if rows := sum(any(span.end > len(label) for span in row) for row in spans):
            counted.append(f"{detector.title} in {rows:,} of {len(values):,} rows")
    if not counted and (name in _OWN or not any(values)):
        return
    if not detectors:
        counted = ["not searched, as sensitive.enabled = false"]
    where = "samples.csv" if name == "group" else "samples.csv and windows.csv"
    yield (
        f"Column {shorten(name, _LONGEST_NAME)} of {corpus.summary.path.name}: "
        f"{', '.join(counted) or 'nothing recognised'}; it stands in {where}."
    )
