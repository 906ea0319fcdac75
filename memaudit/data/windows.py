"""Token windows: the choice of samples, and the places where windows are cut from their ids.

Knows lengths and placements. Must not know file formats, folds, models or prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memaudit.config.settings import Bos, WindowSettings
from memaudit.data.bos import BosSource
from memaudit.data.encoding import Encoded, Encoder
from memaudit.data.forms import REPETITIONS
from memaudit.data.letters import count_letters
from memaudit.data.reading_back import ReadingBack
from memaudit.data.samples import Sample, Skipped
from memaudit.data.sampling import batches, sample_records
from memaudit.errors import DataError

if TYPE_CHECKING:  # the tokenizer is handed in, so the library itself is not needed here
    from transformers import PreTrainedTokenizerBase

LEAST_PREFIX = 8
"""Tokens before the first suffix that slides over a text, if P is not less: fewer name no record
among others, so that an exact suffix would be a guess. With more, less of a text is audited."""
PADDING = -1
"""Fills the places before a prefix of fewer than P tokens. No token has this id."""


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of one file, in file order: N windows of up to P tokens, and S after them."""

    ids: NDArray[np.int32]
    """(N, P+S): prefix and suffix; PADDING comes before a shorter prefix."""
    longest_prefix: int
    """P."""
    sample: NDArray[np.int64]
    """(N,): the sample's number among the file's good records, from 0."""
    line: NDArray[np.int64]
    """(N,): the sample's line, from 1."""
    window: NDArray[np.int64]
    """(N,): the window's number within its sample, from 0."""
    sample_tokens: NDArray[np.int64]
    """(N,): tokens that could be audited in the window's sample: its text, or its given suffix."""
    new_tokens: NDArray[np.int64]
    """(N,): suffix tokens that are in no earlier window of the sample. Windows may overlap."""
    sample_id: tuple[str, ...]
    """Ids of length N, as are the next two."""
    group: tuple[str | None, ...]
    extra: tuple[Mapping[str, str], ...]
    """Columns that the user keeps; the windows of a sample share a mapping."""
    skipped: tuple[Skipped, ...]
    """Records that gave no window, with their reasons, in file order."""
    boundary_shifts: int
    """Windows whose first suffix token begins inside the prefix string."""
    columns: tuple[str, ...]
    """Names of the columns that the user keeps, in the order given."""
    samples: int
    """Good records, with or without a window."""
    notes: tuple[str, ...] = ()
    """Notes on the cutting for readers of the result."""
    bos_source: BosSource = "tokenizer"
    """Source of the BOS token before these windows."""
    chat_date: date | None = None
    """Date given to the chat template; None if it asked for none."""
    misread: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(N,): windows whose ids do not decode to their text. Empty if there are none."""
    letters: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """(V,): letters that each id of these windows stands for; empty if nobody counted them."""
    record_tokens: int = 0
    """Tokens that could be audited in all good records, with or without a window."""
    chats: int = 0
    """Chats that were rendered."""
    changed_chats: int = 0
    """Chats among them in which the chat template changes a turn or its place."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prefix_ids(self) -> NDArray[np.int32]:
        """(N, P); PADDING comes before a shorter prefix."""
        return self.ids[:, : self.longest_prefix]

    @property
    def suffix_ids(self) -> NDArray[np.int32]:
        """(N, S)."""
        return self.ids[:, self.longest_prefix :]

    @cached_property
    def prefix_tokens(self) -> NDArray[np.int64]:
        """(N,) tokens of each prefix, up to P."""
        return np.asarray((self.prefix_ids != PADDING).sum(axis=1))

    @property
    def audited_share(self) -> float:
        """Share of the tokens of all records that are in some suffix."""
        return float(self.new_tokens.sum() / self.record_tokens)

    @property
    def window_tokens(self) -> int:
        """P+S."""
        return int(self.ids.shape[1])

    def keep(self, mask: NDArray[np.bool_], reason: str) -> Windows:
        """Return only the windows of the mask (N,); a sample that loses one is noted as skipped."""
        rows = np.flatnonzero(mask)
        lost = {int(self.sample[row]): int(row) for row in np.flatnonzero(~mask)}
        dropped = [
            Skipped(self.sample_id[row], int(self.line[row]), reason, self.extra[row])
            for row in lost.values()
        ]
        skipped = sorted([*self.skipped, *dropped], key=lambda record: record.line)
        return replace(
            self,
            ids=self.ids[rows],
            sample=self.sample[rows],
            line=self.line[rows],
            window=self.window[rows],
            sample_tokens=self.sample_tokens[rows],
            new_tokens=self.new_tokens[rows],
            sample_id=tuple(self.sample_id[row] for row in rows),
            group=tuple(self.group[row] for row in rows),
            extra=tuple(self.extra[row] for row in rows),
            skipped=tuple(skipped),
            misread=self.misread[rows] if len(self.misread) else self.misread,
        )


