"""Recompute the figures of a stored report from its tables, with the scan's own functions.

Knows the report, the tables and the score room. Trusts ``windows.csv`` and the settings, and says
which figure of the report or of ``samples.csv`` does not follow from them. What they do not hold
(token ids, text, the curves of a fit, likelihoods beyond two digits) cannot be recomputed: such
figures are bounded where the tables allow it, and otherwise rest on the manifest alone. N: scored
windows of one role; M: their samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python

from memaudit.config.settings import LADDER, AttackName, ScoreSettings
from memaudit.config.sources import toml_of_values
from memaudit.report.build import any_part, attack_part, cluster_part, fold_parts, origin_parts
from memaudit.report.columns import OWN
from memaudit.report.findings import sentences_of
from memaudit.report.groups import roll_up
from memaudit.report.hashes import canonical, sha256_text
from memaudit.report.leaks import Hits, count_leaks
from memaudit.report.model import Corpus, Origin, Report
from memaudit.report.model_parts import AnyAttack, Attack
from memaudit.report.model_validity import Reading
from memaudit.report.reading import column, figures, is_own, left_out, scored
from memaudit.report.sample_checks import (
    CLOSE,
    Check,
    ImpossibleTableError,
    check_records,
    check_samples,
    mean_errors,
    rounding_error,
)
from memaudit.score.origin import Pair, origins, pair_seed
from memaudit.score.samples import Arm, Grouping, score_samples
from memaudit.score.scores import WindowScores
from memaudit.score.stats import Bools, Floats
from memaudit.score.summary import attack_rng, summarise, summarise_any
from memaudit.sensitive.counting import Counts

Part = Literal["data", "controls"]
PARTS: dict[Part, str] = {"data": "data", "controls": "control"}
"""Section of the report to role in the table."""


@dataclass(frozen=True, eq=False)
class _Side:
    """The scored windows and samples of one role."""

    rows: pd.DataFrame
    """Windows."""
    samples: pd.DataFrame
    groups: Grouping
    scores: Mapping[AttackName, WindowScores]
    """Attack to its scores."""
    reference: Mapping[AttackName, WindowScores]
    """Attack to its scores on the reference; empty without one."""

    @property
    def arms(self) -> dict[AttackName, Arm]:
        """Attack to the scores of the samples that can be extracted."""
        return {name: Arm.of(scores, self.groups) for name, scores in self.scores.items()}

    @property
    def hits(self) -> Hits:
        """Attack to the windows (N,) that it extracts."""
        return {name: scores.exact for name, scores in self.scores.items()}


@dataclass(frozen=True, eq=False)
class Recomputed:
    """What the tables and the settings say of a run."""

    sides: Mapping[Part, _Side]
    """``data`` and, if there are any, ``controls``."""
    attacks: tuple[Attack, ...]
    """Attacks as recorded, with the figures that the tables give."""
    any: AnyAttack | None
    """All attacks on the model together; None if none ran."""
    origins: Mapping[Part, tuple[Origin, ...]]
    """``data`` and ``controls`` to the origins; empty without a reference."""

    @property
    def hits(self) -> Bools:
        """Windows (N,) of the data that an attack on the model extracts, template alone or not."""
        data = self.sides["data"]
        masks = [scores.exact for name, scores in data.scores.items() if name != "copy"]
        return np.asarray(np.any([np.zeros(len(data.rows), dtype=np.bool_), *masks], axis=0))

    def sentences(self, report: Report) -> dict[str, Any]:
        """Return headline and summary that follow; counts of validity come from the report."""
        reference = report.reference and report.reference.model_copy(
            update=dict(self.origins.items())
        )
        figures = {"attacks": self.attacks, "any": self.any, "reference": reference}
        return sentences_of(report.model_copy(update=figures))


def recompute(report: Report, windows: pd.DataFrame, samples: pd.DataFrame) -> Recomputed:
    """Summarise a run again. Raises ImpossibleTableError, or whatever impossible figures cause."""
    values = report.settings
    settings = ScoreSettings.model_validate(values["scores"])
    seed = values["protocol"]["seed"]
    check_records(windows, samples)
    sides = {
        part: _side(report, scored(windows, role), scored(samples, role))
        for part, role in PARTS.items()
        if getattr(report, part) is not None
    }
    data, controls = sides["data"].arms, sides["controls"].arms if "controls" in sides else None
    attacks = []
    for recorded in report.attacks:
        name = recorded.attack
        summary = summarise(
            name,
            data[name],
            settings,
            attack_rng(seed, name),
            none=data.get("none") if name != "none" else None,
            controls=None if controls is None else controls[name],
        )
        others = {part: getattr(recorded, part) for part in ("settings", "permuted", "fits")}
        attacks.append(attack_part(summary, **others))
    paired = {
        part: origin_parts(
            origins(
                [
                    Pair(name, *(Arm.of(part, side.groups).scores for part in both))
                    for name, there in side.reference.items()
                    if (both := (side.scores[name], there))
                ],
                side.groups.clusters[side.groups.counted],
                settings,
                pair_seed(seed, part),
            )
        )
        for part, side in sides.items()
        if report.reference is not None
    }
    together = summarise_any(data, controls, settings, seed)
    any_attack = None if together is None else any_part(together)
    return Recomputed(sides, tuple(attacks), any_attack, paired)


def figures_fault(report: Report, run: Recomputed) -> str | None:
    """Name a figure of the report that does not follow from the tables; None if all do."""
    for checks in (_samples, _attacks, _origins, _corpora, _sensitive, _groups):
        for name, recorded, due in checks(report, run):
            if (place := _difference(name, *map(_plain, (recorded, due)))) is not None:
                return f"{place} does not follow from windows.csv"
    return next(_outside_bounds(report, run), None)


def settings_fault(report: Report) -> str | None:
    """Describe how the settings contradict their hashes or the rest; None where they do not."""
    values, hashes = report.settings, report.hashes
    if sha256_text(toml_of_values(values)) != hashes.config:
        return "the settings do not match their hash"
    if sha256_text(canonical(values["gate"])) != hashes.policy:
        return "the gates' settings do not match their hash"
    earlier = values["generator"] is not None
    asked = set(values["attacks"]) - ({"copy"} if earlier else {*left_out(report)})
    if [attack.attack for attack in report.attacks] != [a for a in LADDER if a in asked]:
        return "the attacks are not those of the settings"
    for part, asked_for in (
        ("controls", values["controls"] is not None),
        ("reference", values["reference"] is not None),
        ("baseline", _has_baseline(report)),
    ):
        if (getattr(report, part) is not None) != asked_for:
            return f"{part} {'is missing' if asked_for else 'is present'}, unlike in the settings"
    if values["sensitive"]["enabled"] and report.sensitive is None:
        return "sensitive is missing, unlike in the settings"
    for name, recorded, due in _settings(report):
        if (place := _difference(name, *map(_plain, (recorded, due)))) is not None:
            return f"{place} does not follow from the settings"
    return None


def _has_baseline(report: Report) -> bool:
    asked = any(attack.attack != "copy" for attack in report.attacks)
    return report.settings["gate"]["baseline"] is not None and asked


def _settings(report: Report) -> Iterator[Check]:
    values, target = report.settings, report.target
    yield "seeds.seed", report.seeds.seed, values["protocol"]["seed"]
    not_run = [name for name in LADDER if name not in {a.attack for a in report.attacks}]
    yield "attacks_not_run", report.attacks_not_run, not_run
    origin = "fitted in this run" if values["generator"] is None else "fitted earlier"
    yield "prompt_files.origin", report.prompt_files.origin, origin
    tokens = values["target"]["training_tokens"]
    each = math.nan if tokens is None else tokens / target.parameters
    yield "target.training_tokens", target.training_tokens, tokens
    yield "target.training_tokens_per_parameter", target.training_tokens_per_parameter, each
    virtual = {"num_virtual_tokens": values["dynamic"]["num_virtual_tokens"]}
    known = {name: values[name] for name in ("constant", "dynamic")} | {"dynamic-hard": virtual}
    for attack in report.attacks:
        yield f"attacks.{attack.attack}.settings", attack.settings, known.get(attack.attack)


def _side(report: Report, rows: pd.DataFrame, samples: pd.DataFrame) -> _Side:
    ran = [attack.attack for attack in report.attacks]
    before = [name for name in ran if name != "copy"] if report.reference is not None else []
    return _Side(
        rows,
        samples,
        _grouping(rows),
        {name: _scores(rows, name) for name in ran},
        {name: _reference_scores(rows, name) for name in before},
    )


def _grouping(rows: pd.DataFrame) -> Grouping:
    """Group the windows by sample. Raises ImpossibleTableError if some are missing."""
    number = rows["window"].to_numpy(dtype=np.int64)
    is_first = number == 0
    sample = np.cumsum(is_first) - 1
    inside = ["line", "sample_id", "cluster", "fold", *(name for name in rows if name not in OWN)]
    is_next = (number[1:] == number[:-1] + 1) & (
        rows[inside].to_numpy()[1:] == rows[inside].to_numpy()[:-1]
    ).all(axis=1)
    if not is_first[:1].all() or not (is_first[1:] | is_next).all():
        raise ImpossibleTableError("the windows of a sample are not complete in windows.csv")
    return Grouping(
        sample=sample,
        new_tokens=rows["new_tokens"].to_numpy(dtype=np.int64),
        is_own=is_own(rows),
        clusters=rows["cluster"].to_numpy(dtype=np.int64)[is_first],
    )


def _scores(rows: pd.DataFrame, attack: str) -> WindowScores:
    """Return an attack's scores; the share of tokens has all digits again."""
    length = figures(rows, "suffix_tokens")
    exact, matched, longest, share = (
        figures(rows, column(name, attack))
        for name in ("exact", "matched", "longest_run", "fractional")
    )
    right = np.round(share * length)
    possible = (
        (np.abs(right / length - share) <= CLOSE)
        & (matched >= 0)
        & (matched <= np.minimum(right, longest))
        & (longest <= length)
        & np.isin(exact, (0, 1))
        & ((exact == 1) == (right == length))
        & ((exact == 1) == (matched == length))
        & ((exact == 1) == (longest == length))
    )
    if not possible.all():
        raise ImpossibleTableError(f"the scores of {attack} contradict each other in windows.csv")
    nothing = np.full(len(rows), math.nan)
    nll = figures(rows, column("suffix_nll", attack))
    return WindowScores(
        exact=exact == 1,
        fractional=right / length,
        matched=matched.astype(np.int64),
        longest_run=longest.astype(np.int64),
        edit_similarity=nothing,
        suffix_nll=nll,
        log_p_z=nothing,
    )


