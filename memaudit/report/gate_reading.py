"""Judge the gates of a stored report again from its figures.

Knows the report's form and the gate room. Trusts the figures, which ``recompute`` compares with
the table. Takes from the report what only the scan could know: the samples since the baseline,
which ``max-new`` counts, and the texts behind ``validity``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from memaudit import __version__
from memaudit.config.settings import GateSettings
from memaudit.gate import validity as validity_gate
from memaudit.gate.overlap import Overlap
from memaudit.gate.thresholds import GateVerdict, NewSamples, exit_code_of, judge, judge_controls
from memaudit.gate.validity import Validity
from memaudit.report import model, model_parts, model_validity
from memaudit.report.leaks import counts_of
from memaudit.report.model import Report
from memaudit.report.reading import left_out_reason
from memaudit.score.stats import Bools, Interval, clopper_pearson
from memaudit.score.summary import ANY, AttackSummary, Difference, Lift, Rate
from memaudit.score.validity import Continuations, Reading, Templates, TextFaults

_MOST_WINDOWS = 20_000_000
"""A table of so many takes 4 GiB; a report alone can name any number."""
_FIGURES = ("threshold", "estimate", "bound")
_ROUNDED = 0.01
"""Largest rounding error of a validity figure, in nats/token; they have two decimals."""


def gates_fault(report: Report) -> str | None:
    """Describe how the gates contradict the rest of a report; None where they do not.

    Raises ValueError, or another error that impossible figures cause, where they cannot be judged.
    """
    if report.data.windows > _MOST_WINDOWS:
        raise ValueError("more windows than any table of samples that is read")
    recorded = [gate for gate in report.gates if gate.name != validity_gate.NAME]
    void = [gate for gate in report.gates if gate.name == validity_gate.NAME]
    if any(gate.verdict != "inconclusive" for gate in void):
        return "gate validity can only be inconclusive"
    if not void and _is_void(report.validity, report.data.windows):
        return "gate validity is missing, but its figures make the run inconclusive"
    due = rejudge(report)
    for name in {verdict.name: None for verdict in due} | {gate.name: None for gate in recorded}:
        stored = [gate for gate in recorded if gate.name == name]
        wanted = [verdict for verdict in due if verdict.name == name]
        if len(stored) != len(wanted):
            return (
                f"gate {name} is {'missing' if wanted else 'present, but no setting asks for it'}"
            )
        if not all(_agree(report, *pair) for pair in zip(stored, wanted, strict=True)):
            return f"gate {name} does not follow from the figures"
    if report.exit_code != exit_code_of(gate.verdict for gate in report.gates):
        return "the exit code does not follow from the gates"
    return None


def rejudge(report: Report) -> tuple[GateVerdict, ...]:
    """Return the verdicts that a report's figures and settings lead to, without ``validity``."""
    values = report.settings
    summaries = [_summary(report, attack) for attack in report.attacks]
    reference = report.reference
    leaked = None if reference is None else _rate(reference.data[-1].leaked)
    settings = _settings(values["gate"])
    new = _new(report, float(values["scores"]["confidence"]))
    controls = judge_controls(summaries)
    together = None if report.any is None else _together(report, report.any)
    counts = counts_of(() if report.sensitive is None else report.sensitive.data)
    judged = judge(summaries, settings, new, leaked, together=together, sensitive=counts)
    missing = validity_gate.judge_left_out(left_out_reason(report))
    return (*filter(None, [missing]), *judged, *filter(None, [controls]))


def _agree(report: Report, recorded: model.Gate, due: GateVerdict) -> bool:
    """True if a gate is as it is judged again."""
    same_wording = report.tool.version == __version__
    return (
        (recorded.verdict, recorded.attack, recorded.category)
        == (due.verdict, due.attack, due.category)
        and (recorded.reason == due.reason or not same_wording)
        and all(_equal(getattr(recorded, name), getattr(due, name)) for name in _FIGURES)
    )


def _equal(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-6) or (
        math.isnan(left) and math.isnan(right)
    )


def _settings(values: Mapping[str, Any]) -> GateSettings:
    """Return the settings without the baseline, a path that may not exist here."""
    without = {"max_new": None, "baseline": None}
    settings = GateSettings.model_validate({**values, **without})
    max_new = values.get("max_new")
    return settings.model_copy(update={"max_new": None if max_new is None else int(max_new)})


def _new(report: Report, confidence: float) -> NewSamples | None:
    """Return the samples since the baseline, as the scan counted them."""
    since = report.baseline
    if since is None:
        return None
    overlap = Overlap(
        both=since.both,
        only_baseline=since.only_baseline,
        only_run=since.only_run,
        extracted_only_baseline=since.extracted_only_baseline,
    )
    new, added = since.newly_extracted, since.newly_extracted_only_run
    return NewSamples(new, added, overlap, confidence)


