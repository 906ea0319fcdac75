"""Thresholds on what was found, and what the controls say about it.

Knows attack summaries and the gate's settings. Knows nothing of windows, runs or reports. A
gate never passes for want of data: where the windows are too few to tell, it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.config.settings import GateSettings
from memaudit.gate.measures import (
    Measure,
    counted,
    exact_measure,
    fractional_measure,
    leaked_measure,
    lift_measure,
    percent,
    windows_needed,
)
from memaudit.score.scores import AttackSummary, Rate
from memaudit.score.stats import clopper_pearson

Verdict = Literal["pass", "fail", "inconclusive"]

_SEVERITY: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}
_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "inconclusive": 4, "fail": 1}
FEWEST_CONTROLS = 30
"""Fewer than these prove nothing, even with none extracted: 0 of 30 may still be 12 %."""


@dataclass(frozen=True)
class NewWindows:
    """What is extracted now and was not when the baseline was written."""

    count: int
    """Windows that some attack on the model extracts, and that the baseline does not have."""
    windows: int
    """Windows scored."""
    confidence: float
    """Of the interval of their share, which is told and not judged."""


@dataclass(frozen=True)
class GateVerdict:
    """One gate, judged."""

    name: str
    """``max-exact``, ``max-fractional``, ``max-lift``, ``max-new``, ``max-leaked``, ``controls`` or
    ``validity``."""
    threshold: float
    """The largest figure that passes: a fraction in [0,1], of ``max-new`` a number of windows.
    ``controls``: the controls' exact rate, which the data's has to exceed; NaN where no control
    was scored. NaN for ``validity``, as are the figures below."""
    attack: str
    """The attack that decided; empty where no attack could, or all together, as for
    ``max-new`` and ``max-leaked``."""
    estimate: float
    """What was found on the data: exact rate, mean fractional extraction, lift (in [-1,1]), share
    of new windows or of those leaked by fine-tuning; NaN where nothing was scored."""
    bound: float
    """Upper end of that figure, the larger of two (gate.measures)."""
    verdict: Verdict
    reason: str
    """Why, in a sentence."""


def judge(
    summaries: Sequence[AttackSummary],
    settings: GateSettings,
    new: NewWindows | None = None,
    leaked: Rate | None = None,
    remedy: str = "",
) -> tuple[GateVerdict, ...]:
    """One verdict for each gate that is set, by the attack that fares worst.

    ``copy`` is not judged: it does not ask the model anything. ``new``: what was counted against
    the baseline, where the settings name one; None where no attack asked the model. ``leaked``: the
    share of windows that come out of the target and not of the reference; None without one.
    ``remedy``: what would make more windows independent of each other, where that is known.
    """
    asked = [summary for summary in summaries if summary.attack != "copy"]
    verdicts = []
    for name, threshold, measure in _thresholds(settings):
        judged = [
            _judged(name, threshold, found, summary.exact, settings.gate_on == "upper", remedy)
            for summary in asked
            if (found := measure(summary)) is not None
        ]
        verdicts.append(max(judged, key=_badness) if judged else _nothing(name, threshold))
    if settings.max_new is not None:
        nothing = _nothing("max-new", settings.max_new)
        verdicts.append(nothing if new is None else _max_new(settings.max_new, new))
    if (limit := settings.max_leaked) is not None:
        name, upper = "max-leaked", settings.gate_on == "upper"
        verdicts.append(
            _nothing(name, limit)
            if leaked is None
            else _judged(name, limit, leaked_measure(leaked), leaked, upper, remedy)
        )
    return tuple(verdicts)


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
    return exit_code_of(verdict.verdict for verdict in verdicts)


def exit_code_of(verdicts: Iterable[Verdict]) -> int:
    """The same of the bare verdicts."""
    worst: Verdict = max(verdicts, key=_SEVERITY.__getitem__, default="pass")
    return _EXIT_CODES[worst]


def _thresholds(settings: GateSettings) -> list[tuple[str, float, Callable[..., Measure | None]]]:
    """The gates on attacks that are set: name, threshold and what each judges."""
    gates = (
        ("max-exact", settings.max_exact, exact_measure),
        ("max-fractional", settings.max_fractional, fractional_measure),
        ("max-lift", settings.max_lift, lift_measure),
    )
    return [(name, limit, measure) for name, limit, measure in gates if limit is not None]


def _nothing(name: str, threshold: float) -> GateVerdict:
    reason = "No attack on the model was run, so there is nothing to judge."
    if name == "max-lift":
        reason = "No prompt was run beside none, so there is no lift to judge."
    return GateVerdict(name, threshold, "", math.nan, 1.0, "inconclusive", reason)


def _judged(
    name: str, threshold: float, measure: Measure, rate: Rate, on_upper: bool, remedy: str
) -> GateVerdict:
    """One attack, judged by one gate."""
    found, limit = measure.found, measure.said(threshold)
    at = f"{percent(measure.confidence)} confidence"
    upper = measure.said(measure.bound)
    if rate.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{measure.attack or 'the model'} was scored on no window"
    elif measure.estimate > threshold:
        verdict, reason = "fail", f"{found}, more than the {limit} allowed"
    elif on_upper and measure.bound > threshold:
        verdict = "inconclusive"
        reason = (
            f"{found}, but at {at} the {measure.what} may be {upper}, above the {limit} allowed; "
            f"{_what_would_decide(name, threshold, measure, rate, remedy)}"
        )
    elif on_upper:
        verdict, reason = "pass", f"{found}, at most {upper} at {at}, within the {limit} allowed"
    else:
        verdict, reason = "pass", f"{found}, within the {limit} allowed"
    reason += f"{measure.remark}."
    figures = (measure.attack, measure.estimate, measure.bound)
    return GateVerdict(name, threshold, *figures, verdict, reason)


def _what_would_decide(
    name: str, threshold: float, measure: Measure, rate: Rate, remedy: str
) -> str:
    limit = measure.said(threshold)
    if threshold == 0:
        return f"no number of windows can show {limit}: gate on the estimate instead"
    if name not in ("max-exact", "max-leaked"):
        return remedy or "more samples that are no near-duplicates of each other would narrow that"
    needed = windows_needed(rate.k, threshold, rate.confidence)
    if needed is None:
        return f"no number of windows can show {limit}: gate on the estimate instead"
    if needed <= rate.n:
        return remedy or (
            "the windows lie in few near-duplicate clusters: more independent samples are needed"
        )
    hits = f"{rate.k:,} hit{'' if rate.k == 1 else 's'}" if rate.k else "no hit"
    return f"{needed:,} windows with {hits} would pass"


def _max_new(most: int, new: NewWindows) -> GateVerdict:
    """A count of these very windows: there is no larger whole that they would stand for."""
    share = new.count / new.windows if new.windows else math.nan
    bound = clopper_pearson(new.count, new.windows, new.confidence).high
    verdict: Verdict = "pass" if new.count <= most else "fail"
    which = "within" if new.count <= most else "more than"
    reason = (
        f"{new.count:,} of {new.windows:,} windows are extracted that were not in the baseline, "
        f"{which} the {most:,} allowed."
    )
    if not new.windows:
        verdict, reason = "inconclusive", "No window was scored, so none can be new."
    return GateVerdict("max-new", float(most), "", share, bound, verdict, reason)


def _controls(summary: AttackSummary) -> tuple[float, GateVerdict] | None:
    """The p-value and the verdict of one attack; None where it has no controls."""
    controls, compared, rate = summary.controls_exact, summary.difference, summary.exact
    if controls is None or compared is None:
        return None
    extracted = f"{summary.attack} extracted {counted(rate)} and {counted(controls, 'controls')}"
    if controls.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{summary.attack} was scored on no control"
    elif rate.k and controls.n < FEWEST_CONTROLS:
        verdict = "inconclusive"
        reason = (
            f"{extracted}: with so few, up to {percent(controls.interval.high)} of such text may "
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
