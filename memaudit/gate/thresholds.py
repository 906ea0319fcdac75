"""Verdicts of the gates and of the controls.

Knows attack summaries and the gate's settings. Knows nothing of samples, runs or reports. A gate
never passes for want of data: with too few samples it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from memaudit.config.settings import GateSettings, attack_subject
from memaudit.errors import FAILED, INCONCLUSIVE
from memaudit.gate.measures import (
    Measure,
    any_measure,
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
from memaudit.score.summary import AttackSummary, Difference, Rate

Verdict = Literal["pass", "fail", "inconclusive"]

_SEVERITY: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}
_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "inconclusive": INCONCLUSIVE, "fail": FAILED}
FEWEST_CONTROLS = 30
"""Controls in fewer near-duplicate clusters prove nothing, even if none is extracted: 0 of 30 may
still be 12 %."""


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
class SensitiveCount:
    """Samples that hold items of one category of sensitive content."""

    category: str
    title: str
    """Items in words, a plural."""
    samples: int
    """Samples with an item in a suffix."""
    extracted: int
    """Number of them that give an item away to at least one attack on the model."""


@dataclass(frozen=True)
class GateVerdict:
    """One gate, judged."""

    name: str
    """``max-exact``, ``max-fractional``, ``max-lift``, ``max-new``, ``max-leaked``, ``max-any``,
    ``max-sensitive``, ``controls``, ``attacks`` or ``validity``."""
    threshold: float
    """Largest figure that passes: a fraction in [0,1]; for ``max-new`` and ``max-sensitive`` a
    number of samples.
    For ``controls`` the controls' exact rate, which the data's must exceed; NaN if no control was
    scored. NaN for ``attacks`` and ``validity``, as are estimate and bound."""
    attack: str
    """Attack that decided; empty if none did, or all together did, as for ``max-new``,
    ``max-leaked``, ``max-any`` and ``max-sensitive``."""
    estimate: float
    """Figure on the data: exact rate, mean fractional extraction, lift (in [-1,1]), share of new
    samples, of those leaked by fine-tuning, or of those with an item that give one away; NaN if
    nothing was scored."""
    bound: float
    """Upper bound of that figure, the larger of two (gate.measures)."""
    verdict: Verdict
    reason: str
    """Reason for the verdict, in a sentence."""
    category: str = ""
    """Category of sensitive content that ``max-sensitive`` limits; empty for other gates."""


def judge(
    summaries: Sequence[AttackSummary],
    settings: GateSettings,
    new: NewSamples | None = None,
    leaked: Rate | None = None,
    *,
    together: AttackSummary | None = None,
    sensitive: Sequence[SensitiveCount] = (),
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
        together: what at least one attack on the model extracts; None if none ran.
        sensitive: of each category that was searched.
    """
    asked = [summary for summary in summaries if summary.attack != "copy"]
    verdicts = []
    clusters = len(asked[0].cluster_sizes) if asked else 0
    judge_one = partial(_judged, clusters=clusters, on_upper=settings.gate_on == "upper")
    for name, threshold, measure in _thresholds(settings):
        judged = [
            judge_one(name, threshold, measured, summary.extracted)
            for summary in asked
            if (measured := measure(summary)) is not None
        ]
        verdicts.append(max(judged, key=_badness) if judged else _nothing(name, threshold))
    if settings.max_new is not None:
        nothing = _nothing("max-new", settings.max_new)
        verdicts.append(nothing if new is None else _max_new(settings.max_new, new))
    if (limit := settings.max_leaked) is not None:
        verdicts.append(
            _nothing("max-leaked", limit)
            if leaked is None
            else judge_one("max-leaked", limit, leaked_measure(leaked), leaked)
        )
    if (limit := settings.max_any) is not None:
        verdicts.append(
            _nothing("max-any", limit)
            if together is None
            else judge_one("max-any", limit, any_measure(together), together.extracted)
        )
    counts = {count.category: count for count in sensitive if asked}
    for category, most in settings.sensitive_limits.items():
        confidence = asked[0].extracted.confidence if asked else 0.0
        verdicts.append(_max_sensitive(category, most, counts.get(category), confidence))
    return tuple(verdicts)


