"""Verdicts of the gates and of the controls.

Knows attack summaries and the gate's settings. Knows nothing of samples, runs or reports. A gate
never passes for want of data: with too few samples it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.config.settings import GateSettings
from memaudit.errors import FAILED, INCONCLUSIVE
from memaudit.gate.measures import (
    Measure,
    counted,
    exact_measure,
    fractional_measure,
    leaked_measure,
    lift_measure,
    percent,
    samples_needed,
)
from memaudit.gate.overlap import Overlap
from memaudit.score.stats import clopper_pearson
from memaudit.score.summary import AttackSummary, Rate

Verdict = Literal["pass", "fail", "inconclusive"]

_SEVERITY: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}
_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "inconclusive": INCONCLUSIVE, "fail": FAILED}
FEWEST_CONTROLS = 30
"""Fewer controls prove nothing, even if none is extracted: 0 of 30 may still be 12 %."""


@dataclass(frozen=True)
class NewSamples:
    """Samples extracted now that the baseline does not list as extracted."""

    count: int
    """Samples that some attack on the model extracts and the baseline does not list."""
    count_only_run: int
    """Number of them that were added to the data since the baseline."""
    overlap: Overlap
    confidence: float
    """Confidence level of the interval of their share, which is reported but not judged."""

    @property
    def samples(self) -> int:
        """Number of samples scored."""
        return self.overlap.both + self.overlap.only_run


@dataclass(frozen=True)
class GateVerdict:
    """One gate, judged."""

    name: str
    """``max-exact``, ``max-fractional``, ``max-lift``, ``max-new``, ``max-leaked``, ``controls``,
    ``attacks`` or ``validity``."""
    threshold: float
    """Largest figure that passes: a fraction in [0,1]; for ``max-new`` a number of samples.
    For ``controls`` the controls' exact rate, which the data's must exceed; NaN if no control was
    scored. NaN for ``attacks`` and ``validity``, as are estimate and bound."""
    attack: str
    """Attack that decided; empty if none did, or all together did, as for ``max-new`` and
    ``max-leaked``."""
    estimate: float
    """Figure on the data: exact rate, mean fractional extraction, lift (in [-1,1]), share of new
    samples or of those leaked by fine-tuning; NaN if nothing was scored."""
    bound: float
    """Upper bound of that figure, the larger of two (gate.measures)."""
    verdict: Verdict
    reason: str
    """Reason for the verdict, in a sentence."""


def judge(
    summaries: Sequence[AttackSummary],
    settings: GateSettings,
    new: NewSamples | None = None,
    leaked: Rate | None = None,
) -> tuple[GateVerdict, ...]:
    """Return a verdict for each gate that is set, decided by the worst attack.

    ``copy`` is not judged, as it does not ask the model.

    Args:
        summaries: of all attacks.
        settings: the thresholds.
        new: samples not in the baseline, if the settings name one; None if no attack asked the
            model.
        leaked: share of samples extracted from the target and not from the reference; None without
            a reference.
    """
    asked = [summary for summary in summaries if summary.attack != "copy"]
    verdicts = []
    for name, threshold, measure in _thresholds(settings):
        judged = [
            _judged(name, threshold, measured, summary.extracted, settings.gate_on == "upper")
            for summary in asked
            if (measured := measure(summary)) is not None
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
            else _judged(name, limit, leaked_measure(leaked), leaked, upper)
        )
    return tuple(verdicts)


def judge_controls(summaries: Sequence[AttackSummary]) -> GateVerdict | None:
    """Judge if the attacks extract more of the data than of text that the model has not seen.

    An attack that extracts controls, and the data not significantly more often (Fisher's exact
    test, one-sided, at 1 - confidence), proves nothing: ``inconclusive``. The verdict names the
    attack with the largest p-value. Never ``fail``. None without controls. ``copy`` is not judged.
    """
    tested = [_controls(s) for s in summaries if s.attack != "copy"]
    judged = [pair for pair in tested if pair is not None]
    if not judged:
        return None
    return max(judged, key=lambda pair: (_SEVERITY[pair[1].verdict], pair[0]))[1]


def exit_code(verdicts: Sequence[GateVerdict]) -> int:
    """Return 1 if any gate failed, else 4 if any is inconclusive, else 0."""
    return exit_code_of(verdict.verdict for verdict in verdicts)


def exit_code_of(verdicts: Iterable[Verdict]) -> int:
    """Return the exit code of verdicts by name, as `exit_code` does."""
    worst: Verdict = max(verdicts, key=_SEVERITY.__getitem__, default="pass")
    return _EXIT_CODES[worst]


def _thresholds(settings: GateSettings) -> list[tuple[str, float, Callable[..., Measure | None]]]:
    """Return the gates on attacks that are set: name, threshold and measure."""
    gates = (
        ("max-exact", settings.max_exact, exact_measure),
        ("max-fractional", settings.max_fractional, fractional_measure),
        ("max-lift", settings.max_lift, lift_measure),
    )
    return [(name, limit, measure) for name, limit, measure in gates if limit is not None]


def _nothing(name: str, threshold: float) -> GateVerdict:
    reason = "No attack on the model was run, so there is nothing to judge."
    if name == "max-lift":
        reason = "No attack was run besides none, so there is no lift to judge."
    return GateVerdict(name, threshold, "", math.nan, 1.0, "inconclusive", reason)


def _judged(
    name: str, threshold: float, measure: Measure, rate: Rate, on_upper: bool
) -> GateVerdict:
    """Judge one attack by one gate."""
    statement, limit = measure.statement, measure.format_figure(threshold)
    at = f"{percent(measure.confidence)} confidence"
    upper = measure.format_figure(measure.bound)
    if rate.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{measure.attack or 'the model'} was scored on no window"
    elif measure.estimate > threshold:
        verdict, reason = "fail", f"{statement}, more than the {limit} allowed"
    elif on_upper and measure.bound > threshold:
        verdict = "inconclusive"
        reason = (
            f"{statement}, but at {at} the {measure.what} may be {upper}, above the {limit} "
            f"allowed; {_what_would_decide(name, threshold, measure, rate)}"
        )
    elif on_upper:
        verdict = "pass"
        reason = f"{statement}, at most {upper} at {at}, within the {limit} allowed"
    else:
        verdict, reason = "pass", f"{statement}, within the {limit} allowed"
    reason += f"{measure.remark}."
    figures = (measure.attack, measure.estimate, measure.bound)
    return GateVerdict(name, threshold, *figures, verdict, reason)


def _what_would_decide(name: str, threshold: float, measure: Measure, rate: Rate) -> str:
    limit = measure.format_figure(threshold)
    if threshold == 0:
        return f"no number of samples can show {limit}: gate on the estimate instead"
    if name not in ("max-exact", "max-leaked"):
        return "more samples that are not near-duplicates would narrow that"
    needed = samples_needed(rate.k, threshold, rate.confidence)
    if needed is None:
        return f"no number of samples can show {limit}: gate on the estimate instead"
    hits = f"{rate.k:,} hit{'' if rate.k == 1 else 's'}" if rate.k else "no hit"
    few = "some samples are near-duplicates of others; " if needed <= rate.n else ""
    return f"{few}{needed:,} samples without near-duplicates would pass with {hits}"


def _max_new(limit: int, new: NewSamples) -> GateVerdict:
    """Judge the count itself: these are no random choice from a larger population.

    Samples added to the data count like all others, as nobody has accepted them. Without a sample
    in both, new samples cannot be distinguished from accepted ones.
    """
    fault = new.overlap.fault
    split = new.overlap.split(new.count, new.count_only_run)
    share = new.count / new.samples if new.samples else math.nan
    bound = clopper_pearson(new.count, new.samples, new.confidence).high
    verdict: Verdict = "fail"
    which = "more than"
    if new.count <= limit:
        verdict, which = "inconclusive" if fault else "pass", "within"
    elif not new.overlap.both:
        verdict = "inconclusive"
    reason = (
        f"{new.count:,} of {new.samples:,} samples are newly extracted{split}, "
        f"{which} the {limit:,} allowed. {fault}"
    ).rstrip()
    if not new.samples:
        verdict, reason = "inconclusive", "No sample was scored, so none can be new."
    return GateVerdict("max-new", float(limit), "", share, bound, verdict, reason)


def _controls(summary: AttackSummary) -> tuple[float, GateVerdict] | None:
    """Return the p-value and the verdict of one attack; None without controls."""
    controls, compared, rate = (
        summary.controls_extracted,
        summary.difference,
        summary.extracted,
    )
    if controls is None or compared is None:
        return None
    extracted = f"{summary.attack} extracted {counted(rate)} and {counted(controls, 'controls')}"
    if controls.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{summary.attack} was scored on no control"
    elif rate.k and controls.n < FEWEST_CONTROLS:
        verdict = "inconclusive"
        reason = (
            f"{extracted}: with so few controls, up to {percent(controls.interval.high)} of unseen "
            f"text may be extracted too; give at least {FEWEST_CONTROLS} controls"
        )
    elif controls.k and compared.p_value > 1 - rate.confidence:
        verdict = "inconclusive"
        reason = (
            f"{extracted}, which the model has not seen: not significantly more of the data "
            f"(p = {compared.p_value:.2g}), so its extractions do not prove memorization"
        )
    elif controls.k:
        verdict, reason = "pass", f"{extracted}: more of the data (p = {compared.p_value:.2g})"
    else:
        verdict, reason = "pass", extracted
    bound = max(rate.interval.high, rate.clustered.high)
    judged = GateVerdict(
        "controls", controls.estimate, summary.attack, rate.estimate, bound, verdict, reason + "."
    )
    return compared.p_value, judged


def _badness(verdict: GateVerdict) -> tuple[int, float, float]:
    """Return a sort key for verdicts; an estimate of NaN (nothing scored) sorts lowest."""
    estimate = -1.0 if math.isnan(verdict.estimate) else verdict.estimate
    return _SEVERITY[verdict.verdict], verdict.bound, estimate
