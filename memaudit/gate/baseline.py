"""A baseline: the samples that one audit extracted, for comparison with a later audit.

Knows fingerprints, attacks and terms. Knows nothing of files, samples or scores. The attack `copy`
is left out, as it does not ask the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from memaudit.data.fingerprints import shorten_fingerprint
from memaudit.errors import UsageError
from memaudit.gate.overlap import Overlap
from memaudit.gate.terms import Terms, differences, named


@dataclass(frozen=True)
class ModelName:
    """The audited model, by name and content."""

    name: str
    """Name that the user gave."""
    sha256: str
    """Digest of the names and hashes of all its files, sorted."""
    files: Mapping[str, str] | None = None
    """File name to SHA-256; None if only the digest is known."""


@dataclass(frozen=True)
class Baseline:
    """Samples of the data that one audit extracted, and the terms of that audit."""

    model: ModelName
    version: str
    """Version of memaudit."""
    terms: Terms
    fingerprints: tuple[str, ...]
    """Fingerprints of all samples that were scored, in the file's order; short and sorted in a
    baseline read from a file."""
    extracted: Mapping[str, tuple[str, ...]]
    """Fingerprint to the attacks on the model that extract the sample, weakest first. Holds only
    samples that at least one attack extracts."""
    computed: Mapping[str, str] = field(default_factory=dict)
    """How its figures were computed, as far as recorded: ``dtype``, ``device``, and ``fitting``,
    the number formats of the fitting passes. These affect only close calls."""

    @property
    def samples(self) -> int:
        """Number of samples that were scored."""
        return len(self.fingerprints)

    def count(self, attack: str) -> int:
        """Return the number of samples that an attack extracts."""
        return sum(attack in attacks for attacks in self.extracted.values())


def make_baseline(
    model: ModelName,
    version: str,
    terms: Terms,
    fingerprints: Sequence[str],
    hits: Mapping[str, Sequence[bool]],
    computed: Mapping[str, str] | None = None,
) -> Baseline:
    """Make a baseline from the fingerprints of N samples and each attack's hits (N,)."""
    extracted: dict[str, tuple[str, ...]] = {}
    for name in terms.attacks:
        for fingerprint, hit in zip(fingerprints, hits[name], strict=True):
            if hit:
                extracted[fingerprint] = (*extracted.get(fingerprint, ()), name)
    return Baseline(
        model=model,
        version=version,
        terms=terms,
        fingerprints=tuple(fingerprints),
        extracted=extracted,
        computed=computed or {},
    )


def require_same_terms(before: Terms, now: Terms, where: str) -> None:
    """Raise UsageError, naming the differences, if two audits cannot be compared."""
    if differing := differences(before, now):
        raise UsageError(f"{where}: cannot be compared with this run: {named(differing)}")


def notes(before: Baseline, now: Baseline) -> tuple[str, ...]:
    """Return what besides the model changed and may have changed figures, a sentence each."""
    earlier, later = before.computed, now.computed
    sentences = list(filter(None, [data_note(before, now.terms, now.fingerprints)]))
    keys = ("dtype", "device")
    if earlier and later and any(earlier.get(key) != later.get(key) for key in keys):
        sentences.append(
            f"Audited in {_computed(earlier)}, now {_computed(later)}: close calls may differ."
        )
    day = now.terms.chat_date
    if day is not None and before.terms.chat_date is None:
        sentences.append(
            f"The chat template used the date {day} (windows.chat_date); the baseline records no "
            "date, so its chats may have had different text."
        )
    fitted = earlier.get("fitting"), later.get("fitting")
    if None not in fitted and fitted[0] != fitted[1]:
        sentences.append(f"Prompts fitted in {fitted[0]}, now {fitted[1]}: close calls may differ.")
    return tuple(sentences)


def data_note(before: Baseline, terms: Terms, fingerprints: Sequence[str]) -> str:
    """Return a sentence on how the data changed; empty if it did not.

    ``terms`` and ``fingerprints``: of the run.
    """
    if before.terms.data == terms.data:
        return ""
    note = overlap_of(before, fingerprints).note
    return note or "The data file changed since the baseline, but its samples are the same."


def _computed(how: Mapping[str, str]) -> str:
    return f"{how.get('dtype', 'an unknown dtype')} on {how.get('device', 'an unknown device')}"


def require_comparable(
    baseline: Baseline, terms: Terms, fingerprints: Sequence[str], where: str
) -> None:
    """Raise UsageError if terms differ, or if the same data gave other samples.

    ``terms`` and ``fingerprints``: of the run.
    """
    before = baseline.terms
    require_same_terms(before, terms, where)
    if before.data != terms.data or not overlap_of(baseline, fingerprints).changed:
        return
    cause = "probably because the tokenizer, or the version of memaudit, changed"
    if terms.chat_date is not None and before.chat_date is None:
        cause = (
            f"perhaps because the chat template used another date; it uses {terms.chat_date} now "
            "(windows.chat_date), and the baseline records none"
        )
    raise UsageError(
        f"{where}: cannot be compared with this run: the same data gave other samples "
        f"({baseline.samples:,} in the baseline), {cause}; write a new baseline"
    )


def overlap_of(baseline: Baseline, fingerprints: Sequence[str]) -> Overlap:
    """Count the samples that a baseline and a run with these fingerprints share."""
    only_run = count_missing(fingerprints, baseline.fingerprints)
    return Overlap(
        both=len(fingerprints) - only_run,
        only_baseline=count_missing(baseline.fingerprints, fingerprints),
        only_run=only_run,
        extracted_only_baseline=len(baseline.extracted.keys() - set(fingerprints)),
    )


def count_missing(fingerprints: Iterable[str], known: Iterable[str]) -> int:
    """Return how many of the samples are not among the known ones; either may be short."""
    short = set(map(shorten_fingerprint, known))
    return sum(shorten_fingerprint(fingerprint) not in short for fingerprint in fingerprints)


def count_new(baseline: Baseline, now: Set[str]) -> int:
    """Return how many of the samples extracted now are not in the baseline."""
    return len(now - baseline.extracted.keys())


def updated(baseline: Baseline, run: Baseline, *, looser: bool) -> Baseline:
    """Return the baseline of a later run on the same terms, without what is no longer extracted.

    Its samples are the run's, as data may change. Newly extracted samples, and attacks that newly
    extract a sample, are added only with ``looser``.
    """
    if looser:
        return run
    remaining = {
        fingerprint: tuple(attack for attack in attacks if attack in now)
        for fingerprint, attacks in baseline.extracted.items()
        if (now := run.extracted.get(fingerprint, ()))
    }
    return replace(run, extracted={key: attacks for key, attacks in remaining.items() if attacks})
