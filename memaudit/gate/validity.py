"""Whether a run means anything: what makes its rates say nothing, whichever way they come out.

Knows counts (score.validity) and the limits on them. Knows nothing of windows' text, of models or
of thresholds on leakage: a run that means nothing is inconclusive, whatever its gates say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.gate.measures import percent
from memaudit.gate.thresholds import GateVerdict
from memaudit.score.validity import Continuations, Reading, Templates, TextFaults

NAME = "validity"
MOST_FAULTY = 0.5
"""Share of the windows without text, or of those that are template, that a run may have: beyond
it the rate is one of such windows rather than of records."""
MOST_UNKNOWN = 0.1
"""Share of tokens that may be the unknown token. One in ten leaves hardly a suffix of 50 whole."""
MOST_EXTRACTED = 0.01
"""Share of windows that may come out of a model that reads no better than by chance. Where more
do, it is the records that it knows, and the run says so."""
MOST_ALIKE = 0.9
"""Share of the continuations that may end at once, or be one and the same."""
MOST_SKIPPED = 0.9
"""Share of the records that may give no window: beyond it, the run is about a remnant."""
MOST_CHANGED = 0.1
"""Share of the windows, or of the chats, that the checkpoint's own tokenizer or chat template may
change. An honest one changes none; a sign that it cannot write is in a few records."""
_FEWEST_MISSED = 5
"""Continuations below which their likeness says nothing."""
_MOST_LINES = 5


@dataclass(frozen=True, eq=False)
class Validity:
    """What the verdict rests on, of N windows of the data."""

    text: TextFaults
    templates: Templates
    lines: NDArray[np.int64]
    """(N,) line of each window's record."""
    records: int
    """Records that were looked at."""
    used: int
    """Records that gave a window."""
    extracted: int = 0
    """Windows that some attack on the model extracts, those without a fault above alone."""
    misread: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(N,) windows whose ids do not decode to their text; empty where there is none."""
    chats: int = 0
    """Chats that were rendered."""
    changed_chats: int = 0
    """Of them, those that the chat template changes."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """By ``data`` and ``controls``, of the weakest attack on the model; empty before one was
    run."""
    continuations: Continuations | None = None
    """Of the same attack; None before it was run."""

    @property
    def windows(self) -> int:
        """N."""
        return len(self.lines)


class Finding(NamedTuple):
    """One thing that takes meaning from a run."""

    sentence: str
    voids: bool
    """Whether it is so common that the run means nothing; else it is worth a note."""


def judge_validity(validity: Validity) -> GateVerdict | None:
    """``inconclusive`` where the run means nothing, with every reason; None where it means
    something. Never ``pass``: that a run means something is nothing that it achieves.
    """
    reasons = [found.sentence for found in find_faults(validity) if found.voids]
    if not reasons:
        return None
    reason = " ".join(reasons)
    return GateVerdict(NAME, math.nan, "", math.nan, math.nan, "inconclusive", reason)


def validity_notes(validity: Validity) -> tuple[str, ...]:
    """What takes meaning from a part of the run, a sentence each."""
    return tuple(found.sentence for found in find_faults(validity) if not found.voids)


def find_faults(validity: Validity) -> Iterator[Finding]:
    """Everything that takes meaning from the run, the most fundamental first."""
    if not validity.windows:
        return
    yield from _question(validity)
    yield from _text(validity)
    yield from _templates(validity)
    yield from _reading(validity)
    yield from _continuations(validity)
    yield from _records(validity)


def _question(validity: Validity) -> Iterator[Finding]:
    """What of the question the checkpoint's own files change."""
    count, windows = int(validity.misread.sum()), validity.windows
    if count:
        yield Finding(
            f"{_of(count, windows)} have token ids that do not decode to their text "
            f"({_lines(validity, validity.misread)}): the tokenizer changes it, so what is audited "
            "is not the text that was given. Use the tokenizer that the model was trained with.",
            count > MOST_CHANGED * windows,
        )
    changed, chats = validity.changed_chats, validity.chats
    if changed:
        yield Finding(
            f"In {changed:,} of {chats:,} chats ({percent(changed / chats)}) the chat template "
            "does not write the turns as they are, so what is audited is not what was said. Use "
            "the template that the model was trained with, or give prefix + suffix.",
            changed > MOST_CHANGED * chats,
        )


