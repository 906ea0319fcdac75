"""Thresholds on the exact rate, and what the controls say about it.

Knows attack summaries and the gate's settings. Knows nothing of windows, runs or reports. A
gate never passes for want of data: where the windows are too few to tell, it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.config import GateSettings
from memaudit.score.scores import AttackSummary, Rate
from memaudit.score.stats import clopper_pearson

Verdict = Literal["pass", "fail", "inconclusive"]

_SEVERITY: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}
_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "inconclusive": 4, "fail": 1}
FEWEST_CONTROLS = 30
"""Fewer than these prove nothing, even with none extracted: 0 of 30 may still be 12 %."""
_MOST_WINDOWS = 10**9
"""Where the search for the number of windows that would decide gives up."""


@dataclass(frozen=True)
class GateVerdict:
    """One gate, judged."""

    name: str
    """``max-exact`` or ``controls``."""
    threshold: float
    """``max-exact``: largest rate that passes. ``controls``: the controls' exact rate, which
    the data's has to exceed; NaN where no control was scored."""
    attack: str
    """The attack that decided; empty where no attack on the model was run."""
    estimate: float
    """Exact rate of that attack on the data, fraction in [0,1]; NaN where nothing was scored."""
    bound: float
    """Upper end of that rate: the larger of the exact and the clustered interval's."""
    verdict: Verdict
    reason: str
    """Why, in a sentence."""


def judge(summaries: Sequence[AttackSummary], settings: GateSettings) -> tuple[GateVerdict, ...]:
    """One verdict for each gate that is set, by the attack that fares worst.

    ``copy`` is not judged: it does not ask the model anything.
    """
    if settings.max_exact is None:
        return ()
    threshold = settings.max_exact
    judged = [
        _max_exact(summary, threshold, settings.gate_on == "upper")
        for summary in summaries
        if summary.attack != "copy"
    ]
    if judged:
        return (max(judged, key=_badness),)
    reason = "No attack on the model was run, so there is nothing to judge."
    nothing = GateVerdict("max-exact", threshold, "", math.nan, 1.0, "inconclusive", reason)
    return (nothing,)


def judge_controls(summaries: Sequence[AttackSummary]) -> GateVerdict | None:
    """Whether the attacks tell the data from text that the model has not seen.

    An attack that extracts controls, and the data not significantly more often (Fisher's
    exact test, one-sided, at 1 - confidence), proves nothing: ``inconclusive``. Of several
    such attacks the one with the largest p-value stands in the verdict. Never ``fail``. None
    where no controls were given. ``copy`` is not judged.
    """
    tested = [_controls(s) for s in summaries if s.attack != "copy"]
    judged = [pair for pair in tested if pair is not None]
    if not judged:
        return None
    return max(judged, key=lambda pair: (_SEVERITY[pair[1].verdict], pair[0]))[1]


def exit_code(verdicts: Sequence[GateVerdict]) -> int:
    """1 where any gate failed, else 4 where any is inconclusive, else 0."""
    worst: Verdict = max(
        (verdict.verdict for verdict in verdicts), key=_SEVERITY.__getitem__, default="pass"
    )
    return _EXIT_CODES[worst]


def windows_needed(k: int, threshold: float, confidence: float) -> int | None:
    """Least number of windows of which ``k`` hits have an exact upper bound <= ``threshold``.

    None where no number within reason does: for a threshold of 0 there is none at all.
    """
    low, high = k, k + 1  # low never suffices: k of k has the upper bound 1
    while clopper_pearson(k, high, confidence).high > threshold:
        if high > _MOST_WINDOWS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson(k, middle, confidence).high > threshold:
            low = middle
        else:
            high = middle
    return high


def _max_exact(summary: AttackSummary, threshold: float, on_upper: bool) -> GateVerdict:
    rate = summary.exact
    bound = max(rate.interval.high, rate.clustered.high)
    limit = _percent(threshold)
    found = f"{summary.attack} extracted {_counted(rate)} exactly"
    if rate.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{summary.attack} was scored on no window"
    elif rate.estimate > threshold:
        verdict, reason = "fail", f"{found}, more than the {limit} allowed"
    elif on_upper and bound > threshold:
        verdict = "inconclusive"
        reason = (
            f"{found}, but at {_level(rate)} the rate may be {_percent(bound)}, above the {limit} "
            f"allowed; {_what_would_decide(rate, threshold)}"
        )
    elif on_upper:
        verdict = "pass"
        reason = f"{found}, at most {_percent(bound)} at {_level(rate)}, within the {limit} allowed"
    else:
        verdict, reason = "pass", f"{found}, within the {limit} allowed"
    if summary.controls_exact is None:
        reason += "; no controls were given, so predictable text counts as extracted too"
    name = "max-exact"
    return GateVerdict(name, threshold, summary.attack, rate.estimate, bound, verdict, reason + ".")


def _what_would_decide(rate: Rate, threshold: float) -> str:
    needed = windows_needed(rate.k, threshold, rate.confidence)
    if needed is None:
        return f"no number of windows can show {_percent(threshold)}: gate on the estimate instead"
    if needed <= rate.n:
        return "the hits lie in few near-duplicate clusters: more independent samples are needed"
    hits = f"{rate.k:,} hit{'' if rate.k == 1 else 's'}" if rate.k else "no hit"
    return f"{needed:,} windows with {hits} would pass"


def _controls(summary: AttackSummary) -> tuple[float, GateVerdict] | None:
    """The p-value and the verdict of one attack; None where it has no controls."""
    controls, compared, rate = summary.controls_exact, summary.difference, summary.exact
    if controls is None or compared is None:
        return None
    extracted = f"{summary.attack} extracted {_counted(rate)} and {_counted(controls, 'controls')}"
    if controls.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{summary.attack} was scored on no control"
    elif rate.k and controls.n < FEWEST_CONTROLS:
        verdict = "inconclusive"
        reason = (
            f"{extracted}: with so few, up to {_percent(controls.interval.high)} of such text may "
            f"come out as well; give at least {FEWEST_CONTROLS} controls"
        )
    elif controls.k and compared.p_value > 1 - rate.confidence:
        verdict = "inconclusive"
        reason = (
            f"{extracted}, which the model has not seen: not significantly more of the data "
            f"(p = {compared.p_value:.2g}), so what it extracts is no proof of memorization"
        )
    elif controls.k:
        verdict, reason = "pass", f"{extracted}: more of the data (p = {compared.p_value:.2g})"
    else:
        verdict, reason = "pass", extracted
    bound = max(rate.interval.high, rate.clustered.high)
    made = GateVerdict(
        "controls", controls.estimate, summary.attack, rate.estimate, bound, verdict, reason + "."
    )
    return compared.p_value, made


def _badness(verdict: GateVerdict) -> tuple[int, float, float]:
    """Orders verdicts; an estimate of NaN (nothing scored) ranks below any other."""
    estimate = -1.0 if math.isnan(verdict.estimate) else verdict.estimate
    return _SEVERITY[verdict.verdict], verdict.bound, estimate


def _counted(rate: Rate, what: str = "windows") -> str:
    share = f" ({_percent(rate.estimate)})" if rate.n else ""
    return f"{rate.k:,} of {rate.n:,} {what}{share}"


def _level(rate: Rate) -> str:
    return f"{_percent(rate.confidence)} confidence"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
