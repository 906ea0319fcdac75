"""The first finding of a scan: what ``none`` extracts, before any prompt is fitted.

Knows the plan and one outcome. Gives counts only, no text.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import AttackOutcome
from memaudit.attack.extraction import Extraction
from memaudit.config.shard import Shard
from memaudit.data.corpus import Corpus
from memaudit.data.plan import Plan
from memaudit.report.leaks import TITLES
from memaudit.report.wording import count
from memaudit.sensitive.counting import SensitiveContent


def first_finding(
    plan: Plan, none: AttackOutcome, sensitive: SensitiveContent | None, shard: Shard | None
) -> Iterator[str]:
    """Yield what ``none`` extracts of data and controls, then its sensitive content by category.

    shard: the share of the windows that was extracted; None for all.
    """
    hits, total = _count_samples(none.data, plan.data)
    controls = ""
    if plan.controls is not None and none.controls is not None:
        control_hits, of = _count_samples(none.controls, plan.controls)
        controls = f" and {control_hits:,} of {count(of, 'control')}"
    share = "" if shard is None else f" in this share, {shard},"
    yield (
        f"First finding: the plain prefix (none) extracts{share} {hits:,} of "
        f"{count(total, 'sample')}{controls}."
    )
    if hits and sensitive is not None:
        yield _sensitive_sentence(plan.data, _exact(none.data, plan.data), sensitive)


def _sensitive_sentence(data: Corpus, exact: NDArray[np.bool_], content: SensitiveContent) -> str:
    """Say how many samples hold each category in the windows that are extracted."""
    by_category = {
        TITLES[category]: len(np.unique(data.sample[exact & (items > 0)]))
        for category, items in zip(content.categories, content.data.windows.T, strict=True)
    }
    found = {what: samples for what, samples in by_category.items() if samples}
    if not found:
        return "No sensitive content was recognised in what comes out."
    (first, samples), *others = found.items()
    named = [f"{first.capitalize()} come out of {samples:,} of them"]
    return f"{', '.join(named + [f'{what} of {number:,}' for what, number in others])}."


def _count_samples(extraction: Extraction, corpus: Corpus) -> tuple[int, int]:
    """Count the samples that are extracted, and those attacked that can be."""
    attacked = ~np.isnan(extraction.suffix_nll) & corpus.counted[corpus.sample]
    hits = corpus.sample[_exact(extraction, corpus)]
    return len(np.unique(hits)), len(np.unique(corpus.sample[attacked]))


def _exact(extraction: Extraction, corpus: Corpus) -> NDArray[np.bool_]:
    """Mark the windows (N,) that are extracted and not template alone."""
    equal = extraction.continuation_ids == corpus.windows.suffix_ids  # (N,S)
    return np.asarray(equal.all(axis=1) & corpus.is_own)
