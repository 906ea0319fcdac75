"""The tables of a result: ``windows.csv`` and ``samples.csv``, line by line (contract, section 2).

Knows results and the order of the rows. Knows nothing of files.

Likelihoods have up to two significant digits and two decimals, unless text is revealed: with six,
anyone who has the model could tell which of a few thousand guesses was in the data.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.config.settings import LADDER
from memaudit.data.corpus import Corpus
from memaudit.data.samples import Skipped
from memaudit.report.cells import cell, figure, header_line, is_text, line, quoted
from memaudit.report.columns import (
    ASKING,
    ON_REFERENCE,
    OWN,
    REFERENCE_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLE_SCORES,
    TEXTS,
    WINDOW_COLUMNS,
    WINDOW_SCORES,
)
from memaudit.report.leaks import named_counts
from memaudit.report.result import Revealed, ScanResult
from memaudit.report.wording import SCHEMA_VERSION, shorten
from memaudit.score.samples import SampleScores
from memaudit.score.sampling import queries
from memaudit.score.scores import WindowScores, best_edit_similarity, best_log_p_z
from memaudit.score.stats import Floats, Ints
from memaudit.sensitive.counting import Items
from memaudit.sensitive.detectors import Category

LONGEST_PASSED = 200
"""Characters of a value passed through, unless text is revealed."""
LONGEST_NAME = 80
"""Characters of a column's name, so that the header can be read back."""
_DECIMALS, _DIGITS = 2, 2
"""Decimals and significant digits of a likelihood, unless text is revealed."""
NOT_COUNTED = "every window is template, or repeats its own prefix"
"""Reason beside a sample that no attack can extract and no rate counts."""


def iter_windows(result: ScanResult) -> Iterator[str]:
    """Yield ``windows.csv`` line by line (RFC 4180), so that it is never held whole.

    The header is first, then data, then controls, each in the order of its file.
    """
    own = [*WINDOW_COLUMNS, *(REFERENCE_COLUMNS if result.reference is not None else ())]
    own += TEXTS if result.revealed else ()
    return _lines(result, own, _window_row, _all_rows)


def iter_samples(result: ScanResult) -> Iterator[str]:
    """Yield ``samples.csv`` line by line, in the order of `iter_windows`."""
    return _lines(result, SAMPLE_COLUMNS, _sample_row, _first_rows)


_Row = Callable[["_Part", int], list[str]]
"""Returns the cells of a row without those passed through; a window's or a sample's number."""


_At = Callable[[Corpus], Ints]
"""Returns the windows that stand for the rows of a table: all, or the first of each sample."""


def _all_rows(corpus: Corpus) -> Ints:
    return np.arange(len(corpus.windows))


def _first_rows(corpus: Corpus) -> Ints:
    return corpus.first_rows


def _lines(result: ScanResult, own: Sequence[str], row_of: _Row, rows_at: _At) -> Iterator[str]:
    passed = _passed_through(result)
    names = (*own, *passed.values())
    texts = [is_text(name) for name in names]
    yield header_line(names)
    for part in _parts(result):
        for row in _rows(part, own, row_of, rows_at(part.corpus), tuple(passed)):
            cells = zip(row, texts, strict=True)
            yield line(quoted(text) if from_data else text for text, from_data in cells)


@dataclass(frozen=True, eq=False)
class _Part:
    """Everything needed for the rows of one role: N windows of M samples."""

    role: str
    corpus: Corpus
    fingerprints: tuple[str, ...]
    """Fingerprints of the windows, length N."""
    sample_fingerprints: tuple[str, ...]
    """Fingerprints of the samples, length M."""
    scores: Mapping[str, WindowScores]
    samples: Mapping[str, SampleScores]
    similarity: Floats | None
    """(N,), best attack; None if no attack queried the model."""
    queries: Floats | None
    """(N,), as above."""
    items: Items | None
    """Sensitive content; None if nothing was searched."""
    categories: tuple[Category, ...]
    """Columns of counts."""
    reference: Mapping[str, WindowScores]
    """Attack to scores of the same windows on the reference; empty without one."""
    has_reference: bool
    """True if the tables have columns of the reference."""
    revealed: Revealed | None
    is_revealed: bool
    """True if the tables have columns of text."""


