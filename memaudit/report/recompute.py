"""Recompute the figures of a stored report from ``samples.csv``, with the scan's own functions.

Knows the document, the table and the score room. Trusts the table and the settings, and says which
figure of the document does not follow from them. What the table does not hold (token ids, text,
the curves of a fit, likelihoods beyond two digits) cannot be recomputed: such figures are bounded
where the table allows it, and otherwise rest on the manifest alone. N: scored rows of one role.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memaudit.config.settings import LADDER, AttackName, ScoreSettings
from memaudit.config.sources import toml_of_values
from memaudit.report.findings import HeadlineFacts, headline_of
from memaudit.report.hashes import canonical, sha256_text
from memaudit.report.leaks import count_leaks, leaks_json
from memaudit.report.reading import column, figure, figures, scored
from memaudit.report.reference_section import origins_json
from memaudit.report.report_json import Document, finite, split_json, summary_json
from memaudit.report.result import AttackResult, Permuted
from memaudit.score.origin import Origin, Pair, origins, pair_seed
from memaudit.score.scores import Arm, WindowScores, attack_rng, summarise
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.sensitive.counting import Counts

PARTS = {"data": "data", "controls": "control"}
"""Section of the document to role in the table."""
_CLOSE = 1e-6
"""Largest difference between equal figures; libraries differ in the last digits."""


class ImpossibleTableError(ValueError):
    """Rows of ``samples.csv`` that no scan writes; the message says which."""


Check = tuple[str, Any, Any]
"""Name of a figure, its value in the document, and the value that the table gives."""


@dataclass(frozen=True, eq=False)
class _Side:
    """The scored rows of one role."""

    rows: pd.DataFrame
    clusters: Ints
    """(N,)"""
    scores: Mapping[AttackName, WindowScores]
    """Attack to its scores."""
    reference: Mapping[AttackName, WindowScores]
    """Attack to its scores on the reference; empty without one."""


@dataclass(frozen=True, eq=False)
class Recomputed:
    """What the table and the settings say of a run."""

    sides: Mapping[str, _Side]
    """``data`` and, if there are any, ``controls``."""
    attacks: tuple[AttackResult, ...]
    origins: Mapping[str, tuple[Origin, ...]]
    """``data`` and ``controls`` to the origins; empty without a reference."""

    @property
    def hits(self) -> Bools:
        """Windows (N,) of the data that an attack on the model extracts."""
        rows = len(self.sides["data"].rows)
        masks = [result.data.exact for result in self.attacks if result.attack != "copy"]
        return np.asarray(np.any([np.zeros(rows, dtype=np.bool_), *masks], axis=0))

    def headline(self, document: Document) -> list[str]:
        """Return the headline that follows; counts of validity come from the document."""
        gates, validity = document["gates"], document["validity"]
        void = next((gate["reason"] for gate in gates if gate["name"] == "validity"), "")
        known = self.origins.get("data", ()), self.origins.get("controls", ())
        counts = validity["records"], validity["records_used"]
        return list(headline_of(HeadlineFacts(self.attacks, *known, void, *counts)))


def recompute(document: Document, samples: pd.DataFrame) -> Recomputed:
    """Summarise a run again. Raises ImpossibleTableError, or whatever impossible figures cause."""
    values = document["config"]["values"]
    settings = ScoreSettings.model_validate(values["scores"])
    seed = values["protocol"]["seed"]
    sides = {
        part: _side(document, scored(samples, role))
        for part, role in PARTS.items()
        if document[part] is not None
    }
    data, controls = sides["data"], sides.get("controls")
    attacks = []
    for recorded in document["attacks"]:
        name = recorded["attack"]
        asks = name != "none" and "none" in data.scores
        summary = summarise(
            name,
            Arm(data.scores[name], data.clusters),
            settings,
            attack_rng(seed, name),
            none_scores=data.scores["none"] if asks else None,
            controls=None if controls is None else Arm(controls.scores[name], controls.clusters),
        )
        on_controls = None if controls is None else controls.scores[name]
        permuted = recorded["permuted"]
        unrelated = Permuted(permuted["k"], permuted["n"], figure(permuted["fractional"]))
        attacks.append(AttackResult(name, data.scores[name], on_controls, summary, unrelated))
    paired = {
        part: origins(
            [Pair(name, side.scores[name], there) for name, there in side.reference.items()],
            side.clusters,
            settings,
            pair_seed(seed, part),
        )
        for part, side in sides.items()
        if document["reference"] is not None
    }
    return Recomputed(sides, tuple(attacks), paired)


def figures_fault(document: Document, run: Recomputed) -> str | None:
    """Name a figure of the document that does not follow from the table; None if all do."""
    for checks in (_attacks, _origins, _corpora, _sensitive):
        for name, recorded, due in checks(document, run):
            if (place := _difference(name, recorded, finite(due))) is not None:
                return f"{place} does not follow from samples.csv"
    return next(_outside_bounds(document, run), None)


def settings_fault(document: Document) -> str | None:
    """Describe how the settings contradict their hashes or the rest; None where they do not."""
    values, hashes = document["config"]["values"], document["hashes"]
    if sha256_text(toml_of_values(values)) != hashes["config"]:
        return "the settings do not match their hash"
    if sha256_text(canonical(values["gate"])) != hashes["policy"]:
        return "the gates' settings do not match their hash"
    earlier = values["generator"] is not None
    asked = set(values["attacks"]) - ({"copy"} if earlier else set())
    if [attack["attack"] for attack in document["attacks"]] != [a for a in LADDER if a in asked]:
        return "the attacks are not those of the settings"
    for part, asked_for in (
        ("controls", values["controls"] is not None),
        ("reference", values["reference"] is not None),
    ):
        if (document[part] is not None) != asked_for:
            return f"{part} {'is missing' if asked_for else 'is present'}, unlike in the settings"
    if values["sensitive"]["enabled"] and document["sensitive"] is None:
        return "sensitive is missing, unlike in the settings"
    for name, recorded, due in _settings(document):
        if (place := _difference(name, recorded, due)) is not None:
            return f"{place} does not follow from the settings"
    return None


def _settings(document: Document) -> Iterator[Check]:
    values, target = document["config"]["values"], document["target"]
    yield "seeds.seed", document["seeds"]["seed"], values["protocol"]["seed"]
    not_run = [name for name in LADDER if name not in {a["attack"] for a in document["attacks"]}]
    yield "attacks_not_run", document["attacks_not_run"], not_run
    origin = "fitted in this run" if values["generator"] is None else "fitted earlier"
    yield "prompt_files.origin", document["prompt_files"]["origin"], origin
    tokens = values["target"]["training_tokens"]
    each = None if tokens is None else tokens / target["parameters"]
    yield "target.training_tokens", target["training_tokens"], tokens
    yield "target.training_tokens_per_parameter", target["training_tokens_per_parameter"], each
    virtual = {"num_virtual_tokens": values["dynamic"]["num_virtual_tokens"]}
    known = {name: values[name] for name in ("constant", "dynamic")} | {"dynamic-hard": virtual}
    for attack in document["attacks"]:
        name = attack["attack"]
        yield f"attacks.{name}.settings", attack["settings"], known.get(name)


def _side(document: Document, rows: pd.DataFrame) -> _Side:
    ran = [attack["attack"] for attack in document["attacks"]]
    before = [name for name in ran if name != "copy"] if document["reference"] is not None else []
    return _Side(
        rows,
        rows["cluster"].to_numpy(dtype=np.int64),
        {name: _scores(rows, name) for name in ran},
        {name: _reference_scores(rows, name) for name in before},
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
        (np.abs(right / length - share) <= _CLOSE)
        & (matched >= 0)
        & (matched <= np.minimum(right, longest))
        & (longest <= length)
        & np.isin(exact, (0, 1))
        & ((exact == 1) == (right == length))
        & ((exact == 1) == (matched == length))
        & ((exact == 1) == (longest == length))
    )
    if not possible.all():
        raise ImpossibleTableError(f"the scores of {attack} contradict each other in samples.csv")
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
            f"the reference's scores of {attack} contradict each other in samples.csv"
        )
    zeros, nothing = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), math.nan)
    return WindowScores(exact == 1, share, zeros, zeros, nothing, nll, nothing)


def _attacks(document: Document, run: Recomputed) -> Iterator[Check]:
    for recorded, result in zip(document["attacks"], run.attacks, strict=True):
        due = summary_json(result.summary)
        nll, read = due.pop("suffix_nll"), result.data.suffix_nll
        name = f"attacks.{result.attack}"
        for part, value in due.items():
            yield f"{name}.{part}", recorded[part], value
        yield f"{name}.suffix_nll", *_rounded(recorded["suffix_nll"], nll, _mean_error(read))
    new = next((gate for gate in document["gates"] if gate["name"] == "max-new"), None)
    if new is not None and new["estimate"] is not None:
        most = float(run.hits.mean())
        yield "gates.max-new.estimate", new["estimate"], min(new["estimate"], most)


def _origins(document: Document, run: Recomputed) -> Iterator[Check]:
    for part, paired in run.origins.items():
        for recorded, due in zip(document["reference"][part], origins_json(paired), strict=True):
            name = f"reference.{part}.{due['attack']}"
            nll, reads = due.pop("suffix_nll"), run.sides[part]
            for key, value in due.items():
                yield f"{name}.{key}", recorded[key], value
            for key, side in (("target", reads.scores), ("reference", reads.reference)):
                error = max(map(_mean_error, (scores.suffix_nll for scores in side.values())))
                value = recorded["suffix_nll"][key]
                yield f"{name}.suffix_nll.{key}", *_rounded(value, nll[key], error)
            both = recorded["suffix_nll"]
            target, reference = figure(both["target"]), figure(both["reference"])
            error = _error(target) + _error(reference)  # the report rounds each of the three
            change = _rounded(both["change"], target - reference, error)
            yield f"{name}.suffix_nll.change", *change


def _corpora(document: Document, run: Recomputed) -> Iterator[Check]:
    for part, side in run.sides.items():
        recorded, rows = document[part], side.rows
        folds = rows["fold"].to_numpy(dtype=np.int64)
        due: Document = {"windows": len(rows), **split_json(side.clusters, folds)}
        for tokens in ("prefix_tokens", "suffix_tokens"):
            alike = rows[tokens].unique().tolist()
            due[tokens] = alike[0] if len(alike) == 1 else recorded[tokens] if not alike else None
        for key, value in due.items():
            yield f"{part}.{key}", recorded[key], value


def _sensitive(document: Document, run: Recomputed) -> Iterator[Check]:
    section = document["sensitive"]
    if section is None:
        blank = not any(side.rows["categories"].any() for side in run.sides.values())
        yield "sensitive", section, None if blank else {}
        return
    categories = tuple(kind["category"] for kind in section["looked_for"])
    for part, side in run.sides.items():
        counts = _items(categories, side.rows["categories"].tolist())
        before = list(side.reference.values()) if document["reference"] is not None else None
        due = leaks_json(count_leaks(categories, counts, side.scores, before))
        yield f"sensitive.{part}", section[part], due


def _items(categories: Sequence[str], cells: Sequence[str]) -> Counts:
    """Return the items (N,C) that the column ``categories`` counts."""
    counts = np.zeros((len(cells), len(categories)), dtype=np.uint16)
    for row, cell in enumerate(cells):
        for named in cell.split():
            category, _, items = named.partition(":")
            if category not in categories:
                raise ImpossibleTableError(
                    "the categories in samples.csv are not those that were searched"
                )
            counts[row, categories.index(category)] = int(items)
    return counts


def _outside_bounds(document: Document, run: Recomputed) -> Iterator[str]:
    """Yield counts of the section ``validity`` that the table rules out."""
    section, data = document["validity"], run.sides["data"]
    faulty = section["without_text"]["any"] + section["template"]["any"]
    asking = [name for name in LADDER if name != "copy" and name in data.scores]
    reading, continued = section["reading"], section["continuations"]
    hits = int(run.hits.sum())
    if not max(0, hits - faulty) <= section["extracted"] <= hits:
        yield "validity.extracted does not follow from samples.csv"
    if not asking:
        return
    missed = int((~data.scores[asking[0]].exact).sum())
    if continued is None or continued["windows"] != missed:
        yield "validity.continuations.windows does not follow from samples.csv"
    for part, side in run.sides.items():
        nll = np.sort(side.scores[asking[0]].suffix_nll)
        nll = nll[np.isfinite(nll)]
        left_out = min(faulty, len(nll)) if part == "data" else 0
        if left_out < len(nll) and not _is_median(nll, left_out, reading.get(part)):
            yield f"validity.reading.{part}.nll does not follow from samples.csv"


def _is_median(nll: Floats, left_out: int, reading: Document | None) -> bool:
    """True if a reading is the median of sorted figures without ``left_out`` of them."""
    if reading is None:
        return False
    low = float(np.median(nll[: len(nll) - left_out]))
    high = float(np.median(nll[left_out:]))
    recorded = figure(reading["nll"])
    return low - _error(low) <= recorded <= high + _error(high)


def _error(rounded: float) -> float:
    """Return the largest rounding error of a likelihood in the table, and of its median."""
    digits = math.floor(math.log10(abs(rounded))) if rounded else 0
    return 0.02 + (0.05 * 10.0**digits if digits >= 0 else 0.0)


def _mean_error(nll: Floats) -> float:
    return float(np.mean([_error(value) for value in nll[np.isfinite(nll)].tolist()] or [0.0]))


def _rounded(recorded: float | None, due: float, error: float) -> tuple[float | None, float]:
    """Return a figure and its value from rounded ones, which is the figure if it is near enough."""
    near = recorded is not None and abs(recorded - due) <= error
    return recorded, recorded if recorded is not None and near else due


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
        return None if math.isclose(recorded, due, rel_tol=_CLOSE, abs_tol=_CLOSE) else name
    return None if recorded == due else name
