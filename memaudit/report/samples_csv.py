"""samples.csv: one row per window, and one per record without windows (contract, section 2).

Knows the columns and how to make a cell harmless. Knows nothing of files: write the text as UTF-8
without newline translation.

Likelihoods have up to two significant digits and two decimals, unless text is revealed: with six,
anyone who has the model could tell which of a few thousand guesses was in the data.

``sample_id``, ``reason``, ``categories`` and the columns passed through are quoted text. A
spreadsheet would run a cell that starts with ``=``, ``+``, ``-``, ``@``, one of their other forms,
a TAB or a CR, and some split cells at ``;`` or ``|``, quoted or not. So text with such a start,
also after blanks and quotation marks, gets an apostrophe before it, and so does such a start after
each ``;`` or ``|``. A number (``-1``, ``+3.5e2``) gets none. A start that already has apostrophes
gets one more, so that removing one always restores the text. JSON lines (`to_jsonl`) need none of
this.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd

from memaudit.config.settings import LADDER
from memaudit.data.corpus import Corpus
from memaudit.data.samples import Skipped
from memaudit.data.windows import Windows
from memaudit.report.leaks import named_counts
from memaudit.report.result import Revealed, ScanResult
from memaudit.report.wording import SCHEMA_VERSION, json_text, neutral, shorten
from memaudit.score.sampling import queries
from memaudit.score.scores import WindowScores, best_edit_similarity, best_log_p_z
from memaudit.score.stats import Floats
from memaudit.sensitive.counting import Counts
from memaudit.sensitive.detectors import Category

_PLACE = ("schema_version", "role", "sample_id", "line", "window", "fingerprint")
_SPLIT = ("cluster", "fold")
_STATE = ("status", "reason", "prefix_tokens", "suffix_tokens")
LONGEST_PASSED = 200
"""Characters of a value passed through, unless text is revealed."""
LONGEST_NAME = 80
"""Characters of a column's name, so that the header can be read back."""
_SCORES = ("exact", "fractional", "matched", "longest_run", "suffix_nll", "log_p_z")
_DECIMALS, _DIGITS = 2, 2
"""Decimals and significant digits of a window's likelihood, unless text is revealed."""
_SUFFIXES = tuple(attack.replace("-", "_") for attack in LADDER)
_ON_REFERENCE = ("exact", "fractional", "suffix_nll")
_ASKING = tuple(attack for attack in LADDER if attack != "copy")
"""Attacks that query a model, and so the reference too."""
TEXTS = ("text_prefix", "text_suffix", *(f"text_{attack}" for attack in _SUFFIXES))
"""Columns after these if text is revealed."""

COLUMNS = (
    *_PLACE,
    *_SPLIT,
    *_STATE,
    *(f"{score}_{attack}" for attack in _SUFFIXES for score in _SCORES),
    "edit_similarity",
    "queries_p50",
    "categories",
    *(
        f"reference_{score}_{attack.replace('-', '_')}"
        for attack in _ASKING
        for score in _ON_REFERENCE
    ),
)
"""Columns of every file, in order."""

_OTHER_FORMS = "\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
_RUN_BY_SPREADSHEETS = (*"=+-@", *_OTHER_FORMS, "\t", "\r")
"""Starts of a formula: ASCII, full-width and small signs, and the minus sign (OWASP, CSV
injection)."""
_RISKY = tuple(neutral(start) for start in _RUN_BY_SPREADSHEETS)
_CELL_SEPARATOR = re.compile(r"([;|])")
"""Cell separators in locales with a decimal comma."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def columns(result: ScanResult) -> tuple[str, ...]:
    """Return the header: `COLUMNS`, text if revealed, and the columns passed through."""
    texts = TEXTS if result.revealed else ()
    return (*COLUMNS, *texts, *_passed_through(result).values())


def iter_csv(result: ScanResult) -> Iterator[str]:
    """Yield the file line by line (RFC 4180), so that it is never held whole.

    The header is first, then data, then controls, each in the order of its file.
    """
    names = columns(result)
    texts = [_is_text(name) for name in names]
    yield _header_line(names)
    for row in _rows(result):
        cells = zip(row, texts, strict=True)
        yield _line(_quoted(text) if is_text else text for text, is_text in cells)


def _is_text(name: str) -> bool:
    """True if a column holds text from the data."""
    return name not in COLUMNS or name in ("sample_id", "reason", "categories")


def _header_line(names: Iterable[str]) -> str:
    own = {*COLUMNS, *TEXTS}
    return _line(name if name in own else _quoted(name) for name in names)


def _quoted(text: str) -> str:
    """Quote a cell; a blank one stays blank."""
    return '"' + text.replace('"', '""') + '"' if text else ""


def _line(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\r\n"


@dataclass(frozen=True, eq=False)
class _Part:
    """Everything needed for the rows of one role."""

    role: str
    corpus: Corpus
    fingerprints: tuple[str, ...]
    """Fingerprints, length N."""
    scores: Mapping[str, WindowScores]
    similarity: Floats | None
    """(N,), best attack; None if no attack queried the model."""
    queries: Floats | None
    """(N,), as above."""
    counts: Counts | None
    """(N,C) sensitive content; None if nothing was searched."""
    categories: tuple[Category, ...]
    """Columns of counts."""
    reference: Mapping[str, WindowScores]
    """Attack to scores of the same windows on the reference; empty without one."""
    revealed: Revealed | None
    has_texts: bool
    """True if the file has text columns."""


def to_csv(samples: pd.DataFrame) -> str:
    """Restore the file from the table that was read back, byte for byte."""
    cells = [_cells(str(name), samples[name]) for name in samples.columns]
    header = _header_line(cell(str(name)) for name in samples.columns)
    return header + "".join(map(_line, zip(*cells, strict=True)))


def _cells(name: str, column: pd.Series[Any]) -> list[str]:
    """Return a column's cells as in the file."""
    if pd.api.types.is_float_dtype(column.dtype):
        return [_figure(value) for value in column.tolist()]
    if pd.api.types.is_numeric_dtype(column.dtype):
        return ["" if value is pd.NA else str(value) for value in column.tolist()]
    cells = [cell(text) for text in column.tolist()]
    return [_quoted(text) for text in cells] if _is_text(name) else cells


