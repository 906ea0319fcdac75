"""Make the report of a result.

Knows results and the form of the report (`model`). Writes no ids or text of windows. Strings are
raw: JSON's own escapes make them harmless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from memaudit.attack.facts import NO_PROMPT, Epoch
from memaudit.config.settings import LADDER, TargetSettings
from memaudit.data.fingerprints import FORM, SAMPLE_FORM
from memaudit.gate import validity as counted
from memaudit.gate.thresholds import NewSamples
from memaudit.report import model, model_parts, model_validity
from memaudit.report.findings import count_reasons, sentences_of
from memaudit.report.frameworks import NOTE as FRAMEWORKS_NOTE
from memaudit.report.frameworks import framework_rows
from memaudit.report.groups import group_section
from memaudit.report.hashes import config_hash, policy_hash, results_hash
from memaudit.report.leaks import sensitive_section
from memaudit.report.model import Report
from memaudit.report.result import AttackResult, FoldFit, RunFacts, ScanResult, TargetFacts
from memaudit.report.wording import LIMITS, SCHEMA_VERSION
from memaudit.score import stats
from memaudit.score.origin import Origin
from memaudit.score.stats import Bools, Ints
from memaudit.score.summary import AttackSummary, Difference, Lift, Rate

EXACT = "Clopper-Pearson, samples independent"
CLUSTERED = "percentile bootstrap over clusters"
AGREED = "exact over clusters of their sizes, as all samples agree"
"""Method for a rate of 0 or 1, where the bootstrap shows no spread (Resamples.clustered)."""
MCNEMAR = "exact McNemar test, two-sided, samples independent"
SIGN_FLIPS = "sign-flip permutation test over clusters, two-sided"
SCOPE = (
    "Every attack was also run on the reference, on the same windows and folds, with prompts "
    "fitted on the reference itself. A sample extracted from both models was known before the "
    "fine-tuning; one extracted from the fine-tuned model alone was leaked by it."
)
_FEW = 10
"""Samples below which their mean says of each what a sample's own likelihood would."""
_DIGITS, _DIGITS_OF_FEW = 3, 2
"""Significant digits of a mean likelihood where text is not revealed, as of those in samples.csv:
of ten samples three digits of the mean are two of each."""
Rounding = Callable[[float], float]
"""Rounds a mean likelihood: beside the model, a guess of the text can be checked against it."""


def to_report(result: ScanResult) -> Report:
    """Return the report of a finished scan."""
    rounding = _rounding(result)
    draft = Report(
        schema_version=SCHEMA_VERSION,
        tool=model.Tool(name="memaudit", version=result.run.version),
        command=result.run.command,
        exit_code=result.exit_code,
        headline=("",),
        summary="",
        gates=tuple(model.Gate(**asdict(verdict)) for verdict in result.verdicts),
        baseline=None if result.new is None else _since(result.new),
        attacks=tuple(_attack(result, attack, rounding) for attack in result.attacks),
        any=None if result.any is None else any_part(result.any),
        attacks_not_run=tuple(name for name in LADDER if result.attack(name) is None),
        sensitive=sensitive_section(result),
        groups=group_section(result),
        reference=_reference(result, rounding),
        validity=_validity(result.validity),
        notes=result.notes,
        limits=LIMITS,
        frameworks_note=FRAMEWORKS_NOTE,
        frameworks=(),
        target=_model(result.target, result.config.target),
        data=_corpus(result, "data"),
        controls=None if result.controls is None else _corpus(result, "control"),
        folds=tuple(model.Fold(**asdict(fold)) for fold in result.fold_sizes),
        prompt_files=model.PromptFiles(
            origin="fitted in this run" if result.config.generator is None else "fitted earlier",
            sha256=result.prompt_files,
        ),
        run=_run(result.run, result.config.windows.length),
        fingerprints=model.Fingerprints(
            form=FORM, sample_form=SAMPLE_FORM, key_id=result.run.key_id
        ),
        seeds=model_parts.Seeds(seed=result.config.protocol.seed),
        config=model.Config(values=result.config.model_dump(mode="json"), sources=result.sources),
        hashes=model.Hashes(
            config=config_hash(result.config), policy=policy_hash(result.config), results="0" * 64
        ),
    )
    derived = sentences_of(draft) | {"frameworks": framework_rows(draft)}
    hashes = {"results": results_hash(draft.document())}
    return draft.model_copy(update=derived | {"hashes": draft.hashes.model_copy(update=hashes)})


