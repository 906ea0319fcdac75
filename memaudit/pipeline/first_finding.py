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
from memaudit.report.leaks import Hits, count_leaks
from memaudit.report.wording import count
from memaudit.score.samples import group_windows
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
        f"First finding: the prefix alone extracts{share} {hits:,} of "
        f"{count(total, 'sample')}{controls}."
    )
    if hits and sensitive is not None:
        yield _sensitive_sentence(plan.data, none.data, sensitive)


def _sensitive_sentence(data: Corpus, none: Extraction, content: SensitiveContent) -> str:
    """Say of how many samples each category comes out."""
    exact: Hits = {"none": _exact(none, data)}
    groups = group_windows(data)
    leaks = count_leaks(content.categories, content.data.windows, groups, exact, None)
    extracted = [leak for leak in leaks if leak.extracted]
    if not extracted:
        return "No sensitive content was recognised in what comes out, beyond what prompts hold."
    first, *others = extracted
    named = [f"{first.title[0].upper()}{first.title[1:]} come out of {first.extracted:,} of them"]
    return f"{', '.join(named + [f'{leak.title} of {leak.extracted:,}' for leak in others])}."


def _count_samples(extraction: Extraction, corpus: Corpus) -> tuple[int, int]:
    """Count the samples that are extracted, and those attacked that can be."""
    attacked = ~np.isnan(extraction.suffix_nll) & corpus.counted[corpus.sample]
    hits = corpus.sample[_exact(extraction, corpus) & corpus.is_own]
    return len(np.unique(hits)), len(np.unique(corpus.sample[attacked]))


def _exact(extraction: Extraction, corpus: Corpus) -> NDArray[np.bool_]:
    """Mark the windows (N,) that are extracted."""
    return np.asarray((extraction.continuation_ids == corpus.windows.suffix_ids).all(axis=1))
