"""samples.csv: one row per window, and one per record that gave none (contract, section 2).

Knows the columns and how a cell is made harmless. Knows nothing of files: the text it yields is
to be written as UTF-8 without newline translation.

Likelihoods have two significant digits, at most two of them behind the point, unless text is
revealed: six would tell whoever has the model which of a few thousand guesses was in the data.

``sample_id``, ``reason``, ``categories`` and the columns passed through are text, and quoted. A
spreadsheet would run a cell that starts with ``=``, ``+``, ``-``, ``@``, one of their other forms,
a TAB or a CR, and some take ``;`` or ``|`` for what parts cells, quoted or not. So a text gets an
apostrophe before such a start, also behind blanks and quotation marks, and so does what follows
each ``;`` or ``|`` in it; a text that is a number (``-1``, ``+3.5e2``) gets none. What has
apostrophes there already gets another one, so that taking one away always gives the text back. JSON
lines (`to_jsonl`) need none of that.
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
"""Characters of a value passed through, where text is not revealed."""
LONGEST_NAME = 80
"""Characters of a column's name: the header of so many columns is to be read back."""
_SCORES = ("exact", "fractional", "matched", "longest_run", "suffix_nll", "log_p_z")
_DECIMALS, _DIGITS = 2, 2
"""Decimals and significant digits of a window's likelihood, where text is not revealed."""
_SUFFIXES = tuple(attack.replace("-", "_") for attack in LADDER)
_ON_REFERENCE = ("exact", "fractional", "suffix_nll")
_ASKING = tuple(attack for attack in LADDER if attack != "copy")
"""The attacks that ask a model, and so the reference too."""
TEXTS = ("text_prefix", "text_suffix", *(f"text_{attack}" for attack in _SUFFIXES))
"""The columns that stand behind these where text is revealed."""

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
"""The columns that every file has, in their order."""

_OTHER_FORMS = "\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
_RUN_BY_SPREADSHEETS = (*"=+-@", *_OTHER_FORMS, "\t", "\r")
"""What a formula can start with: in ASCII, full-width and small signs, and the minus sign (OWASP,
CSV injection)."""
_RISKY = tuple(neutral(start) for start in _RUN_BY_SPREADSHEETS)
_PARTS_CELLS = re.compile(r"([;|])")
"""What parts cells in some locales, where a comma is a decimal sign."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def columns(result: ScanResult) -> tuple[str, ...]:
    """The header: `COLUMNS`, text where revealed, and the columns passed through."""
    texts = TEXTS if result.revealed else ()
    return (*COLUMNS, *texts, *_passed_through(result).values())


def iter_csv(result: ScanResult) -> Iterator[str]:
    """The file line by line (RFC 4180), the header first, so that it is never held whole.

    Data before controls, and each in the order of its file.
    """
    names = columns(result)
    texts = [_is_text(name) for name in names]
    yield _header_line(names)
    for row in _rows(result):
        shown = zip(row, texts, strict=True)
        yield _line(_quoted(text) if is_text else text for text, is_text in shown)


def _is_text(name: str) -> bool:
    """Whether a column holds text of the data, or words made of it."""
    return name not in COLUMNS or name in ("sample_id", "reason", "categories")


def _header_line(names: Iterable[str]) -> str:
    own = {*COLUMNS, *TEXTS}
    return _line(name if name in own else _quoted(name) for name in names)


def _quoted(text: str) -> str:
    """A cell between quotation marks; a blank one stays blank."""
    return '"' + text.replace('"', '""') + '"' if text else ""


def _line(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\r\n"


@dataclass(frozen=True, eq=False)
class _Part:
    """Everything that the rows of one role are made of."""

    role: str
    corpus: Corpus
    fingerprints: tuple[str, ...]
    """Of length N."""
    scores: Mapping[str, WindowScores]
    similarity: Floats | None
    """(N,), best attack; None where no attack asked the model."""
    queries: Floats | None
    """(N,), as above."""
    counts: Counts | None
    """(N,C) sensitive content; None where nothing was looked for."""
    categories: tuple[Category, ...]
    """Columns of counts."""
    reference: Mapping[str, WindowScores]
    """What attacks got of the same windows from the reference; empty where there is none."""
    revealed: Revealed | None
    has_texts: bool
    """Whether the file has text columns at all."""


def to_csv(samples: pd.DataFrame) -> str:
    """The file once more from the table that was read back, byte for byte."""
    shown = [_cells(str(name), samples[name]) for name in samples.columns]
    header = _header_line(cell(str(name)) for name in samples.columns)
    return header + "".join(map(_line, zip(*shown, strict=True)))


def _cells(name: str, column: pd.Series[Any]) -> list[str]:
    """A column as the file has it."""
    if pd.api.types.is_float_dtype(column.dtype):
        return [_figure(value) for value in column.tolist()]
    if pd.api.types.is_numeric_dtype(column.dtype):
        return ["" if value is pd.NA else str(value) for value in column.tolist()]
    shown = [cell(text) for text in column.tolist()]
    return [_quoted(text) for text in shown] if _is_text(name) else shown


def to_jsonl(samples: pd.DataFrame) -> str:
    """The rows of the table that was read back, as JSON lines: text as the data has it.

    Control characters stay visible escapes. What is not a finite number is null.
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
        # Windows and skipped records, each in file order, merged back into it. Ids settle it
        # for a folder, where every line is 1 and the ids are the sorted paths.
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
        scores: dict[str, WindowScores] = {k: one for k, one in both.items() if one is not None}
        asked = {name: one for name, one in scores.items() if name != "copy"}
        found = result.sensitive
        yield _Part(
            role,
            corpus,
            result.fingerprints[role],
            _coarse(scores, revealed),
            best_edit_similarity(asked) if asked else None,
            queries(_likelihoods(best_log_p_z(asked), revealed), 0.5) if asked else None,
            None if found is None else found.data if role == "data" else found.controls,
            () if found is None else found.categories,
            _coarse(_reference_scores(result, role), revealed),
            result.revealed.get(role),
            revealed,
        )