def _rows(
    part: _Part, own: Sequence[str], row_of: _Row, at: Ints, passed: Sequence[str]
) -> Iterator[list[str]]:
    """Yield the rows of windows or samples, and of skipped records, in the order of the file.

    Ids decide for a folder, where every line is 1 and the ids are the sorted paths. at: the window
    that gives the place of each row.
    """
    windows = part.corpus.windows
    order = np.lexsort((windows.window[at], windows.sample[at], windows.line[at])).tolist()
    places = [(int(windows.line[at[number]]), windows.sample_id[at[number]]) for number in order]
    rows = (
        [*row_of(part, number), *_passed(part, windows.extra[at[number]], passed)]
        for number in order
    )
    skipped = sorted(windows.skipped, key=lambda record: record.line)
    bad = (
        [*_skipped_row(part, record, own), *_passed(part, record.extra, passed)]
        for record in skipped
    )
    merged = heapq.merge(
        zip(places, rows, strict=True),
        zip(((record.line, record.sample_id) for record in skipped), bad, strict=True),
        key=lambda pair: pair[0],
    )
    return (row for _, row in merged)


def _parts(result: ScanResult) -> Iterator[_Part]:
    revealed, content = bool(result.revealed), result.sensitive
    for role, corpus in (("data", result.data), ("control", result.controls)):
        if corpus is None:
            continue
        is_data = role == "data"
        both = {a.attack: a.data if is_data else a.controls for a in result.attacks}
        scores: dict[str, WindowScores] = {k: v for k, v in both.items() if v is not None}
        of_samples = {a.attack: a.samples if is_data else a.control_samples for a in result.attacks}
        asked = {attack: windows for attack, windows in scores.items() if attack != "copy"}
        found = None if content is None else content.data if is_data else content.controls
        yield _Part(
            role=role,
            corpus=corpus,
            fingerprints=result.fingerprints[role],
            sample_fingerprints=result.sample_fingerprints[role],
            scores=_coarse(scores, revealed),
            samples={k: v for k, v in of_samples.items() if v is not None},
            similarity=best_edit_similarity(asked) if asked else None,
            queries=queries(_likelihoods(best_log_p_z(asked), revealed), 0.5) if asked else None,
            items=found,
            categories=() if content is None else content.categories,
            reference=_coarse(_reference_scores(result, role), revealed),
            has_reference=result.reference is not None,
            revealed=result.revealed.get(role),
            is_revealed=revealed,
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
    return np.array([_likelihood(value) for value in values.tolist()], dtype=np.float64)


def _likelihood(value: float) -> float:
    return float(f"{round(value, _DECIMALS):.{_DIGITS}g}")


def _window_row(part: _Part, i: int) -> list[str]:
    corpus = part.corpus
    windows = corpus.windows
    row = [str(SCHEMA_VERSION), part.role, cell(windows.sample_id[i]), str(windows.line[i])]
    row += [str(windows.window[i]), part.fingerprints[i]]
    row += [str(corpus.clusters[i]), str(corpus.folds[i]), "scored", ""]
    row += [str(windows.prefix_tokens[i]), str(windows.suffix_ids.shape[1])]
    row += [str(windows.new_tokens[i]), str(corpus.template.suffix[i])]
    for attack in LADDER:
        row += _score_cells(part.scores.get(attack), i)
    for best in (part.similarity, part.queries):
        row.append("" if best is None else figure(best[i]))
    row.append("" if part.items is None else named_counts(part.categories, part.items.windows[i]))
    for attack in ASKING if part.has_reference else ():
        row += _reference_cells(part.reference.get(attack), i)
    return row + _text_cells(part, i)


def _sample_row(part: _Part, j: int) -> list[str]:
    corpus, windows = part.corpus, part.corpus.windows
    i = int(corpus.first_rows[j])
    row = [str(SCHEMA_VERSION), part.role, cell(windows.sample_id[i]), str(windows.line[i])]
    row += [cell(windows.group[i] or ""), part.sample_fingerprints[j]]
    row += [str(corpus.clusters[i]), str(corpus.folds[i]), "scored"]
    row += ["" if corpus.counted[j] else NOT_COUNTED, str(windows.sample_tokens[i])]
    row += [str(corpus.audited_tokens[j]), str(corpus.template_tokens[j])]
    row.append(str(corpus.windows_each[j]))
    for attack in LADDER:
        row += _sample_cells(part, part.samples.get(attack), j)
    row += _any_cells(part, j)
    row.append("" if part.items is None else named_counts(part.categories, part.items.samples[j]))
    return row


def _sample_cells(part: _Part, scores: SampleScores | None, j: int) -> list[str]:
    if scores is None:
        return [""] * len(SAMPLE_SCORES)
    nll = scores.suffix_nll[j] if part.is_revealed else _likelihood(scores.suffix_nll[j])
    return [
        str(int(scores.exact[j])),
        str(int(scores.extracted[j])) if part.corpus.counted[j] else "",
        str(scores.windows_exact[j]),
        figure(scores.fractional[j]),
        str(scores.longest_run[j]),
        figure(nll),
    ]


def _any_cells(part: _Part, j: int) -> list[str]:
    """Return if at least one attack on the model gets the whole sample, and if one extracts it."""
    asked = [scores for name, scores in part.samples.items() if name != "copy"]
    if not asked:
        return ["", ""]
    exact = any(scores.exact[j] for scores in asked)
    extracted = any(scores.extracted[j] for scores in asked)
    return [str(int(exact)), str(int(extracted)) if part.corpus.counted[j] else ""]


def _skipped_row(part: _Part, record: Skipped, own: Sequence[str]) -> list[str]:
    cells = {
        "schema_version": str(SCHEMA_VERSION),
        "role": part.role,
        "sample_id": cell(record.sample_id),
        "line": str(record.line),
        "status": "skipped",
        "reason": cell(record.reason),
    }
    return [cells.get(name, "") for name in own]


def _passed(part: _Part, extra: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return the cells passed through; only the length of a value too long for a label."""
    values = [extra.get(name, "") for name in names]
    return [
        f"[{len(value)} characters]"
        if len(value) > LONGEST_PASSED and part.revealed is None
        else cell(value)
        for value in values
    ]


def _score_cells(scores: WindowScores | None, i: int) -> list[str]:
    if scores is None:
        return [""] * len(WINDOW_SCORES)
    return [
        str(int(scores.exact[i])),
        figure(scores.fractional[i]),
        str(scores.matched[i]),
        str(scores.longest_run[i]),
        figure(scores.suffix_nll[i]),
        figure(scores.log_p_z[i]),
    ]


def _reference_cells(scores: WindowScores | None, i: int) -> list[str]:
    if scores is None:
        return [""] * len(ON_REFERENCE)
    figures = (scores.fractional[i], scores.suffix_nll[i])
    return [str(int(scores.exact[i])), *map(figure, figures)]


def _text_cells(part: _Part, i: int) -> list[str]:
    if part.revealed is None:
        return [""] * len(TEXTS) if part.is_revealed else []
    outputs = (part.revealed.output.get(attack) for attack in LADDER)
    texts = [part.revealed.prefix, part.revealed.suffix, *outputs]
    return ["" if text is None else cell(text[i]) for text in texts]


def _passed_through(result: ScanResult) -> dict[str, str]:
    """Map columns of the data to unique names in the file, whether or not text is revealed."""
    parts = [corpus for corpus in (result.data, result.controls) if corpus is not None]
    given = list(dict.fromkeys(name for corpus in parts for name in corpus.windows.columns))
    used = {"", *OWN}
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