def _reference_scores(rows: pd.DataFrame, attack: str) -> WindowScores:
    names = (f"reference_{column(name, attack)}" for name in ("exact", "fractional", "suffix_nll"))
    exact, share, nll = (figures(rows, name) for name in names)
    if not ((exact == 1) == (share == 1)).all():
        raise ImpossibleTableError(
            f"the reference's scores of {attack} contradict each other in windows.csv"
        )
    zeros, nothing = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), math.nan)
    return WindowScores(exact == 1, share, zeros, zeros, nothing, nll, nothing)


def _samples(report: Report, run: Recomputed) -> Iterator[Check]:
    for side in run.sides.values():
        for name, recorded, due in check_samples(side.rows, side.samples, side.groups, side.scores):
            yield f"samples.csv: {name}", recorded, due


def _attacks(report: Report, run: Recomputed) -> Iterator[Check]:
    data = run.sides["data"]
    for recorded, due in zip(report.attacks, run.attacks, strict=True):
        name, error = f"attacks.{due.attack}", _mean_error(data.scores[due.attack], data.groups)
        yield name, _without_nll(recorded), _without_nll(due)
        yield f"{name}.suffix_nll", *_rounded(recorded.suffix_nll, due.suffix_nll, error)
    yield "any", _fields(report.any), _fields(run.any)
    yield from _since(report, data)


