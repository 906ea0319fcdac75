"""The plan of an audit: its windows, and the fold whose prompts score each of them.

Knows the data room and the settings. Knows nothing of models beyond a tokenizer that is passed in,
and nothing of attacks beyond the windows on which earlier prompts were fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from memaudit.config.settings import CHAT_DATE, NEED_FOLDS, AttackName, ScanConfig
from memaudit.data.bos import BosSource
from memaudit.data.clusters import find_clusters, have_marks
from memaudit.data.corpus import Corpus, FoldSizes
from memaudit.data.encoding import Encoder
from memaudit.data.folds import (
    Fold,
    assign_controls,
    attacks_left_out,
    fold_of,
    left_out_sentence,
    make_folds,
)
from memaudit.data.forms import naming_of
from memaudit.data.inputs import check_inputs
from memaudit.data.own_tokens import TemplateTokens, count_template
from memaudit.data.records import size_of
from memaudit.data.samples import DataSummary, check_samples, read_samples
from memaudit.data.template import NO_TEMPLATE, Template, find_template
from memaudit.data.window_choice import RecordLengths, measure_records
from memaudit.data.windows import NoWindow, Windows, cut_windows, percent
from memaudit.errors import DataError, TargetError, UsageError
from memaudit.system.limits import LimitReached, run_limited

T = TypeVar("T")
Role = Literal["data", "control"]
LEAST_CPU_SECONDS = 60
"""Processor time that tokenising may always take."""
PACKED_BYTES_A_SECOND = 5_000
"""Bytes of a file, as it lies on disk, for which tokenising gets a second of processor time. A fast
tokenizer reads a million, a slow one fifty thousand; packed text is four times as long unpacked."""
_LONGEST_COLUMN, _MOST_NAMED = 80, 30
"""Characters of a column's name in a message, and how many it names."""
SEEN_REASON = "near-duplicate of a window that these prompts were fitted on"


@dataclass(frozen=True, eq=False)
class SeenRuns:
    """Runs of tokens on which the prompts of one fold were fitted earlier."""

    hashes: NDArray[np.uint64]
    """Sorted marks (data.clusters.Marker) of their fit and select windows."""
    run: int
    """Length, in tokens, of a run that makes near-duplicates."""


class _Clustered(NamedTuple):
    """Data and controls, clustered together."""

    template: Template
    counted: dict[Role, TemplateTokens]
    """Template in the windows, by role."""
    clusters: dict[Role, NDArray[np.int64]]
    """Clusters of the windows, by role."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The windows, and how they are split."""

    data: Corpus
    controls: Corpus | None
    folds: tuple[Fold, ...]
    """Empty if no attack needs any, as with prompts fitted earlier, or if none are possible."""
    notes: tuple[str, ...]
    """Consequences of the split for the reader, a sentence each."""
    template: Template = NO_TEMPLATE
    """Text that stands in many records and makes no near-duplicates."""
    left_out: tuple[AttackName, ...] = ()
    """Attacks that cannot run, because they need folds and too few clusters make none."""
    why_left_out: str = ""
    """Which attacks cannot run, and why; empty if all can."""

    def runnable(self, config: ScanConfig) -> ScanConfig:
        """Return the settings with the attacks that can run."""
        attacks = tuple(attack for attack in config.attacks if attack not in self.left_out)
        return config.model_copy(update={"attacks": attacks})


def check_files(config: ScanConfig) -> dict[Role, DataSummary]:
    """Read every file once, before anything else.

    Raises DataError for the first fault, and UsageError as `check_inputs` or for a column to keep
    that there is not.
    """
    check_inputs(config)
    skip = config.windows.skip_bad_lines
    naming = naming_of(config.windows)
    paths: dict[Role, Path | None] = {"data": config.data, "control": config.controls}
    summaries = {
        role: check_samples(path, skip_bad_lines=skip, naming=naming)
        for role, path in paths.items()
        if path is not None
    }
    _check_columns(config.windows.keep_columns, summaries)
    return summaries