def _reference_scores(result: ScanResult, role: str) -> dict[str, WindowScores]:
    attacks = result.reference.attacks if result.reference is not None else ()
    both = {one.attack: one.data if role == "data" else one.controls for one in attacks}
    return {attack: scores for attack, scores in both.items() if scores is not None}


def _coarse(scores: Mapping[str, WindowScores], revealed: bool) -> dict[str, WindowScores]:
    """The scores of each attack with their likelihoods as they may be shown."""
    return {
        attack: replace(
            windows,
            suffix_nll=_likelihoods(windows.suffix_nll, revealed),
            log_p_z=_likelihoods(windows.log_p_z, revealed),
        )
        for attack, windows in scores.items()
    }


def _likelihoods(values: Floats, revealed: bool) -> Floats:
    """Log-likelihoods (N,) as they may be shown: as they are only beside the text itself."""
    if revealed:
        return values
    shown = [float(f"{round(value, _DECIMALS):.{_DIGITS}g}") for value in values.tolist()]
    return np.array(shown, dtype=np.float64)


def _file_order(windows: Windows) -> list[int]:
    return cast(list[int], np.lexsort((windows.window, windows.sample, windows.line)).tolist())


def _window_row(part: _Part, i: int, names: Iterable[str]) -> list[str]:
    corpus = part.corpus
    windows = corpus.windows
    row = [str(SCHEMA_VERSION), part.role, cell(windows.sample_id[i]), str(windows.line[i])]
    row += [str(windows.window[i]), part.fingerprints[i]]
    row += [str(corpus.clusters[i]), str(corpus.folds[i])]
    row += ["scored", "", str(windows.prefix_ids.shape[1]), str(windows.suffix_ids.shape[1])]
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
    said = (part.revealed.output.get(attack) for attack in LADDER)
    texts = [part.revealed.prefix, part.revealed.suffix, *said]
    return ["" if text is None else cell(text[i]) for text in texts]


def _skipped_row(part: _Part, record: Skipped, names: Iterable[str]) -> list[str]:
    row = [str(SCHEMA_VERSION), part.role, cell(record.sample_id), str(record.line)]
    row += [""] * (len(_PLACE) - len(row) + len(_SPLIT))
    row += ["skipped", cell(record.reason)]
    row += [""] * (len(COLUMNS) - len(row) + (len(TEXTS) if part.has_texts else 0))
    return row + [_passed(part, record.extra.get(name, "")) for name in names]


def _passed(part: _Part, text: str) -> str:
    """A cell that is passed through; one so long that it is rather text than a label is counted."""
    if len(text) > LONGEST_PASSED and part.revealed is None:
        return f"[{len(text)} characters]"
    return cell(text)


def cell(text: str) -> str:
    """Untrusted text as a cell: no control character, and nothing that a spreadsheet runs.

    What `unescape` makes of a cell gives the same cell again.
    """
    harmless = neutral(text)
    if _NUMBER.fullmatch(harmless):
        return harmless
    return "".join(f"'{part}" if _is_run(part) else part for part in _PARTS_CELLS.split(harmless))


def unescape(shown: str) -> str:
    """The text of a cell that `cell` made: without the apostrophes that spreadsheets need.

    Control characters stay the visible escapes that `cell` made of them.
    """
    harmless = neutral(shown)
    parts = _PARTS_CELLS.split(harmless)
    return "".join(part[1:] if part.startswith("'") and _is_run(part) else part for part in parts)


def _is_run(part: str) -> bool:
    """Whether a spreadsheet would take what may be a cell for a formula, were it not for the
    apostrophes before it.
    """
    return part.lstrip("'").lstrip(' "\u00a0\u3000').startswith(_RISKY)


def _figure(value: float) -> str:
    """Six digits; blank for NaN. Adding 0 turns -0 into 0."""
    return "" if np.isnan(value) else format(value + 0.0, ".6g")


def _passed_through(result: ScanResult) -> dict[str, str]:
    """Column of the data -> its name in the file, free of clashes, whether text is shown or not."""
    parts = [corpus for corpus in (result.data, result.controls) if corpus is not None]
    given = list(dict.fromkeys(name for corpus in parts for name in corpus.windows.columns))
    used = {"", *COLUMNS, *TEXTS}
    wanted = {cell(_short_name(name, number)) for number, name in enumerate(given, 1)}
    names: dict[str, str] = {}
    for number, name in enumerate(given, 1):
        shown = cell(_short_name(name, number))
        if shown in used:
            while (shown := f"data_{shown}") in used | wanted:
                pass
        used.add(shown)
        names[name] = shown
    return names


def _short_name(name: str, number: int) -> str:
    """A column's name, of bounded length; ``number`` tells those apart that begin alike."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{shorten(name, LONGEST_NAME)} {number}"