def _since(new: NewSamples) -> model.Since:
    return model.Since(
        **asdict(new.overlap),
        newly_extracted=new.count,
        newly_extracted_only_run=new.count_only_run,
    )


def _rounding(result: ScanResult) -> Rounding:
    if result.revealed:
        return float
    samples = max((attack.summary.extracted.n for attack in result.attacks), default=0)
    digits = _DIGITS if samples >= _FEW else _DIGITS_OF_FEW
    return lambda value: float(f"{value:.{digits}g}")


def _attack(result: ScanResult, attack: AttackResult, rounding: Rounding) -> model_parts.Attack:
    fits = [fit for fit in result.fits if fit.attack == attack.attack]
    return attack_part(
        attack.summary,
        rounding,
        settings=_settings(result, attack.attack),
        permuted=model_parts.Permuted(**asdict(attack.permuted)),
        fits=tuple(model_parts.Fit(**_fit(fit, rounding)) for fit in fits),
    )


def attack_part(
    summary: AttackSummary, rounding: Rounding = float, **others: Any
) -> model_parts.Attack:
    """Return an attack. others: what does not follow from the scores of its samples."""
    fractional = summary.fractional_interval
    return model_parts.Attack(
        attack=summary.attack,
        extracted=rate_part(summary.extracted),
        exact=rate_part(summary.exact),
        fractional=model_parts.Fractional(
            estimate=summary.fractional, interval=_interval(fractional, CLUSTERED)
        ),
        suffix_nll=rounding(summary.suffix_nll),
        controls=_controls(summary),
        lift=None if summary.lift is None else _lift(summary.lift),
        **others,
    )


def any_part(summary: AttackSummary) -> model_parts.AnyAttack:
    """Return all attacks on the model together."""
    return model_parts.AnyAttack(
        extracted=rate_part(summary.extracted),
        exact=rate_part(summary.exact),
        controls=_controls(summary),
    )


def _settings(result: ScanResult, attack: str) -> dict[str, Any] | None:
    """Return the settings of the attack's prompt; None if it has no prompt."""
    if attack == "constant":
        return result.config.constant.model_dump(mode="json")
    if attack == "dynamic":
        return result.config.dynamic.model_dump(mode="json")
    if attack == "dynamic-hard":
        return {"num_virtual_tokens": result.config.dynamic.num_virtual_tokens}
    return None


def _controls(summary: AttackSummary) -> model_parts.OnControls | None:
    if summary.controls_extracted is None or summary.controls_exact is None:
        return None
    return model_parts.OnControls(
        extracted=rate_part(summary.controls_extracted),
        exact=rate_part(summary.controls_exact),
        fractional=summary.controls_fractional,
        difference=None if summary.difference is None else _difference(summary.difference),
    )


def _difference(difference: Difference) -> model_parts.Difference:
    return model_parts.Difference(
        estimate=difference.estimate,
        interval=_interval(
            difference.interval,
            "hybrid of two Clopper-Pearson intervals, a cluster of samples as one trial",
        ),
        p_value=difference.p_value,
        test="the least alpha whose interval excludes 0, two-sided",
    )


def _lift(lift: Lift) -> model_parts.Lift:
    return model_parts.Lift(
        estimate=lift.estimate,
        gained=lift.gained,
        lost=lift.lost,
        interval=_interval(lift.interval, f"{CLUSTERED}; to 0 if a test finds no difference"),
        p_value=lift.p_value,
        test=MCNEMAR,
        clustered_p_value=lift.clustered_p_value,
        clustered_test=f"{SIGN_FLIPS}; that of the bootstrap if larger and its interval holds 0",
    )


