"""Windows chosen from the data: their sizes, for settings that leave them open.

Knows the lengths of records and how many tokens a model takes. Must not know files or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.config.settings import WindowSettings
from memaudit.data.encoding import Encoder
from memaudit.data.samples import Sample, Skipped
from memaudit.data.sampling import batches, sample_records
from memaudit.data.windows import LEAST_PREFIX, reach

MOST_RECORDS = 1000
"""Records whose lengths are looked at: the length that nine in ten have is off by a few percent."""
BENCHMARK = 50
"""P and S of texts of 100 tokens or more (Carlini et al. 2022)."""
LEAST_SUFFIX = 8
"""Tokens: shorter suffixes come out by chance too often to mean anything."""
MOST_SHORT_SUFFIX = 16
"""Tokens of a suffix in answers, and in texts that are too short for the benchmark's: more would
have to come out in one piece, and the suffixes slide over all of the record."""
MOST_PREFIX = 512
"""Tokens before a given suffix: more costs much time in every pass."""
_LONGEST_TEXT = 1 << 14
"""Characters of a text that are tokenised: more cannot change the choice."""


@dataclass(frozen=True)
class RecordLengths:
    """Tokens of some records of a file."""

    texts: tuple[int, ...]
    """Of each text."""
    prefixes: tuple[int, ...] = ()
    """Before each given suffix."""
    suffixes: tuple[int, ...] = ()
    """Of each given suffix, in the same order."""


@dataclass(frozen=True)
class WindowChoice:
    """Settings in which P, S and the placement are chosen."""

    settings: WindowSettings
    note: str
    """What was chosen and why, for the reader."""


def measure_records(
    samples: Iterable[Sample | Skipped], encoder: Encoder, rng: np.random.Generator
) -> RecordLengths:
    """Count the tokens of up to MOST_RECORDS random samples.

    Raises DataError for chats without a chat template, or with a random one.
    """
    texts, prefixes, suffixes = [], [], []
    for batch in batches(sample_records(_shortened(samples), MOST_RECORDS, rng)):
        good = [record.item for record in batch if isinstance(record.item, Sample)]
        for encoded in encoder.encode(good):
            tokens = len(encoded.ids)
            if encoded.problem is not None:
                continue
            if encoded.border is None:
                texts.append(tokens)
            elif encoded.border > 0:
                prefixes.append(encoded.border)
                suffixes.append(tokens - encoded.border)
    return RecordLengths(tuple(texts), tuple(prefixes), tuple(suffixes))


def choose_windows(
    settings: WindowSettings, lengths: RecordLengths, room: int | None
) -> WindowChoice:
    """Choose what the settings leave open of P, S and the placement.

    room: tokens of prefix and suffix together that the model takes; None if it states no limit, so
    that only MOST_PREFIX limits P.
    """
    placement = settings.chosen_placement
    suffix, why_suffix = settings.suffix_tokens, ""
    if not suffix:
        suffix, why_suffix = _suffix(settings, lengths, room)
    prefix, why_prefix = settings.prefix_tokens, ""
    if not prefix:
        prefix, why_prefix = _prefix(placement, suffix, lengths, room)
    why = "; ".join(filter(None, [why_suffix, why_prefix]))
    note = (
        f"Windows of up to {prefix}+{suffix} tokens, chosen from the data: {why}. Set others with "
        "--prefix-tokens and --suffix-tokens."
    )
    chosen = {"prefix_tokens": prefix, "suffix_tokens": suffix, "placement": placement}
    return WindowChoice(settings.model_copy(update=chosen), note)


def _suffix(settings: WindowSettings, lengths: RecordLengths, room: int | None) -> tuple[int, str]:
    """Choose S and say why."""
    wanted = []
    if lengths.texts:
        tokens, half = reach(lengths.texts), reach(lengths.texts) // 2
        if half < BENCHMARK:
            half = min(half, MOST_SHORT_SUFFIX)
        if settings.chosen_placement != "sliding":  # P tokens come before it
            half = min(half, tokens - settings.prefix_tokens)
        wanted.append((min(BENCHMARK, half), "at most half of what nine in ten of the texts have"))
    if lengths.suffixes:
        tokens = min(MOST_SHORT_SUFFIX, reach(lengths.suffixes))
        wanted.append((tokens, "as many as nine in ten of the given suffixes have"))
    fitting, why = min(wanted, default=(LEAST_SUFFIX, ""))
    if room is not None and fitting > (left := room - (settings.prefix_tokens or LEAST_PREFIX)):
        fitting, why = left, "all that the model's positions leave"
    if fitting <= LEAST_SUFFIX:
        fitting, why = LEAST_SUFFIX, "the fewest that are chosen"
    return fitting, f"a suffix has {fitting} tokens, {why}"


def _prefix(
    placement: str, suffix: int, lengths: RecordLengths, room: int | None
) -> tuple[int, str]:
    """Choose P for suffixes of S tokens and say why."""
    prefix, why = BENCHMARK, f"its prefix up to {BENCHMARK}, as in the usual benchmark"
    if lengths.texts and reach(lengths.texts) < 2 * BENCHMARK:
        prefix = max(prefix, min(MOST_PREFIX, _most(lengths.texts) - suffix))
        why = "its prefix all that stands before it in nine of ten texts"
    if lengths.suffixes:
        prefix = _longest_before(placement, suffix, lengths)
        why = "its prefix holds all that stands before it"
        if prefix > MOST_PREFIX:
            prefix, why = MOST_PREFIX, f"its prefix the last {MOST_PREFIX} tokens before it"
    if placement != "sliding" and lengths.texts:
        left = reach(lengths.texts) - suffix  # such windows of a text have all P tokens
        if prefix > left:
            prefix, why = left, "its prefix what is left of a text that nine in ten exceed"
    if room is not None and prefix > room - suffix:
        prefix, why = room - suffix, "its prefix what the model's positions leave"
    if prefix <= LEAST_PREFIX:
        prefix, why = LEAST_PREFIX, f"its prefix up to {LEAST_PREFIX}, the fewest that are chosen"
    return prefix, why


def _most(lengths: Sequence[int]) -> int:
    """Return the tokens that nine samples in ten do not exceed."""
    return sorted(lengths)[math.ceil(0.9 * len(lengths)) - 1]


def _longest_before(placement: str, suffix: int, lengths: RecordLengths) -> int:
    """Return the tokens of the longest text before a window's suffix, in given suffixes."""
    pairs = list(zip(lengths.prefixes, lengths.suffixes, strict=True))
    if placement == "start":
        return max(before for before, _ in pairs)
    return max(before + max(0, given - suffix) for before, given in pairs)


def _shortened(samples: Iterable[Sample | Skipped]) -> Iterator[Sample | Skipped]:
    """Yield samples without the end of long texts."""
    for sample in samples:
        if isinstance(sample, Sample) and sample.text is not None:
            yield replace(sample, text=sample.text[:_LONGEST_TEXT])
        else:
            yield sample