def _since(report: Report, data: _Side) -> Iterator[Check]:
    """Bound what the tables do not say of a baseline."""
    since = report.baseline
    if since is None:
        return
    hits = [
        score_samples(scores, data.groups).extracted
        for name, scores in data.scores.items()
        if name != "copy"
    ]
    extracted = int(np.any(hits, axis=0).sum()) if hits else 0
    new, added = since.newly_extracted, since.newly_extracted_only_run
    gone = since.extracted_only_baseline
    yield "baseline.both", since.both, len(data.samples) - since.only_run
    yield "baseline.extracted_only_baseline", gone, min(gone, since.only_baseline)
    yield "baseline.newly_extracted_only_run", added, min(added, new, since.only_run)
    yield "baseline.newly_extracted", new, min(new, extracted, since.both + added)


def _origins(report: Report, run: Recomputed) -> Iterator[Check]:
    for part, paired in run.origins.items():
        for recorded, due in zip(getattr(report.reference, part), paired, strict=True):
            name, reads = f"reference.{part}.{due.attack}", run.sides[part]
            yield name, _without_nll(recorded), _without_nll(due)
            both = recorded.suffix_nll
            for key, side in (("target", reads.scores), ("reference", reads.reference)):
                error = max(_mean_error(scores, reads.groups) for scores in side.values())
                mean, wanted = getattr(both, key), getattr(due.suffix_nll, key)
                yield f"{name}.suffix_nll.{key}", *_rounded(mean, wanted, error)
            error = rounding_error(both.target) + rounding_error(
                both.reference
            )  # each of the three is rounded
            change = _rounded(both.change, both.target - both.reference, error)
            yield f"{name}.suffix_nll.change", *change