def judge_controls(summaries: Sequence[AttackSummary]) -> GateVerdict | None:
    """Judge if the attacks extract more of the data than of text that the model has not seen.

    An attack that extracts controls, and the data not significantly more often (the interval of
    the difference holds 0 or less), proves nothing: ``inconclusive``. So do controls in too few
    clusters. The verdict names the attack whose difference may be smallest. Never ``fail``. None
    without controls. ``copy`` is not judged.
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
    name: str, threshold: float, measure: Measure, rate: Rate, clusters: int, on_upper: bool
) -> GateVerdict:
    """Judge one attack by one gate. clusters: number that the samples are in."""
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
            f"allowed; {_what_would_decide(name, threshold, measure, rate, clusters)}"
        )
    elif on_upper:
        verdict = "pass"
        reason = f"{statement}, at most {upper} at {at}, within the {limit} allowed"
    else:
        verdict, reason = "pass", f"{statement}, within the {limit} allowed"
    reason += f"{measure.remark}."
    figures = (measure.attack, measure.estimate, measure.bound)
    return GateVerdict(name, threshold, *figures, verdict, reason)


def _what_would_decide(
    name: str, threshold: float, measure: Measure, rate: Rate, clusters: int
) -> str:
    """Say what would decide an inconclusive gate: samples of which none is like another.

    Of as many, `samples_needed`, all bounds are Clopper–Pearson's or less.
    """
    limit = measure.format_figure(threshold)
    if threshold == 0:
        return f"no number of samples can show {limit}: gate on the estimate instead"
    if name not in ("max-exact", "max-leaked", "max-any"):
        return "more samples that are not near-duplicates would narrow that"
    needed = samples_needed(rate.k, threshold, rate.confidence)
    if needed is None:
        return f"no number of samples can show {limit}: gate on the estimate instead"
    hits = f"{rate.k:,} hit{'' if rate.k == 1 else 's'}" if rate.k else "no hit"
    few = f"the {rate.n:,} samples are in {clusters:,} near-duplicate clusters; "
    advice = f"{needed:,} samples without near-duplicates would pass with {hits}"
    return few + advice if 0 < clusters < rate.n else advice


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


def _max_sensitive(
    category: str, most: int, count: SensitiveCount | None, confidence: float
) -> GateVerdict:
    """Judge the count itself, as `_max_new` does. count: None if no attack on the model ran."""
    name = "max-sensitive"
    if count is None:
        return replace(_nothing(name, float(most)), category=category)
    share = count.extracted / count.samples if count.samples else math.nan
    bound = clopper_pearson(count.extracted, count.samples, confidence).high
    verdict: Verdict = "pass" if count.extracted <= most else "fail"
    reason = (
        f"{count.extracted:,} of the {count.samples:,} samples with {count.title} give one away, "
        f"{'within' if verdict == 'pass' else 'more than'} the {most:,} allowed."
    )
    if not count.samples:  # a search that finds nothing in the data has shown nothing
        verdict = "inconclusive"
        reason = (
            f"No audited suffix holds {count.title} that its prompt does not, so this limit shows "
            "nothing; leave it out if the data has none."
        )
    return GateVerdict(name, float(most), "", share, bound, verdict, reason, category)


def _controls(summary: AttackSummary) -> tuple[float, GateVerdict] | None:
    """Return how little above the controls an attack may be, and its verdict; None without."""
    controls, compared, rate = (
        summary.controls_extracted,
        summary.difference,
        summary.extracted,
    )
    if controls is None or compared is None:
        return None
    subject = attack_subject(summary.attack)
    extracted = f"{subject} extracted {counted(rate)} and {counted(controls, 'controls')}"
    if controls.n == 0:
        verdict: Verdict = "inconclusive"
        reason = f"{subject} was scored on no control"
    elif rate.k and summary.control_clusters < FEWEST_CONTROLS:
        verdict = "inconclusive"
        highest = max(controls.interval.high, controls.clustered.high)
        alone = summary.control_clusters == controls.n
        few = "" if alone else f" without near-duplicates ({summary.control_clusters:,} clusters)"
        reason = (
            f"{extracted}: with so few controls{few}, up to {percent(highest)} of unseen "
            f"text may be extracted too; give at least {FEWEST_CONTROLS} controls"
            f"{'' if alone else ' that are not near-duplicates'}"
        )
    elif controls.k and compared.interval.low <= 0:
        verdict = "inconclusive"
        reason = (
            f"{extracted}, which the model has not seen: not significantly more of the data "
            f"({_in_points(compared)}), so its extractions do not prove memorization"
        )
    elif controls.k:
        verdict, reason = "pass", f"{extracted}: more of the data ({_in_points(compared)})"
    else:
        verdict, reason = "pass", extracted
    bound = max(rate.interval.high, rate.clustered.high)
    judged = GateVerdict(
        "controls", controls.estimate, summary.attack, rate.estimate, bound, verdict, reason + "."
    )
    return -compared.interval.low, judged


def _in_points(difference: Difference) -> str:
    low, high = difference.interval
    ends = f"{100 * low:+.3g} to {100 * high:+.3g} points"
    return f"difference {ends}, p = {difference.p_value:.2g}"


def _badness(verdict: GateVerdict) -> tuple[int, float, float]:
    """Return a sort key for verdicts; an estimate of NaN (nothing scored) sorts lowest."""
    estimate = -1.0 if math.isnan(verdict.estimate) else verdict.estimate
    return _SEVERITY[verdict.verdict], verdict.bound, estimate