class NoWindow(DataError):
    """A file gives no window."""

    begin_with_bos: bool = False
    """True if texts begin with the BOS token, which is not counted in the prefix."""


def cut_windows(
    samples: Iterable[Sample | Skipped],
    tokenizer: PreTrainedTokenizerBase,
    settings: WindowSettings,
    rng: np.random.Generator,
    *,
    bos: Bos = "auto",
    counts_bos: bool = False,
) -> Windows:
    """Encode every sample once and cut its windows of P + S tokens.

    A ``text`` is cut where ``settings.placement`` says. Where the suffix is given (``prefix`` +
    ``suffix``, or a turn of the assistant), ``placement`` says where in it the S tokens of a window
    are; up to P tokens before them are its prefix, as of windows that slide over a text. P and S
    are chosen. ``rng`` chooses the samples if there is a limit.
    A BOS token at the start of a text counts as the one before every input, or as a token of the
    prefix if ``counts_bos``.

    Raises:
        NoWindow: if there is no window.
        DataError: if there is no template for a chat, or a random one; or if inputs of this file
            would begin in different ways.
    """
    encoder = Encoder(tokenizer, bos=bos, chat_date=settings.chat_date, counts_bos=counts_bos)
    pile = _Pile(settings, encoder.reading_back)
    for batch in batches(sample_records(samples, settings.limit, rng)):
        encoded = iter(
            encoder.encode([record.item for record in batch if isinstance(record.item, Sample)])
        )
        for record in batch:
            if isinstance(record.item, Skipped):
                pile.skip(record.item)
            else:
                pile.add(record.item, record.number, next(encoded))
    windows = pile.windows(settings.chat_date if encoder.asks_date else None)
    letters = count_letters(tokenizer, windows.ids)
    return replace(windows, notes=(*windows.notes, *encoder.chat_notes), letters=letters)