def _together(report: Report, part: model_parts.AnyAttack) -> AttackSummary:
    """Return all attacks together; means and likelihoods, which no gate judges of it, are NaN."""
    controls = part.controls
    return AttackSummary(
        attack=ANY,
        extracted=_rate(part.extracted),
        exact=_rate(part.exact),
        fractional=math.nan,
        fractional_interval=Interval(0.0, 1.0),
        suffix_nll=math.nan,
        controls_extracted=None if controls is None else _rate(controls.extracted),
        controls_exact=None if controls is None else _rate(controls.exact),
        controls_fractional=None if controls is None else controls.fractional,
        control_clusters=0,
        difference=None,
        lift=None,
        cluster_sizes=_cluster_sizes(report.data),
    )


def _summary(report: Report, attack: model_parts.Attack) -> AttackSummary:
    controls, lift = attack.controls, attack.lift
    extracted = _rate(attack.extracted)
    return AttackSummary(
        attack=attack.attack,
        extracted=extracted,
        exact=_rate(attack.exact),
        fractional=attack.fractional.estimate,
        fractional_interval=attack.fractional.interval.ends,
        suffix_nll=attack.suffix_nll,
        controls_extracted=None if controls is None else _rate(controls.extracted),
        controls_exact=None if controls is None else _rate(controls.exact),
        controls_fractional=None if controls is None else controls.fractional,
        control_clusters=0 if report.controls is None else len(_cluster_sizes(report.controls)),
        difference=None if controls is None else _difference(controls.difference),
        lift=None if lift is None else _lift(lift, extracted.n),
        cluster_sizes=_cluster_sizes(report.data),
    )


def _cluster_sizes(corpus: model.Corpus) -> tuple[int, ...]:
    """Return the samples in each cluster. Raises ValueError where their sum is not the corpus."""
    sizes = corpus.clusters.sizes
    if sum(size.samples * size.clusters for size in sizes) != corpus.used - corpus.template_alone:
        raise ValueError("clusters do not add up to the samples")
    return tuple(size.samples for size in sizes for _ in range(size.clusters))


def _rate(rate: model_parts.Rate) -> Rate:
    k, n, confidence = rate.k, rate.n, rate.confidence
    return Rate(
        k=k,
        n=n,
        estimate=k / n if n else math.nan,
        interval=clopper_pearson(k, n, confidence),
        clustered=rate.clustered_interval.ends,
        confidence=confidence,
    )


def _difference(difference: model_parts.Difference | None) -> Difference | None:
    if difference is None:
        return None
    return Difference(difference.estimate, difference.interval.ends, difference.p_value)


def _lift(lift: model_parts.Lift, windows: int) -> Lift:
    return Lift(
        estimate=(lift.gained - lift.lost) / windows if windows else math.nan,
        gained=lift.gained,
        lost=lift.lost,
        p_value=lift.p_value,
        clustered_p_value=lift.clustered_p_value,
        interval=lift.interval.ends,
    )


def _is_void(section: model_validity.Validity, windows: int) -> bool:
    """True if the section's counts make a run void, with rounding in the run's favour.

    windows: number in the data. Raises ValueError where the section has another.
    """
    text, template = section.without_text, section.template
    if section.windows != windows:
        raise ValueError("validity counts other windows")

    def marked(count: int) -> Bools:
        return np.arange(windows) < count

    unmarked = marked(0)
    continued = section.continuations
    validity = Validity(
        text=TextFaults(marked(text.any), unmarked, unmarked, unmarked, section.unknown_tokens),
        templates=Templates(marked(template.any), unmarked, unmarked),
        lines=np.zeros(windows, dtype=np.int64),
        records=section.records,
        used=section.records_used,
        template_samples=template.samples,
        extracted=section.extracted,
        misread=marked(section.misread_windows),
        chats=section.chats,
        changed_chats=section.changed_chats,
        readings=_readings(section.reading),
        continuations=None
        if continued is None
        else Continuations(continued.windows, continued.ended, continued.same),
    )
    return validity_gate.judge_validity(validity) is not None


def _readings(
    section: Mapping[Literal["data", "controls"], model_validity.Reading],
) -> dict[str, Reading]:
    return {
        part: Reading(
            nll=reading.nll - _ROUNDED,
            frequencies=reading.frequencies_nll + _ROUNDED,
            uniform=reading.uniform_nll + _ROUNDED,
        )
        for part, reading in section.items()
    }