def to_jsonl(samples: pd.DataFrame) -> str:
    """Return the rows of the table that was read back, as JSON lines with the data's own text.

    Control characters stay visible escapes. Numbers that are not finite are null.
    """
    names = [str(name) for name in samples.columns]
    columns = [_json_values(samples[name]) for name in samples.columns]
    rows = zip(*columns, strict=True)
    return "".join(json_text(dict(zip(names, row, strict=True)), indent=None) for row in rows)


def _json_values(column: pd.Series[Any]) -> list[Any]:
    if pd.api.types.is_float_dtype(column.dtype):
        return [value if math.isfinite(value) else None for value in column.tolist()]
    return [None if value is pd.NA else value for value in column.tolist()]


def _rows(result: ScanResult) -> Iterator[list[str]]:
    names = tuple(_passed_through(result))
    for part in _parts(result):
        windows = part.corpus.windows
        # Merge windows and skipped records into file order. Ids decide for a folder, where every
        # line is 1 and the ids are the sorted paths.
        rows = (_window_row(part, i, names) for i in _file_order(windows))
        places = ((windows.line[i], windows.sample_id[i]) for i in _file_order(windows))
        skipped = sorted(windows.skipped, key=lambda record: record.line)
        bad = (_skipped_row(part, record, names) for record in skipped)
        merged = heapq.merge(
            zip(places, rows, strict=True),
            zip(((record.line, record.sample_id) for record in skipped), bad, strict=True),
            key=lambda pair: pair[0],
        )
        yield from (row for _, row in merged)


def _parts(result: ScanResult) -> Iterator[_Part]:
    revealed = bool(result.revealed)
    for role, corpus in (("data", result.data), ("control", result.controls)):
        if corpus is None:
            continue
        both = {a.attack: a.data if role == "data" else a.controls for a in result.attacks}
        scores: dict[str, WindowScores] = {k: v for k, v in both.items() if v is not None}
        asked = {attack: windows for attack, windows in scores.items() if attack != "copy"}
        content = result.sensitive
        yield _Part(
            role,
            corpus,
            result.fingerprints[role],
            _coarse(scores, revealed),
            best_edit_similarity(asked) if asked else None,
            queries(_likelihoods(best_log_p_z(asked), revealed), 0.5) if asked else None,
            None if content is None else content.data if role == "data" else content.controls,
            () if content is None else content.categories,
            _coarse(_reference_scores(result, role), revealed),
            result.revealed.get(role),
            revealed,
        )


def _reference_scores(result: ScanResult, role: str) -> dict[str, WindowScores]:
    attacks = result.reference.attacks if result.reference is not None else ()
    both = {a.attack: a.data if role == "data" else a.controls for a in attacks}
    return {attack: scores for attack, scores in both.items() if scores is not None}


def _coarse(scores: Mapping[str, WindowScores], revealed: bool) -> dict[str, WindowScores]:
    """Return each attack's scores with likelihoods rounded unless revealed."""
    return {
        attack: replace(
            windows,
            suffix_nll=_likelihoods(windows.suffix_nll, revealed),
            log_p_z=_likelihoods(windows.log_p_z, revealed),
        )
        for attack, windows in scores.items()
    }


def _likelihoods(values: Floats, revealed: bool) -> Floats:
    """Round log-likelihoods (N,), unless the text itself is revealed."""
    if revealed:
        return values
    rounded = [float(f"{round(value, _DECIMALS):.{_DIGITS}g}") for value in values.tolist()]
    return np.array(rounded, dtype=np.float64)


def _file_order(windows: Windows) -> list[int]:
    return cast(list[int], np.lexsort((windows.window, windows.sample, windows.line)).tolist())


