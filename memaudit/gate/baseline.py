"""What one audit extracted, in a form that another can be held against: a baseline.

Knows fingerprints, attacks and terms. Knows nothing of files, samples or scores. `copy` has no
part in it: it does not ask the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from memaudit.data.fingerprints import digest_of
from memaudit.errors import UsageError
from memaudit.gate.terms import Terms, differences, named


@dataclass(frozen=True)
class ModelName:
    """Which model was audited."""

    name: str
    """As the user named it."""
    sha256: str
    """Over the names and hashes of all its files, sorted."""
    files: Mapping[str, str] | None = None
    """File name to SHA-256; None where only the digest is at hand."""


@dataclass(frozen=True)
class Baseline:
    """What one audit extracted of the data's windows, and on what terms."""

    model: ModelName
    version: str
    """Of memaudit."""
    terms: Terms
    windows: int
    """Windows that were scored."""
    windows_digest: str
    """Of their fingerprints."""
    extracted: Mapping[str, tuple[str, ...]]
    """Fingerprint to the attacks on the model that extract the window, weakest first; only windows
    that at least one extracts."""
    fingerprints: tuple[str, ...] | None = None
    """Of all windows, in the file's order; None in a baseline that was read from a file."""
    computed: Mapping[str, str] = field(default_factory=dict)
    """How its figures were computed, as far as recorded: ``dtype``, ``device``, and ``fitting``,
    the number formats of the passes that fitted. They decide close calls and nothing else."""

    def count(self, attack: str) -> int:
        """Windows that an attack extracts."""
        return sum(attack in attacks for attacks in self.extracted.values())


def make_baseline(
    model: ModelName,
    version: str,
    terms: Terms,
    fingerprints: Sequence[str],
    exact: Mapping[str, Sequence[bool]],
    computed: Mapping[str, str] | None = None,
) -> Baseline:
    """A baseline from the fingerprints of N windows, and which of them each attack extracts."""
    extracted: dict[str, tuple[str, ...]] = {}
    for name in terms.attacks:
        for fingerprint, hit in zip(fingerprints, exact[name], strict=True):
            if hit:
                extracted[fingerprint] = (*extracted.get(fingerprint, ()), name)
    return Baseline(
        model=model,
        version=version,
        terms=terms,
        windows=len(fingerprints),
        windows_digest=digest_of(fingerprints),
        extracted=extracted,
        fingerprints=tuple(fingerprints),
        computed=computed or {},
    )


def require_same_terms(before: Terms, now: Terms, where: str) -> None:
    """Raise UsageError, naming what differs, where two audits cannot be compared."""
    if found := differences(before, now):
        raise UsageError(f"{where}: cannot be compared with this run: {named(found)}")


def notes(before: Baseline, now: Baseline) -> tuple[str, ...]:
    """What besides the model may have changed close calls, a sentence each."""
    one, other = before.computed, now.computed
    found = []
    if one and other and any(one.get(key) != other.get(key) for key in ("dtype", "device")):
        found.append(
            f"Audited in {_computed(one)}, now {_computed(other)}: close calls may differ."
        )
    day = now.terms.chat_date
    if day is not None and before.terms.chat_date is None:
        found.append(
            f"The chat template was told {day} (windows.chat_date); the baseline records no date, "
            "so its chats may have read otherwise."
        )
    fitted = one.get("fitting"), other.get("fitting")
    if None not in fitted and fitted[0] != fitted[1]:
        found.append(f"Prompts fitted in {fitted[0]}, now {fitted[1]}: close calls may differ.")
    return tuple(found)


def _computed(how: Mapping[str, str]) -> str:
    return f"{how.get('dtype', 'an unknown dtype')} on {how.get('device', 'an unknown device')}"


def require_same_windows(
    baseline: Baseline,
    windows_digest: str,
    where: str,
    *,
    bos: str | None = None,
    chat_date: str | None = None,
) -> None:
    """Raise UsageError where a baseline is not of just these windows, ``bos`` and ``chat_date``.

    Of a baseline read from a file only the windows that were extracted are known, so what else it
    had can be told from nothing but the digest.
    """
    before = baseline.terms
    now = replace(before, bos=bos or before.bos, chat_date=chat_date or before.chat_date)
    require_same_terms(before, now, where)
    if baseline.windows_digest != windows_digest:
        cause = "as another tokenizer makes them"
        if chat_date is not None and before.chat_date is None:
            cause = (
                f"as the chat template makes them on another date; it is told {chat_date} now "
                "(windows.chat_date), and the baseline records none"
            )
        raise UsageError(
            f"{where}: cannot be compared with this run: the same data gave other windows "
            f"({baseline.windows:,} then), {cause}; write a new baseline"
        )


def require_own_windows(baseline: Baseline, fingerprints: Iterable[str], where: str) -> None:
    """Raise UsageError where a baseline of these very windows says that others were extracted."""
    if foreign := len(baseline.extracted.keys() - set(fingerprints)):
        raise UsageError(
            f"{where}: names {foreign:,} windows that are none of this data's; it was edited, so "
            "write a new baseline"
        )


def count_new(baseline: Baseline, now: Set[str]) -> int:
    """How many of the windows extracted now are not in the baseline."""
    return len(now - baseline.extracted.keys())


def updated(baseline: Baseline, run: Baseline, *, looser: bool) -> Baseline:
    """The baseline of a later run on the same terms: without what is no longer extracted.

    What is extracted now and was not, be it a window or an attack that gets it, comes in only with
    ``looser``.
    """
    if looser:
        return run
    kept = {
        fingerprint: tuple(attack for attack in attacks if attack in now)
        for fingerprint, attacks in baseline.extracted.items()
        if (now := run.extracted.get(fingerprint, ()))
    }
    return replace(run, extracted={key: attacks for key, attacks in kept.items() if attacks})