def _check_columns(keep: Sequence[str], summaries: Mapping[Role, DataSummary]) -> None:
    """Raise UsageError for a column to keep that neither file has beside its text.

    A message names only columns of most samples: in a line of its own, a name may be a value.
    """
    there = {name for summary in summaries.values() for name in summary.columns}
    missing = [name for name in keep if name not in there]
    if not missing:
        return
    named = {
        name: None
        for summary in summaries.values()
        for name, samples in summary.columns.items()
        if 2 * samples >= summary.rows and len(name) <= _LONGEST_COLUMN
    }
    listed = ", ".join(list(named)[:_MOST_NAMED])
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    choices = f"choose from {listed}{more}" if listed else "there is none beside the text"
    raise UsageError(f"--keep-columns {missing[0]}: no such column; {choices}")


def cut_files(config: ScanConfig, tokenizer: Any) -> dict[Role, Windows]:
    """Tokenise and cut every file. The windows' size is chosen.

    The BOS token that texts begin with is not counted in P, unless no window fits otherwise.

    Raises:
        DataError: if a file gives no window, or inputs would begin in different ways.
        TargetError: if the tokenizer or the chat template takes more time or memory than it may.
    """
    return _limited(config, lambda: _cut_all(config, tokenizer))


def measure_data(config: ScanConfig, tokenizer: Any) -> RecordLengths:
    """Tokenise random records of the data file and count their tokens. Raises as `cut_files`."""
    return _limited(config, lambda: _measure_data(config, tokenizer))


def _measure_data(config: ScanConfig, tokenizer: Any) -> RecordLengths:
    windows = config.windows
    samples = read_samples(
        config.data, skip_bad_lines=windows.skip_bad_lines, naming=naming_of(windows)
    )
    encoder = Encoder(tokenizer, bos=config.target.bos, chat_date=windows.chat_date)
    rng = np.random.default_rng([config.protocol.seed, 3])
    with _named(config.data):
        return measure_records(samples, encoder, rng)


def _limited(config: ScanConfig, work: Callable[[], T]) -> T:
    """Do what runs the tokenizer and the template on the data. Raises TargetError at its limits."""
    try:
        return run_limited(work, _cpu_seconds(config))
    except LimitReached as limit:
        raise TargetError(
            f"{config.model}: its tokenizer and chat template, given the data, {limit}; they are "
            "damaged or malicious"
        ) from None


def _cpu_seconds(config: ScanConfig) -> int:
    """Return the seconds of processor time for all files: many times what slow tokenizers need."""
    files = [path for path in (config.data, config.controls) if path is not None]
    return LEAST_CPU_SECONDS + sum(map(size_of, files)) // PACKED_BYTES_A_SECOND


def _cut_all(config: ScanConfig, tokenizer: Any) -> dict[Role, Windows]:
    try:
        cut = _cut_files(config, tokenizer, counts_bos=False)
    except NoWindow as error:
        # A soft prompt stands between BOS and the prefix: BOS has to be no part of the window.
        if not error.begin_with_bos or set(config.attacks) - {"none", "copy"}:
            raise
        with suppress(DataError):
            cut = _cut_files(config, tokenizer, counts_bos=True)
            if {part.bos_source for part in cut.values()} == {"text"}:
                return cut
        raise
    bos_source(cut)
    return cut


def bos_source(windows: Mapping[Role, Windows]) -> BosSource:
    """Return the source of BOS for all files. Raises DataError if they differ."""
    sources = {part.bos_source for part in windows.values()} or {"tokenizer"}
    if len(sources) > 1:
        bare, with_bos = ("data", "controls")
        if windows["data"].bos_source == "tokenizer":
            bare, with_bos = with_bos, bare
        raise DataError(
            f"the {bare} are chats for which the template writes no BOS token, and before the "
            f"{with_bos} the tokenizer puts one; choose for both with --bos yes or --bos no, or "
            "give both as chats"
        )
    return sources.pop()