def _window_row(part: _Part, i: int, names: Iterable[str]) -> list[str]:
    corpus = part.corpus
    windows = corpus.windows
    row = [str(SCHEMA_VERSION), part.role, cell(windows.sample_id[i]), str(windows.line[i])]
    row += [str(windows.window[i]), part.fingerprints[i]]
    row += [str(corpus.clusters[i]), str(corpus.folds[i])]
    row += [
        "scored",
        "",
        str(windows.prefix_tokens[i]),
        str(windows.suffix_ids.shape[1]),
    ]
    for attack in LADDER:
        row += _score_cells(part.scores.get(attack), i)
    for best in (part.similarity, part.queries):
        row.append("" if best is None else _figure(best[i]))
    row.append("" if part.counts is None else named_counts(part.categories, part.counts[i]))
    for attack in _ASKING:
        row += _reference_cells(part.reference.get(attack), i)
    row += _text_cells(part, i)
    return row + [_passed(part, windows.extra[i].get(name, "")) for name in names]


def _score_cells(scores: WindowScores | None, i: int) -> list[str]:
    if scores is None:
        return [""] * len(_SCORES)
    return [
        str(int(scores.exact[i])),
        _figure(scores.fractional[i]),
        str(scores.matched[i]),
        str(scores.longest_run[i]),
        _figure(scores.suffix_nll[i]),
        _figure(scores.log_p_z[i]),
    ]


def _reference_cells(scores: WindowScores | None, i: int) -> list[str]:
    if scores is None:
        return [""] * len(_ON_REFERENCE)
    figures = (scores.fractional[i], scores.suffix_nll[i])
    return [str(int(scores.exact[i])), *map(_figure, figures)]


def _text_cells(part: _Part, i: int) -> list[str]:
    if part.revealed is None:
        return [""] * len(TEXTS) if part.has_texts else []
    outputs = (part.revealed.output.get(attack) for attack in LADDER)
    texts = [part.revealed.prefix, part.revealed.suffix, *outputs]
    return ["" if text is None else cell(text[i]) for text in texts]


def _skipped_row(part: _Part, record: Skipped, names: Iterable[str]) -> list[str]:
    row = [str(SCHEMA_VERSION), part.role, cell(record.sample_id), str(record.line)]
    row += [""] * (len(_PLACE) - len(row) + len(_SPLIT))
    row += ["skipped", cell(record.reason)]
    row += [""] * (len(COLUMNS) - len(row) + (len(TEXTS) if part.has_texts else 0))
    return row + [_passed(part, record.extra.get(name, "")) for name in names]


def _passed(part: _Part, text: str) -> str:
    """Return a cell passed through; only the length of one too long for a label."""
    if len(text) > LONGEST_PASSED and part.revealed is None:
        return f"[{len(text)} characters]"
    return cell(text)


def cell(text: str) -> str:
    """Return untrusted text as a cell: no control characters, nothing that a spreadsheet runs.

    `cell` of `unescape` of a cell is the same cell.
    """
    harmless = neutral(text)
    if _NUMBER.fullmatch(harmless):
        return harmless
    return "".join(
        f"'{part}" if _is_run(part) else part for part in _CELL_SEPARATOR.split(harmless)
    )


def unescape(escaped: str) -> str:
    """Return the text of a cell that `cell` made, without the apostrophes for spreadsheets.

    Control characters stay visible escapes.
    """
    harmless = neutral(escaped)
    parts = _CELL_SEPARATOR.split(harmless)
    return "".join(part[1:] if part.startswith("'") and _is_run(part) else part for part in parts)


def _is_run(part: str) -> bool:
    """True if a spreadsheet would run the text as a formula, without the apostrophes before it."""
    return part.lstrip("'").lstrip(' "\u00a0\u3000').startswith(_RISKY)


def _figure(value: float) -> str:
    """Format with six digits; blank for NaN. Adding 0 turns -0 into 0."""
    return "" if np.isnan(value) else format(value + 0.0, ".6g")


def _passed_through(result: ScanResult) -> dict[str, str]:
    """Map columns of the data to unique names in the file, whether or not text is revealed."""
    parts = [corpus for corpus in (result.data, result.controls) if corpus is not None]
    given = list(dict.fromkeys(name for corpus in parts for name in corpus.windows.columns))
    used = {"", *COLUMNS, *TEXTS}
    wanted = {cell(_short_name(name, number)) for number, name in enumerate(given, 1)}
    names: dict[str, str] = {}
    for number, name in enumerate(given, 1):
        unique = cell(_short_name(name, number))
        if unique in used:
            while (unique := f"data_{unique}") in used | wanted:
                pass
        used.add(unique)
        names[name] = unique
    return names


def _short_name(name: str, number: int) -> str:
    """Return a column's name of bounded length; ``number`` distinguishes names that begin alike."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{shorten(name, LONGEST_NAME)} {number}"