def _fields(part: AnyAttack | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump()


def _without_nll(part: Attack | Origin) -> dict[str, Any]:
    """Return the figures without likelihoods, which the tables have rounded."""
    return part.model_dump(exclude={"suffix_nll"})


def _corpora(report: Report, run: Recomputed) -> Iterator[Check]:
    for part, side in run.sides.items():
        recorded: Corpus = getattr(report, part)
        rows, folds = side.rows, side.rows["fold"].to_numpy(dtype=np.int64)
        yield f"{part}.windows", recorded.windows, len(rows)
        yield f"{part}.used", recorded.used, len(side.samples)
        alone = int((~side.groups.counted).sum())
        yield f"{part}.template_alone", recorded.template_alone, alone
        for name in ("tokens", "audited_tokens", "template_tokens"):
            yield f"{part}.{name}", getattr(recorded, name), int(side.samples[name].sum())
        yield (
            f"{part}.clusters",
            recorded.clusters,
            cluster_part(side.groups.clusters, side.groups.counted),
        )
        yield f"{part}.scored_by_fold", recorded.scored_by_fold, fold_parts(folds)
        if len(rows):
            yield f"{part}.prefix_tokens", recorded.prefix_tokens, int(rows["prefix_tokens"].max())
            suffixes = rows["suffix_tokens"].unique().tolist()
            yield f"{part}.suffix_tokens", [recorded.suffix_tokens], suffixes


def _sensitive(report: Report, run: Recomputed) -> Iterator[Check]:
    section = report.sensitive
    if section is None:
        blank = not any(side.rows["categories"].any() for side in run.sides.values())
        yield "sensitive", section, None if blank else {}
        return
    categories = tuple(searched.category for searched in section.looked_for)
    for part, side in run.sides.items():
        counts = _items(categories, side.rows["categories"].tolist())
        reference = [scores.exact for scores in side.reference.values()]
        before = None if report.reference is None else reference
        due = count_leaks(categories, counts, side.groups, side.hits, before)
        yield f"sensitive.{part}", getattr(section, part), due


def _groups(report: Report, run: Recomputed) -> Iterator[Check]:
    side, section = run.sides["data"], report.sensitive
    categories = () if section is None else tuple(part.category for part in section.looked_for)
    counts = _items(categories, side.rows["categories"].tolist())
    holds = dict(zip(categories, counts.T > 0, strict=True))
    due = roll_up(side.samples["group"].tolist(), side.groups, side.hits, holds)
    yield "groups", report.groups, due


def _items(categories: Sequence[str], cells: Sequence[str]) -> Counts:
    """Return the items (N,C) that the column ``categories`` counts."""
    counts = np.zeros((len(cells), len(categories)), dtype=np.uint16)
    for row, cell in enumerate(cells):
        for named in cell.split():
            category, _, items = named.partition(":")
            if category not in categories:
                raise ImpossibleTableError(
                    "the categories in windows.csv are not those that were searched"
                )
            counts[row, categories.index(category)] = int(items)
    return counts


def _outside_bounds(report: Report, run: Recomputed) -> Iterator[str]:
    """Yield counts of the section ``validity`` that the table rules out."""
    section, data = report.validity, run.sides["data"]
    faulty = section.without_text.any + section.template.any
    asking = [name for name in LADDER if name != "copy" and name in data.scores]
    continued = section.continuations
    hits = int(run.hits.sum())
    alone, used = report.data.template_alone, report.data.used
    if not alone <= section.template.samples <= used:
        yield "validity.template.samples does not follow from windows.csv"
    if not max(0, hits - faulty) <= section.extracted <= hits:
        yield "validity.extracted does not follow from windows.csv"
    if not asking:
        return
    missed = int((~data.scores[asking[0]].exact).sum())
    if continued is None or continued.windows != missed:
        yield "validity.continuations.windows does not follow from windows.csv"
    for part, side in run.sides.items():
        nll = np.sort(side.scores[asking[0]].suffix_nll)
        nll = nll[np.isfinite(nll)]
        left_out = min(faulty, len(nll)) if part == "data" else 0
        if left_out < len(nll) and not _is_median(nll, left_out, section.reading.get(part)):
            yield f"validity.reading.{part}.nll does not follow from windows.csv"


def _is_median(nll: Floats, left_out: int, reading: Reading | None) -> bool:
    """True if a reading is the median of sorted figures without ``left_out`` of them."""
    if reading is None:
        return False
    low = float(np.median(nll[: len(nll) - left_out]))
    high = float(np.median(nll[left_out:]))
    return low - rounding_error(low) <= reading.nll <= high + rounding_error(high)


def _mean_error(scores: WindowScores, groups: Grouping) -> float:
    errors = mean_errors(scores, groups)[groups.counted]
    return float(errors.mean()) if len(errors) else 0.0


def _rounded(recorded: float, due: float, error: float) -> tuple[float, float]:
    """Return a figure and its value from rounded ones, which is the figure if it is near enough."""
    return recorded, recorded if abs(recorded - due) <= error else due


def _plain(value: Any) -> Any:
    """Return figures as report.json has them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return to_jsonable_python(value)


def _difference(name: str, recorded: Any, due: Any) -> str | None:
    """Return the name of the first part that differs; None if all agree."""
    if isinstance(due, Mapping):
        if not isinstance(recorded, Mapping) or recorded.keys() != due.keys():
            return name
        parts = ((f"{name}.{key}", recorded[key], due[key]) for key in due)
        return next(filter(None, (_difference(*part) for part in parts)), None)
    if isinstance(due, list):
        if not isinstance(recorded, list) or len(recorded) != len(due):
            return name
        pairs = enumerate(zip(recorded, due, strict=True))
        items = (_difference(f"{name}.{place}", *pair) for place, pair in pairs)
        return next(filter(None, items), None)
    if isinstance(due, float) and isinstance(recorded, (int, float)):
        return None if math.isclose(recorded, due, rel_tol=CLOSE, abs_tol=CLOSE) else name
    return None if recorded == due else name