def _cut_files(config: ScanConfig, tokenizer: Any, *, counts_bos: bool) -> dict[Role, Windows]:
    paths: dict[Role, Path | None] = {"data": config.data, "control": config.controls}
    cut: dict[Role, Windows] = {}
    for number, (role, path) in enumerate(paths.items()):
        if path is not None:
            samples = read_samples(
                path,
                skip_bad_lines=config.windows.skip_bad_lines,
                naming=naming_of(config.windows),
            )
            rng = np.random.default_rng([config.protocol.seed, number])
            with _named(path):
                cut[role] = cut_windows(
                    samples,
                    tokenizer,
                    config.windows,
                    rng,
                    bos=config.target.bos,
                    counts_bos=counts_bos,
                )
    return cut


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before an error about its windows."""
    try:
        yield
    except DataError as error:
        if not str(error).startswith(str(path)):
            error.args = (f"{path}: {error}",)
        raise


def make_plan(
    config: ScanConfig,
    summaries: Mapping[Role, DataSummary],
    windows: Mapping[Role, Windows],
    earlier: Sequence[SeenRuns] = (),
) -> Plan:
    """Cluster near-duplicates and split into folds, or by the windows of earlier prompts.

    Too few independent windows for the folds leave out the attacks that need them. Raises DataError
    if no attack is left.
    """
    if earlier:
        return _plan_unseen(config, summaries, windows, earlier)
    template, counted, clusters = _cluster(config, windows)
    rng = np.random.default_rng([config.protocol.seed, 2])
    count, protocol = len(np.unique(clusters["data"])), config.protocol
    samples = len(np.unique(windows["data"].sample))
    left_out = attacks_left_out(config.attacks, samples, count, protocol)
    if {*left_out} == {*config.attacks}:
        left_out = ()  # no attack is left: making the folds says why
    folds = () if left_out else _folds(config, windows["data"], clusters["data"], rng)
    audited = fold_of(folds, len(windows["data"]))
    data = Corpus(
        summaries["data"],
        windows["data"],
        clusters["data"],
        audited,
        counted["data"],
    )
    controls = None
    if "control" in windows:
        own, others = windows["control"].sample, clusters["control"]
        assigned = assign_controls(own, others, clusters["data"], folds, rng)
        controls = Corpus(
            summaries["control"],
            windows["control"],
            clusters["control"],
            assigned,
            counted["control"],
        )
    why = left_out_sentence(left_out, count, protocol) if left_out else ""
    notes = _notes(config, data, controls, has_folds=bool(folds))
    return Plan(data, controls, folds, (*filter(None, [why]), *notes), template, left_out, why)


def _folds(
    config: ScanConfig,
    windows: Windows,
    clusters: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[Fold, ...]:
    """Make the folds; none if no attack learns or copies from other windows."""
    if not NEED_FOLDS & {*config.attacks}:
        return ()
    with _named(config.data):
        try:
            return make_folds(clusters, config.protocol, rng, windows.sample)
        except DataError as error:
            raise DataError("; ".join([str(error), *windows.notes])) from None


def _cluster(config: ScanConfig, windows: Mapping[Role, Windows]) -> _Clustered:
    """Find template and clusters in data and controls together."""
    parts, run = list(windows.values()), config.protocol.cluster_run
    template = find_template(parts, run)
    both = find_clusters(parts, run, template)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    clusters = dict(zip(windows, np.split(both, ends), strict=True))
    counted = {role: count_template(part, template) for role, part in windows.items()}
    return _Clustered(template, counted, clusters)


def _plan_unseen(
    config: ScanConfig,
    summaries: Mapping[Role, DataSummary],
    windows: Mapping[Role, Windows],
    earlier: Sequence[SeenRuns],
) -> Plan:
    longest = max(runs.run for runs in earlier)
    if longest > config.windows.length:
        raise UsageError(
            f"--generator: its near-duplicates are runs of {longest} tokens, longer than these "
            f"windows of {config.windows.length}; use the window it was fitted with"
        )
    template, counted, clusters = _cluster(config, windows)
    total = 1 + max(int(part.max()) for part in clusters.values())
    known = np.zeros((len(earlier), total), dtype=bool)  # (folds, clusters)
    for role, part in windows.items():
        for number, runs in enumerate(earlier):
            is_known = have_marks(part, runs.run, summaries[role].sha256, runs.hashes)
            known[number, clusters[role][is_known]] = True
    # The first fold not fitted on anything of the cluster; -1 if there is none.
    fold = np.where(known.all(axis=0), -1, known.argmin(axis=0))
    corpora = {
        role: _unseen_corpus(summaries[role], part, clusters[role], fold, counted[role])
        for role, part in windows.items()
    }
    return Plan(
        corpora["data"],
        corpora.get("control"),
        (),
        tuple(_notes(config, corpora["data"], corpora.get("control"), has_folds=False)),
        template,
    )


def _unseen_corpus(
    summary: DataSummary,
    windows: Windows,
    clusters: NDArray[np.int64],
    fold_of_cluster: NDArray[np.int64],
    template: TemplateTokens,
) -> Corpus:
    folds = fold_of_cluster[clusters]
    keep = folds >= 0
    if not keep.any():
        raise DataError(
            f"{summary.path}: every window is a near-duplicate of what --generator was fitted on; "
            "leave the flag out to fit on this file with folds kept apart"
        )
    left = windows.keep(keep, SEEN_REASON)
    return Corpus(summary, left, clusters[keep], folds[keep], template.take(keep))


def _notes(
    config: ScanConfig,
    data: Corpus,
    controls: Corpus | None,
    *,
    has_folds: bool,
) -> Iterable[str]:
    if config.protocol.split == "random":
        yield (
            "Folds are random: near-duplicates of a window may have been fitted on. "
            "These rates are not evidence of memorization; use split = 'clusters' for an audit."
        )
    if controls is None:
        yield (
            "No controls were given: predictable text counts as extracted. The check that is left "
            "compares each output with the suffix of an unrelated window."
        )
    else:
        shared = int(np.isin(controls.sample_clusters, data.sample_clusters).sum())
        if shared:
            yield (
                f"{shared:,} of {len(controls.sample_clusters):,} controls are near-duplicates of "
                "audited samples, so they are not text that the model has not seen."
            )
    sizes = np.unique(data.sample_clusters, return_counts=True)[1]
    if len(sizes) and sizes.max() > sizes.sum() / 2 and sizes.sum() > 1:
        wide = "the folds are uneven and the intervals wide" if has_folds else "intervals are wide"
        yield (
            f"{sizes.max():,} of {sizes.sum():,} samples form one cluster of near-duplicates; "
            f"{wide}."
        )
    corpora = [corpus for corpus in (data, controls) if corpus is not None]
    yield from _template_notes(data)
    days = {corpus.windows.chat_date for corpus in corpora} - {None}
    for day in days:
        yield (
            f"The chat template asks for today's date: it was told {day}, on whatever day this "
            "runs. If the day of training is known, give it as --set windows.chat_date=YYYY-MM-DD."
        )
    if not days and config.windows.chat_date != CHAT_DATE:
        yield "windows.chat_date was set to no effect: no chat template asked for the date."
    for corpus in corpora:
        yield from corpus.summary.notes
        name = corpus.summary.path.name
        yield from (f"{name}: {note}" for note in corpus.windows.notes)
        yield f"{name}: {_extent(config, corpus.windows)}"
        if corpus.windows.boundary_shifts:
            yield (
                f"{name}: in {corpus.windows.boundary_shifts:,} windows a token straddles the "
                "border of prefix and suffix; it counts as the suffix's first."
            )


def _extent(config: ScanConfig, windows: Windows) -> str:
    """Return a sentence on how much of a file was looked at."""
    slides = config.windows.chosen_placement == "sliding" or windows.audited_share == 1
    way = "" if slides else "; --placement sliding audits more"
    return f"{percent(windows.audited_share)} of the tokens of all records are audited{way}."


def _template_notes(data: Corpus) -> Iterator[str]:
    """Yield sentences on how much of the data is template, if any."""
    holders, total = len(np.unique(data.sample[data.template.in_window])), len(data.first_rows)
    if holders:
        share = percent(data.template_tokens.sum() / data.audited_tokens.sum())
        yield (
            f"{holders:,} of {total:,} samples hold template: text that stands in a tenth of the "
            "records or more, such as a system message or a greeting. It makes no near-duplicates, "
            "and extracting it, or what repeats the text before it, is no finding: "
            f"{share} of the audited tokens."
        )
    alone = int((~data.counted).sum())
    if alone:
        yield (
            f"{alone:,} of {total:,} samples hold nothing else in any window, so no rate or "
            "verdict covers them."
        )


def fold_sizes(plan: Plan) -> tuple[FoldSizes, ...]:
    """Count the windows in each part of each fold."""
    return tuple(
        FoldSizes(number, len(fold.fit), len(fold.select), len(fold.audit))
        for number, fold in enumerate(plan.folds)
    )