def rate_part(rate: Rate) -> model_parts.Rate:
    """Return a rate with all its intervals."""
    mixed = 0 < rate.k < rate.n
    return model_parts.Rate(
        k=rate.k,
        n=rate.n,
        estimate=rate.estimate,
        confidence=rate.confidence,
        interval=_interval(wide_interval(rate), "outer ends of the two below"),
        exact_interval=_interval(rate.interval, EXACT),
        clustered_interval=_interval(rate.clustered, CLUSTERED if mixed else AGREED),
    )


def wide_interval(rate: Rate) -> stats.Interval:
    """Return the outer ends of a rate's exact and clustered intervals, which gates use."""
    return stats.Interval(
        min(rate.interval.low, rate.clustered.low), max(rate.interval.high, rate.clustered.high)
    )


def _interval(interval: stats.Interval, method: str) -> model_parts.Interval:
    return model_parts.Interval(low=interval.low, high=interval.high, method=method)


def _fit(fit: FoldFit, rounding: Rounding) -> dict[str, Any]:
    """Return the fields of a fit: the chosen prompt and the training curve."""
    record = fit.record
    return {
        "fold": fit.fold,
        "chosen": record.chosen,
        "chosen_epoch": _chosen_epoch(record.chosen, record.epochs),
        "stop_reason": record.stop_reason,
        "trainable_parameters": record.trainable_parameters,
        "fit_windows": record.fit_windows,
        "select_windows": record.select_windows,
        "precision": record.precision,
        "epochs": tuple(
            model_parts.Epoch(
                epoch=point.epoch,
                loss=rounding(point.loss),
                select_exact=point.select_exact,
                select_nll=rounding(point.select_nll),
            )
            for point in record.epochs
        ),
    }


def _chosen_epoch(chosen: str, epochs: tuple[Epoch, ...]) -> int | None:
    if chosen == NO_PROMPT:
        return None
    return next((point.epoch for point in epochs if chosen == f"epoch {point.epoch}"), None)


def _reference(result: ScanResult, rounding: Rounding) -> model.Reference | None:
    reference = result.reference
    if reference is None:
        return None
    settings = result.config.target.model_copy(update={"training_tokens": None})
    on_controls = reference.controls
    return model.Reference(
        scope=SCOPE,
        model=_model(reference.model, settings),
        data=origin_parts(reference.data, rounding),
        controls=None if on_controls is None else origin_parts(on_controls, rounding),
        fits=tuple(
            model.ReferenceFit(attack=fit.attack, **_fit(fit, rounding)) for fit in reference.fits
        ),
    )


def origin_parts(origins: Iterable[Origin], rounding: Rounding = float) -> tuple[model.Origin, ...]:
    """Return the origins of what each attack extracts, and of all attacks together."""
    return tuple(_origin(origin, rounding) for origin in origins)


def _origin(origin: Origin, rounding: Rounding) -> model.Origin:
    nll = origin.nll
    ends = stats.Interval(*map(rounding, nll.interval))
    return model.Origin(
        attack=origin.attack,
        known_before=origin.known,
        leaked=rate_part(origin.leaked),
        forgotten=origin.forgotten,
        neither=origin.neither,
        p_value=origin.p_value,
        test=MCNEMAR,
        clustered_p_value=origin.clustered_p_value,
        clustered_test=SIGN_FLIPS,
        suffix_nll=model.NllMeans(
            target=rounding(nll.target),
            reference=rounding(nll.reference),
            change=rounding(nll.change),
            interval=_interval(ends, CLUSTERED),
        ),
    )


def _model(target: TargetFacts, settings: TargetSettings) -> model.Model:
    tokens = settings.training_tokens
    return model.Model(
        name=target.name,
        revision=target.revision,
        architecture=target.architecture,
        parameters=target.parameters,
        training_tokens=tokens,
        training_tokens_per_parameter=None if tokens is None else tokens / target.parameters,
        remote_code_allowed=settings.trust_remote_code,
        pickle_allowed=settings.allow_pickle,
        fingerprint=target.fingerprint,
        choices={
            name: model.Choice(value=choice.value, reason=choice.reason)
            for name, choice in target.choices.items()
        },
    )