def find_rows(windows: Windows, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the rows of windows that have any of these ids (M,P+S): (rows,)."""
    wanted = {tuple(row) for row in ids.tolist()}
    rows = windows.ids.tolist() if wanted else []
    return np.flatnonzero([tuple(row) in wanted for row in rows])


def reach(lengths: Sequence[int]) -> int:
    """Return the tokens that nine samples in ten have. lengths: the tokens of each; at least one.

    Both the choice of windows and the advice on them leave out the shortest tenth of the samples.
    """
    return sorted(lengths, reverse=True)[math.ceil(0.9 * len(lengths)) - 1]


def percent(share: float) -> str:
    """Return a share as whole percent, rounded down: only all of it is 100 %."""
    return "less than 1 %" if 0 < share < 0.01 else f"{math.floor(100 * share + 1e-9)} %"


def fitting_window(lengths: Sequence[int]) -> str:
    """Name the largest window of two equal halves for which nine samples in ten are long enough.

    ``lengths``: the tokens of each sample; at least one.
    """
    half = reach(lengths) // 2
    if half < 1:
        return "no window would fit 90 % of the samples"
    return f"a window of {half}+{half} tokens would fit 90 % of the samples"


# Places in a sample.


class _TooShort(Exception):
    """The sample has too few tokens; the message says how many."""


def _suffix_starts(encoded: Encoded, settings: WindowSettings) -> NDArray[np.int64]:
    """Return the places in a sample's ids where the suffixes of its windows start: (windows,)."""
    tokens, border, placement = len(encoded.ids), encoded.border, settings.chosen_placement
    last = tokens - settings.suffix_tokens
    if border is not None:
        _require("prefix of ", border, 1)
        _require("suffix of ", tokens - border, settings.suffix_tokens)
        first = border
    elif placement == "sliding":
        _require("", tokens, min(LEAST_PREFIX, settings.prefix_tokens) + settings.suffix_tokens)
        first = min(LEAST_PREFIX, settings.prefix_tokens)
    else:
        _require("", tokens, settings.length)
        first = settings.prefix_tokens
    if placement == "sliding":
        starts = np.arange(first, last + 1, settings.step, dtype=np.int64)
        # A sample is audited to its end: the last window may overlap the one before it.
        return np.union1d(starts, [last])
    return np.array([last if placement == "end" else first])


def _cut_rows(
    ids: NDArray[np.int32], starts: NDArray[np.int64], settings: WindowSettings
) -> NDArray[np.int32]:
    """Return the ids of windows: (n,P+S), with PADDING before prefixes of fewer than P tokens.

    starts: (n,) first tokens of their suffixes.
    """
    padded = np.concatenate([np.full(settings.prefix_tokens, PADDING, dtype=np.int32), ids])
    views = np.lib.stride_tricks.sliding_window_view(padded, settings.length)
    return views[starts]  # a window starts P tokens before its suffix, where the padding is P


def _require(what: str, tokens: int, needed: int) -> None:
    if tokens < needed:
        raise _TooShort(f"{what}{tokens} tokens, the window needs {needed}")


@dataclass(frozen=True)
class _Cut:
    """The windows of a sample, without its text and other tokens."""

    rows: NDArray[np.int32]
    """(windows, P+S)."""
    sample: Sample
    """Without its text."""
    number: int
    misread: NDArray[np.bool_]
    """(windows,): True if the ids do not decode to their text."""
    tokens: int
    """Tokens that could be audited."""
    new_tokens: NDArray[np.int64]
    """(windows,): suffix tokens that are in no earlier window."""


class _Pile:
    """The windows cut so far, and the records that gave none."""

    def __init__(self, settings: WindowSettings, reading_back: ReadingBack) -> None:
        self._settings = settings
        self._reading_back = reading_back
        self._cuts: list[_Cut] = []
        self._skipped: list[Skipped] = []
        self._lengths: list[int] = []  # tokens; twice the suffix where it is given
        self._contexts: list[int] = []  # most tokens before a given suffix's windows, by record
        self._record_tokens = 0  # that could be audited
        self._samples = self._too_short = self._shifts = 0
        self._begin_with_bos = self._odd_bos = self._shortened = 0  # samples
        self._chats = self._changed_chats = 0
        self._bos_sources: Counter[BosSource] = Counter()  # of samples with a window

    def skip(self, skipped: Skipped) -> None:
        """Take a record that gives no window."""
        self._skipped.append(skipped)

    def add(self, sample: Sample, number: int, encoded: Encoded) -> None:
        """Take a sample: its windows, or the reason why there are none."""
        self._samples += 1
        self._chats += encoded.is_chat
        self._changed_chats += encoded.is_changed
        problem = encoded.problem or self._cut(sample, number, encoded)
        if problem is not None:
            self.skip(Skipped(sample.sample_id, sample.line, problem, sample.extra))

    def _cut(self, sample: Sample, number: int, encoded: Encoded) -> str | None:
        tokens, border = len(encoded.ids), encoded.border
        self._begin_with_bos += encoded.has_bos
        auditable = tokens - (border or 0)
        self._lengths.append(tokens if border is None else 2 * auditable)
        self._record_tokens += auditable
        try:
            suffixes = _suffix_starts(encoded, self._settings)
        except _TooShort as problem:
            self._too_short += 1
            return str(problem)
        starts = np.maximum(0, suffixes - self._settings.prefix_tokens)
        ends = suffixes + self._settings.suffix_tokens
        textless = replace(sample, text=None, prefix=None, suffix=None, messages=None, tools=())
        misread = np.zeros(len(starts), dtype=np.bool_)
        if encoded.mismatch is not None:
            misread = self._reading_back.misread(
                encoded.mismatch, encoded.ids, np.stack([starts, ends], axis=1)
            )
        rows = _cut_rows(encoded.ids, suffixes, self._settings)
        steps = np.diff(suffixes, prepend=suffixes[0] - self._settings.suffix_tokens)
        new_tokens = np.minimum(steps, self._settings.suffix_tokens)
        self._cuts.append(_Cut(rows, textless, number, misread, auditable, new_tokens))
        self._shifts += encoded.shifted
        self._odd_bos += encoded.has_odd_bos
        self._shortened += encoded.shortened
        own = encoded.bos_source == "text" and not starts.any()
        source: BosSource = "tokenizer" if encoded.bos_source == "text" else encoded.bos_source
        self._bos_sources["text" if own else source] += 1
        if border is not None:
            self._contexts.append(int(suffixes.max()))
        return None

    def windows(self, chat_date: date | None) -> Windows:
        """Return all windows together.

        Raises:
            DataError: if there are none, or if inputs would begin in different ways.
        """
        self._require_one()
        bos_source = self._bos_source()
        each = [cut for cut in self._cuts for _ in cut.rows]
        return Windows(
            ids=np.concatenate([cut.rows for cut in self._cuts]),
            longest_prefix=self._settings.prefix_tokens,
            sample=np.array([cut.number for cut in each], dtype=np.int64),
            line=np.array([cut.sample.line for cut in each], dtype=np.int64),
            window=np.concatenate([np.arange(len(cut.rows), dtype=np.int64) for cut in self._cuts]),
            sample_tokens=np.array([cut.tokens for cut in each], dtype=np.int64),
            new_tokens=np.concatenate([cut.new_tokens for cut in self._cuts]),
            sample_id=tuple(cut.sample.sample_id for cut in each),
            group=tuple(cut.sample.group for cut in each),
            extra=tuple(cut.sample.extra for cut in each),
            skipped=tuple(self._skipped),
            boundary_shifts=self._shifts,
            columns=tuple(self._columns()),
            samples=self._samples,
            record_tokens=self._record_tokens,
            notes=self._notes(),
            bos_source=bos_source,
            chat_date=chat_date,
            misread=self._misread(),
            chats=self._chats,
            changed_chats=self._changed_chats,
        )

    def _columns(self) -> dict[str, None]:
        """Return the columns that the user keeps, and the repetitions if any sample has them."""
        samples = (part for parts in (self._cuts, self._skipped) for part in parts)
        extra = (part.sample.extra if isinstance(part, _Cut) else part.extra for part in samples)
        counted = [REPETITIONS] if any(REPETITIONS in columns for columns in extra) else []
        return dict.fromkeys([*self._settings.keep_columns, *counted])

    def _misread(self) -> NDArray[np.bool_]:
        misread = np.concatenate([cut.misread for cut in self._cuts])
        return misread if misread.any() else misread[:0]

    def _bos_source(self) -> BosSource:
        if len(self._bos_sources) == 1:
            return next(iter(self._bos_sources))
        raise DataError(
            f"in {self._bos_sources['template']:,} chats the template writes no BOS token, and "
            f"before the other {self._bos_sources['tokenizer']:,} records the tokenizer puts one; "
            "choose for all with --bos yes or --bos no, or audit them as separate files"
        )

    def _require_one(self) -> None:
        if self._cuts:
            return
        shape = f"{self._settings.prefix_tokens}+{self._settings.suffix_tokens} tokens"
        message = f"none of {self._samples} samples gives a window of {shape}"
        if self._skipped:
            first = self._skipped[0]
            message += f"; line {first.line}: {first.reason}"
        if self._too_short:
            message += f"; {fitting_window(self._lengths)}"
        if self._begin_with_bos:
            message += "; the BOS token that texts begin with is not counted"
        error = NoWindow(message)
        error.begin_with_bos = self._begin_with_bos > 0
        raise error

    def _note_on_prefixes(self) -> Iterator[str]:
        """Yield a sentence on given prefixes of which the model is shown a part."""
        limit = self._settings.prefix_tokens
        if cut := sum(tokens > limit for tokens in self._contexts):
            yield (
                f"{cut:,} of {len(self._contexts):,} records have more than {limit} tokens before "
                "an audited suffix, and the model is shown only the last of them. That can hide "
                "what it has memorized: use a larger --prefix-tokens; the longest of these "
                f"prefixes has {max(self._contexts):,} tokens."
            )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if 2 * self._too_short > self._samples:
            shape = f"{self._settings.prefix_tokens}+{self._settings.suffix_tokens} tokens"
            notes.append(
                f"{self._too_short} of {self._samples} samples are too short for a window of "
                f"{shape}; {fitting_window(self._lengths)}"
            )
        notes += self._note_on_prefixes()
        if self._bos_sources["text"]:
            notes.append(
                "Every record begins with the BOS token, which counts as the first token of its "
                "window; no other is put before it."
            )
        elif self._begin_with_bos:
            notes.append(
                f"{self._begin_with_bos:,} of {self._samples:,} records begin with the BOS token: "
                "it is not put before them a second time, and counts for no token of the prefix."
            )
        if self._odd_bos:
            notes.append(
                f"{self._odd_bos:,} of {self._samples:,} records begin with the letters of the BOS "
                "token, which the tokenizer reads otherwise or behind white space: BOS is put "
                "before them all the same. If they were rendered for this model, use --bos no."
            )
        if self._shortened:
            notes.append(
                f"The chat template left words of the last turn out in {self._shortened:,} of "
                f"{self._samples:,} chats, as a train of thought: those are not audited."
            )
        if loses := self._reading_back.loses:
            notes.append(
                f"The tokenizer takes {loses} from the text, as it declares: records that differ "
                "in nothing else are one and the same here."
            )
        return tuple(notes)
