"""Validity of a run: faults in its input or model that make every rate meaningless.

Knows counts (score.validity) and the limits on them. Knows nothing of windows' text, of models or
of thresholds on leakage: an invalid run is inconclusive, whatever its gates say.
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
LEFT_OUT = "attacks"
"""Name of the verdict on attacks that could not run."""
MAX_FAULTY = 0.5
"""Largest share of windows without text, or of samples that are template alone. Beyond it the rate
is about these rather than about records."""
MAX_UNKNOWN = 0.1
"""Largest share of unknown tokens. At one in ten, hardly any suffix of 50 is left whole."""
MAX_EXTRACTED = 0.01
"""Largest share of windows extracted from a model that reads no better than by chance. If more are,
the model knows these records, and the run is valid."""
MAX_ALIKE = 0.9
"""Largest share of continuations that end at once, or are identical."""
MAX_SKIPPED = 0.9
"""Largest share of records without a window. Beyond it, the run is about a small remainder."""
MAX_CHANGED = 0.1
"""Largest share of windows, or of chats, changed by the checkpoint's own tokenizer or chat
template. A sound one changes nothing, except in the few records with a character that it cannot
represent."""
_FEWEST_MISSED = 5
"""Continuations below which their similarity means nothing."""
_MAX_LINES = 5


@dataclass(frozen=True, eq=False)
class Validity:
    """Evidence for the verdict, from N windows of the data."""

    text: TextFaults
    templates: Templates
    lines: NDArray[np.int64]
    """(N,) line of each window's record."""
    records: int
    """Records examined."""
    used: int
    """Records that gave a window."""
    template_samples: int = 0
    """Records among them in which every window is template, on either side."""
    extracted: int = 0
    """Windows that some attack on the model extracts, without windows that have a fault above."""
    misread: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(N,) windows whose ids do not decode to their text; empty if all do."""
    chats: int = 0
    """Chats that were rendered."""
    changed_chats: int = 0
    """Chats among them that the chat template changes."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """Readings of ``data`` and ``controls``, from the weakest attack on the model; empty before it
    ran."""
    continuations: Continuations | None = None
    """Continuations of the weakest attack on the model; None before it ran."""

    @property
    def windows(self) -> int:
        """N."""
        return len(self.lines)


class Finding(NamedTuple):
    """One fault of a run."""

    sentence: str
    voids: bool
    """True if the fault is so common that the run means nothing; otherwise it becomes a note."""


def judge_validity(validity: Validity) -> GateVerdict | None:
    """Return ``inconclusive``, with every reason, if the run means nothing; otherwise None.

    Never ``pass``: being valid is no achievement of a run.
    """
    reasons = [fault.sentence for fault in find_faults(validity) if fault.voids]
    if not reasons:
        return None
    reason = " ".join(reasons)
    return GateVerdict(NAME, math.nan, "", math.nan, math.nan, "inconclusive", reason)


def judge_left_out(reason: str) -> GateVerdict | None:
    """Return ``inconclusive`` if attacks that were asked for could not run, for a reason; or None.

    Never ``pass``: what did not run may have extracted more.
    """
    if not reason:
        return None
    return GateVerdict(LEFT_OUT, math.nan, "", math.nan, math.nan, "inconclusive", reason)


def validity_notes(validity: Validity) -> tuple[str, ...]:
    """Return the faults of a part of the run, a sentence each."""
    return tuple(fault.sentence for fault in find_faults(validity) if not fault.voids)


def find_faults(validity: Validity) -> Iterator[Finding]:
    """Yield the faults of the run, the most fundamental first."""
    if not validity.windows:
        return
    yield from _question(validity)
    yield from _text(validity)
    yield from _templates(validity)
    yield from _reading(validity)
    yield from _continuations(validity)
    yield from _records(validity)


def _question(validity: Validity) -> Iterator[Finding]:
    """Yield changes that the checkpoint's tokenizer or chat template makes to the input."""
    count, windows = int(validity.misread.sum()), validity.windows
    if count:
        yield Finding(
            f"{_of(count, windows)} have token ids that do not decode to their text "
            f"({_lines(validity, validity.misread)}): the tokenizer changes it, or has only its "
            "unknown token for a part of it, so the audited text is not the text you gave. Use the "
            "tokenizer that the model was trained with.",
            count > MAX_CHANGED * windows,
        )
    changed, chats = validity.changed_chats, validity.chats
    if changed:
        yield Finding(
            f"In {changed:,} of {chats:,} chats ({percent(changed / chats)}) the chat template "
            "changes the turns, or adds text that depends on them, so the audited text is not the "
            "text you gave. Use the template that the model was trained with, or give prefix + "
            "suffix.",
            changed > MAX_CHANGED * chats,
        )