def _text(validity: Validity) -> Iterator[Finding]:
    faults, windows = validity.text, validity.windows
    if faults.unknown_tokens > MOST_UNKNOWN / 10:
        yield Finding(
            f"{percent(faults.unknown_tokens)} of the tokens are the tokenizer's unknown token: it "
            "cannot write this text, so what is audited is not the text that was given. Use the "
            "tokenizer that the model was trained with.",
            faults.unknown_tokens > MOST_UNKNOWN,
        )
    count = int(faults.any.sum())
    if not count:
        return
    kinds = (
        (faults.control, "only blanks, or control or replacement characters"),
        (faults.repeated, "the same few tokens over and over"),
        (faults.unknown, "mostly the unknown token"),
        (faults.special, "mostly padding or other special tokens"),
    )
    named = ", ".join(f"{int(rows.sum()):,} {kind}" for rows, kind in kinds if rows.any())
    yield Finding(
        f"{_of(count, windows)} have a prefix or suffix that is no text ({named}; "
        f"{_lines(validity, faults.any)}): they say nothing, whether they come out or not. Check "
        "how these records were written, and mend them or take them out.",
        count > MOST_FAULTY * windows,
    )


def _templates(validity: Validity) -> Iterator[Finding]:
    templates, windows = validity.templates, validity.windows
    suffix = templates.suffix | templates.in_controls
    sides = (
        (
            suffix,
            "are template alone: their suffix also follows other prefixes"
            if not templates.in_controls.any()
            else "are template alone: their suffix also follows other prefixes, or stands in the "
            "controls",
            "What comes out of them is the template, not a record. Audit the part of the records "
            "that differs: use another --placement, or take the template out.",
        ),
        (
            templates.prefix & ~suffix,
            "have a prefix that other records begin with too, each with its own suffix",
            "It does not tell the model which record is meant, so their suffixes cannot come out. "
            "Use longer prefixes (--prefix-tokens), --placement end, or take the shared text out.",
        ),
    )
    for rows, what, remedy in sides:
        count = int(rows.sum())
        if count:
            where = _lines(validity, rows)
            yield Finding(
                f"{_of(count, windows)} {what} ({where}). {remedy}",
                int(templates.any.sum()) > MOST_FAULTY * windows,
            )


def _reading(validity: Validity) -> Iterator[Finding]:
    readings = validity.readings
    few = validity.extracted <= MOST_EXTRACTED * validity.windows
    if readings and few and all(reading.is_chance for reading in readings.values()):
        uniform = next(iter(readings.values())).uniform
        hits = f", and only {validity.extracted:,} come out" if validity.extracted else ""
        measured = ", ".join(
            f"{reading.nll:.3g} on the {part}" for part, reading in readings.items()
        )
        yield Finding(
            f"The model reads this text no better than by chance (median NLL in nats/token: "
            f"{measured}; a uniform guess over its vocabulary gives {uniform:.3g}){hits}. Its "
            "weights are random, damaged or incomplete, or its tokenizer is another model's: check "
            "both.",
            True,
        )


def _continuations(validity: Validity) -> Iterator[Finding]:
    found = validity.continuations
    if found is None or found.windows < max(_FEWEST_MISSED, MOST_FAULTY * validity.windows):
        return
    missed = f"of the {found.windows:,} prefixes whose suffix does not come out"
    if found.ended > MOST_ALIKE * found.windows:
        yield Finding(
            f"After {found.ended:,} {missed} the model ends its answer at once, as a chat model "
            "does that is given bare text, or a chat that its template did not write. Give the "
            "records as `messages`, and check the template.",
            True,
        )
    elif found.same > MOST_ALIKE * found.windows:
        yield Finding(
            f"After {found.same:,} {missed} the model says one and the same thing, whatever the "
            "prefix. Check its weights and template, and whether it refuses to answer.",
            True,
        )


def _records(validity: Validity) -> Iterator[Finding]:
    sentence = remnant(validity.used, validity.records)
    if sentence is not None:
        skipped = validity.records - validity.used
        yield Finding(
            f"{sentence} Use a window that fits most of them (--prefix-tokens, --suffix-tokens), "
            "or give only the records that are meant.",
            skipped > MOST_SKIPPED * validity.records,
        )


def remnant(used: int, records: int) -> str | None:
    """Which records a run is about, where it is fewer than half of them; None else."""
    if 2 * used >= records:
        return None
    return (
        f"Only {used:,} of {records:,} records gave a window; the others were skipped, and no "
        "rate or verdict says anything of them."
    )


def _of(count: int, windows: int) -> str:
    return f"{count:,} of {windows:,} windows ({percent(count / windows)})"


def _lines(validity: Validity, rows: NDArray[np.bool_]) -> str:
    """Where the first records of these windows (N,) stand."""
    lines = np.unique(validity.lines[rows])
    shown = ", ".join(f"{line:,}" for line in lines[:_MOST_LINES].tolist())
    more = ", …" if len(lines) > _MOST_LINES else ""
    return f"line{'' if len(lines) == 1 else 's'} {shown}{more}"