def _corpus(result: ScanResult, role: str) -> model.Corpus:
    corpus = result.data if role == "data" else result.controls
    assert corpus is not None
    summary, windows = corpus.summary, corpus.windows
    return model.Corpus(
        path=str(summary.path),
        hmac_sha256=result.file_hmacs[role],
        key_id=result.run.key_id,
        rows=summary.rows,
        bad=summary.bad,
        samples=windows.samples,
        used=len(corpus.first_rows),
        template_alone=int((~corpus.counted).sum()),
        windows=len(windows),
        tokens=int(windows.sample_tokens[corpus.first_rows].sum()),
        audited_tokens=int(corpus.audited_tokens.sum()),
        template_tokens=int(corpus.template_tokens.sum()),
        prefix_tokens=int(windows.prefix_tokens.max()),
        suffix_tokens=windows.suffix_ids.shape[1],
        boundary_shifts=windows.boundary_shifts,
        skipped=tuple(
            model.Skipped(reason=reason, count=records)
            for reason, records in count_reasons(windows.skipped)
        ),
        clusters=cluster_part(corpus.sample_clusters, corpus.counted),
        scored_by_fold=fold_parts(corpus.folds),
    )


def cluster_part(clusters: Ints, counted: Bools) -> model.Clusters:
    """Return the counts of the clusters (M,) of samples, and of those that can be extracted."""
    _, sizes = np.unique(clusters[counted], return_counts=True)
    by_size: Sequence[tuple[int, int]] = sorted(Counter(sizes.tolist()).items())
    return model.Clusters(
        count=len(np.unique(clusters)),
        largest=int(sizes.max(initial=0)),
        sizes=tuple(model.ClusterSize(samples=size, clusters=count) for size, count in by_size),
    )


def fold_parts(folds: Ints) -> tuple[model.ScoredFold, ...]:
    """Return the counts of N windows by fold."""
    numbers, scored = np.unique(folds, return_counts=True)
    pairs = zip(numbers.tolist(), scored.tolist(), strict=True)
    return tuple(model.ScoredFold(fold=fold, windows=windows) for fold, windows in pairs)


def _validity(validity: counted.Validity | None) -> model_validity.Validity:
    assert validity is not None  # every scan counts
    text, templates = validity.text, validity.templates
    continued = validity.continuations
    return model_validity.Validity(
        records=validity.records,
        records_used=validity.used,
        windows=validity.windows,
        misread_windows=int(validity.misread.sum()),
        chats=validity.chats,
        changed_chats=validity.changed_chats,
        without_text=model_validity.WithoutText(
            any=int(text.any.sum()),
            control_or_blank=int(text.control.sum()),
            repeated=int(text.repeated.sum()),
            unknown=int(text.unknown.sum()),
            special=int(text.special.sum()),
        ),
        unknown_tokens=text.unknown_tokens,
        template=model_validity.TemplateWindows(
            any=int(templates.any.sum()),
            suffix=int(templates.suffix.sum()),
            prefix=int(templates.prefix.sum()),
            in_controls=int(templates.in_controls.sum()),
            samples=validity.template_samples,
        ),
        extracted=validity.extracted,
        reading={
            part: model_validity.Reading(
                nll=round(reading.nll, 2),
                frequencies_nll=round(reading.frequencies, 2),
                uniform_nll=round(reading.uniform, 2),
                limit=round(reading.limit, 2),
            )
            for part, reading in validity.readings.items()
        },
        continuations=None
        if continued is None
        else model_validity.Continuations(
            windows=continued.windows, ended=continued.ended, same=continued.alike
        ),
    )


def _run(run: RunFacts, tokens: int) -> model.Run:
    return model.Run(
        started=run.started,
        finished=run.finished,
        seconds=run.seconds,
        resumed=run.resumed,
        processes=run.processes,
        batch_size=run.batch_size,
        batch_size_reason=run.batch_size_reason,
        batch_shape=(run.batch_size, tokens),
        batches={
            stage: model.Batches(**asdict(facts), remark=facts.remark)
            for stage, facts in run.batches.items()
        },
        libraries=run.libraries,
        machine=run.machine,
        determinism=run.determinism,
    )