def _text(validity: Validity) -> Iterator[Finding]:
    faults, windows = validity.text, validity.windows
    if faults.unknown_tokens > MAX_UNKNOWN / 10:
        yield Finding(
            f"{percent(faults.unknown_tokens)} of the tokens are the tokenizer's unknown token: it "
            "cannot write this text, so the audited text is not the text you gave. Use the "
            "tokenizer that the model was trained with.",
            faults.unknown_tokens > MAX_UNKNOWN,
        )
    count = int(faults.any.sum())
    if not count:
        return
    kinds = (
        (faults.control, "only spaces, or control or replacement characters"),
        (faults.repeated, "the same few tokens over and over"),
        (faults.unknown, "mostly the unknown token"),
        (faults.special, "mostly padding or other special tokens"),
    )
    named = ", ".join(f"{int(rows.sum()):,} {kind}" for rows, kind in kinds if rows.any())
    yield Finding(
        f"{_of(count, windows)} have a prefix or suffix that is not text ({named}; "
        f"{_lines(validity, faults.any)}), so they mean nothing, extracted or not. Check how these "
        "records were written, and repair or remove them.",
        count > MAX_FAULTY * windows,
    )


def _templates(validity: Validity) -> Iterator[Finding]:
    templates, windows = validity.templates, validity.windows
    suffix = templates.suffix | templates.in_controls
    sides = (
        (
            suffix,
            "contain only template text: their suffix also follows other prefixes"
            if not templates.in_controls.any()
            else "contain only template text: their suffix also follows other prefixes, or occurs "
            "in the controls",
            "Extracting them shows the template, not a record.",
            "Audit the part of the records that differs: use another --placement, or remove the "
            "template.",
        ),
        (
            templates.prefix & ~suffix,
            "have a prefix that other records begin with too, each with its own suffix",
            "It does not identify the record, so the suffixes cannot be extracted.",
            "Use longer prefixes (--prefix-tokens) or --placement end, or remove the shared text.",
        ),
    )
    voids = validity.template_samples > MAX_FAULTY * validity.used
    for rows, what, meaning, remedy in sides:
        count = int(rows.sum())
        if count:
            sentence = f"{_of(count, windows)} {what} ({_lines(validity, rows)}). {meaning}"
            yield Finding(f"{sentence} {remedy}" if voids else sentence, voids)


def _reading(validity: Validity) -> Iterator[Finding]:
    readings = validity.readings
    few = validity.extracted <= MAX_EXTRACTED * validity.windows
    if readings and few and all(reading.is_chance for reading in readings.values()):
        uniform = next(iter(readings.values())).uniform
        hits = f", and only {validity.extracted:,} are extracted" if validity.extracted else ""
        measured = ", ".join(
            f"{reading.nll:.3g} on the {part}" for part, reading in readings.items()
        )
        yield Finding(
            f"The model reads this text no better than by chance (median NLL in nats/token: "
            f"{measured}; a uniform guess over its vocabulary gives {uniform:.3g}){hits}. Its "
            "weights are random, damaged or incomplete, or its tokenizer belongs to another model. "
            "Check both.",
            True,
        )


def _continuations(validity: Validity) -> Iterator[Finding]:
    missed = validity.continuations
    if missed is None or missed.windows < max(_FEWEST_MISSED, MAX_FAULTY * validity.windows):
        return
    prefixes = f"of the {missed.windows:,} prefixes whose suffix is not extracted"
    if missed.ended > MAX_ALIKE * missed.windows:
        yield Finding(
            f"After {missed.ended:,} {prefixes}, the model ends its answer at once, as a chat "
            "model does when given bare text or a chat that its template did not write. Give the "
            "records as `messages`, and check the template.",
            True,
        )
    elif missed.alike > MAX_ALIKE * missed.windows:
        yield Finding(
            f"After {missed.alike:,} {prefixes}, the model gives the same output, whatever the "
            "prefix. Check its weights and template, and whether it refuses to answer.",
            True,
        )


def _records(validity: Validity) -> Iterator[Finding]:
    sentence = remnant(validity.used, validity.records)
    if sentence is not None:
        skipped = validity.records - validity.used
        yield Finding(
            f"{sentence} Use a window that fits most of them (--prefix-tokens, --suffix-tokens), "
            "or give only the records you want to audit.",
            skipped > MAX_SKIPPED * validity.records,
        )


def remnant(used: int, records: int) -> str | None:
    """Say that a run covers fewer than half of its records; None if it covers more."""
    if 2 * used >= records:
        return None
    return (
        f"Only {used:,} of {records:,} records gave a window; the others were skipped, and no "
        "rate or verdict covers them."
    )


def _of(count: int, windows: int) -> str:
    return f"{count:,} of {windows:,} windows ({percent(count / windows)})"


def _lines(validity: Validity, rows: NDArray[np.bool_]) -> str:
    """Name the lines of the first records among these windows (N,)."""
    lines = np.unique(validity.lines[rows])
    first = ", ".join(f"{line:,}" for line in lines[:_MAX_LINES].tolist())
    more = ", …" if len(lines) > _MAX_LINES else ""
    return f"line{'' if len(lines) == 1 else 's'} {first}{more}"
