"""Sets of units whose silencing stops an extraction, their controls and their cost elsewhere.

Knows extracted windows, units and the search, not the report. W: searched extracted windows, I:
those with a set, J: windows of another group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memaudit.attack.journal import Progress
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.neurons.unit_effects import Attribution, attribute
from memaudit.diagnose.neurons.unit_search import Search, UnitSet, run_searches, search_smallest
from memaudit.diagnose.neurons.units import Levels, Silencer, Units, mean_levels, score_suffix
from memaudit.diagnose.subject import Part, Subject
from memaudit.score.stats import Bools, Floats, Ints

OTHER_TEXT = 100
"""Windows of a unit's mean. Its standard error is below a fortieth of the unit's spread, with the
suffix positions of a window counted as one."""
Goal = Literal["stopped", "erased"]
"""Stopped: one suffix token wrong, so that greedy decoding no longer returns the suffix. Erased: a
given share of its tokens wrong."""
Ranking = Literal["weakest", "every", "size", "random"]
"""Units by effect on the least certain tokens, by effect on all tokens, by distance from their
level, and at random."""
EFFECT_FOR: dict[Goal, Ranking] = {"stopped": "weakest", "erased": "every"}
"""Ranking to search along for each goal."""
Kind = Literal["found", "random"]
"""The set from the search, and a random set with as many units in each block."""
Group = Literal["extracted", "controls", "data"]
"""Windows to measure the cost on: extracted windows of other clusters; controls; or, without
controls, data that no attack extracts."""


@dataclass(frozen=True, eq=False)
class Cost:
    """Effect of silencing the sets of I windows on J windows of a group."""

    rise: Floats
    """(I,J) rise of the suffix NLL, nats/token; NaN if both windows are in one cluster."""
    lost: Floats
    """(I,J) 1 if a suffix token is wrong, else 0; NaN as in ``rise``."""
    reached: Floats
    """(I,J) 1 if this window reaches the goal, too, else 0; NaN as in ``rise``."""
    clusters: Ints
    """(J,)."""
    before: float
    """Mean suffix NLL with nothing silenced, nats/token."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results for one goal."""

    goal: Goal
    need: int
    """Suffix tokens that must be wrong."""
    sets: Sequence[UnitSet]
    """(W)."""
    wrong: Ints
    """(W,) wrong suffix tokens with the window's set silenced; 0 without a set."""
    random: Floats
    """(I,) share of the random sets, of as many units in each block, that reach the goal."""
    largest: Bools
    """(I,) True if as many units, those furthest from their mean, reach the goal."""
    costs: Mapping[tuple[Group, Kind], Cost]
    disclosed: bool = True
    """True if there are enough windows with a set to report."""

    @property
    def with_set(self) -> Ints:
        """(I,) windows with a set."""
        return np.flatnonzero([unit_set.stopped for unit_set in self.sets])

    @property
    def members(self) -> list[Ints]:
        """(I) units of each set."""
        return [unit_set.units for unit_set in self.sets if unit_set.stopped]

    @property
    def minimal(self) -> int:
        """Number of sets of which every unit is needed."""
        return sum(unit_set.minimal for unit_set in self.sets if unit_set.stopped)


@dataclass(frozen=True, eq=False)
class Silencing:
    """Results of all searches."""

    units: Units
    clusters: Ints
    """(W,) clusters, all different."""
    not_reproduced: int
    """Windows that the run extracted and this diagnosis could not reproduce."""
    limit: int
    """Most units of a set."""
    lengths: Ints
    """Units silenced from the head of each ranking: 1, 2, 4, ..."""
    wrong: Mapping[Ranking, Ints]
    """(W,lengths) wrong suffix tokens."""
    outcomes: Sequence[Outcome]
    level_source: str
    """Windows of the units' means."""


def silence_run(
    subject: Subject, settings: NeuronsSettings, units: Units, progress: Progress
) -> Silencing | None:
    """Search sets of units for extracted windows, and compare them with other sets.

    None if this diagnosis can reproduce no extraction, or too few to report.

    Raises:
        TargetError: no gradient flows to the units.
    """
    rng = np.random.default_rng([settings.seed, 2])
    part, not_reproduced = _choose(subject, settings.unit_windows, rng)
    if not len(part) or not subject.disclosure.admits("windows of unit sets", part.clusters):
        return None
    level_source, level = _levels(subject, settings, units, part, rng)
    with progress.stage("attribution of units", len(part)) as advance:
        passes = subject.passes()
        attribution = attribute(passes, units, level, part.ids, advance)
    search = _UnitSearch(
        subject, settings, Silencer(passes, units, level), part, attribution, progress, rng
    )
    lengths, wrong = search.rankings()
    required = {"stopped": 1, "erased": max(1, round(settings.erased * subject.suffix_tokens))}
    outcomes = [
        search.outcome("stopped", required["stopped"]),
        search.outcome("erased", required["erased"]),
    ]
    return Silencing(
        units, part.clusters, not_reproduced, search.limit, lengths, wrong, outcomes, level_source
    )


def _choose(subject: Subject, limit: int, rng: np.random.Generator) -> tuple[Part, int]:
    """Sample reproducible extracted windows, one per cluster; also count those not reproduced."""
    data = subject.data
    rows = rng.permutation(np.flatnonzero(data.extracted))
    _, first = np.unique(data.clusters[rows], return_index=True)
    chosen = rng.permutation(rows[first])[:limit]
    part = data.take(np.sort(chosen).astype(np.int64))
    if not len(part):
        return part, 0
    exact = subject.passes().read(part.ids, score_suffix)["wrong"] == 0
    return part.take(exact), int((~exact).sum())


def _levels(
    subject: Subject, settings: NeuronsSettings, units: Units, part: Part, rng: np.random.Generator
) -> tuple[str, Levels]:
    """Return the source and the values of the units' levels while silenced."""
    if settings.silence == "zero":
        return "nothing", np.zeros(units.total, dtype=np.float32)
    unextracted, source = unextracted_windows(subject)
    chosen = unextracted if len(unextracted) else part
    source = source if len(unextracted) else "the extracted windows themselves"
    return source, mean_levels(subject.passes(), units, chosen.sample(OTHER_TEXT, rng).ids)


def unextracted_windows(subject: Subject) -> tuple[Part, str]:
    """Return windows that no attack extracts, of the data or else the controls, and their name."""
    data = subject.data
    unextracted = data.take(data.untouched)
    if not len(unextracted) and subject.controls is not None:
        return subject.controls, "the controls"
    return unextracted, "data that no attack extracts"


@dataclass(frozen=True, eq=False)
class _UnitSearch:
    subject: Subject
    settings: NeuronsSettings
    silencer: Silencer
    part: Part
    attribution: Attribution
    progress: Progress
    rng: np.random.Generator

    @property
    def limit(self) -> int:
        """Most units to silence together, at most all units."""
        return min(self.settings.most_units, int(self.attribution.size.shape[1]))

    def head(self, ranking: Ranking, window: int, length: int) -> Ints:
        """Return the first units of a window's ranking."""
        if ranking == "random":
            rng = np.random.default_rng([self.settings.seed, 3, window])
            return rng.permutation(self.attribution.size.shape[1])[:length]
        values = self.values(ranking)[window]
        return np.argsort(-values, kind="stable")[:length]

    def values(self, ranking: Ranking) -> Levels:
        """Return the values (W,U) of a ranking other than ``random``."""
        values: Levels = getattr(self.attribution, ranking)
        return values

    def rankings(self) -> tuple[Ints, dict[Ranking, Ints]]:
        """Count the wrong tokens by length of each ranking's head."""
        lengths = 2 ** np.arange(int(np.log2(self.limit)) + 1)
        kinds: tuple[Ranking, ...] = ("weakest", "every", "size", "random")
        windows, shape = len(self.part), (len(self.part), len(lengths))
        wrong: dict[Ranking, Ints] = {}
        with self.progress.stage("rankings of units", len(kinds) * windows) as advance:
            for ranking in kinds:
                wrong[ranking] = np.zeros(shape, dtype=np.int64)
                for at, length in enumerate(lengths):
                    sets = [self.head(ranking, window, int(length)) for window in range(windows)]
                    wrong[ranking][:, at] = self.silencer.score(self.part.ids, sets)["wrong"]
                advance(windows)
        return lengths, wrong

    def outcome(self, goal: Goal, need: int) -> Outcome:
        """Search sets that reach a goal, and compare them with other sets."""
        sets = self._search(goal, need)
        wrong = self.silencer.score(self.part.ids, [unit_set.units for unit_set in sets])["wrong"]
        with_set = np.flatnonzero([unit_set.stopped for unit_set in sets])
        if not len(with_set):
            empty = np.zeros(0)
            return Outcome(goal, need, sets, wrong, empty, empty.astype(bool), {})
        ids, units = self.part.ids[with_set], [sets[window].units for window in with_set]
        draws = []
        for _ in range(self.settings.random_sets):
            random_sets = [self.silencer.units.sample_alike(members, self.rng) for members in units]
            draws.append(self.silencer.score(ids, random_sets)["wrong"] >= need)
        pairs = zip(with_set.tolist(), units, strict=True)
        largest = [self.head("size", window, len(members)) for window, members in pairs]
        return Outcome(
            goal=goal,
            need=need,
            sets=sets,
            wrong=wrong,
            random=np.mean(draws, axis=0),
            largest=self.silencer.score(ids, largest)["wrong"] >= need,
            costs=self._costs(goal, need, with_set, units),
            disclosed=self.subject.disclosure.admits(
                f"windows with a unit set ({goal})", self.part.clusters[with_set]
            ),
        )

    def _search(self, goal: Goal, need: int) -> list[UnitSet]:
        ids, ranking = self.part.ids, EFFECT_FOR[goal]
        with self.progress.stage(f"search of units ({goal})", len(ids)) as advance:

            def search(window: int) -> Search:
                helping = int((self.values(ranking)[window] > 0).sum())
                order = self.head(ranking, window, min(self.limit, helping))
                unit_set = yield from search_smallest(order, self.limit, self.settings.trials)
                advance(1)
                return unit_set

            def trial(windows: Ints, sets: Sequence[Ints]) -> Bools:
                return np.asarray(self.silencer.score(ids[windows], sets)["wrong"] >= need)

            return run_searches([search(window) for window in range(len(ids))], trial)

    def _costs(
        self, goal: Goal, need: int, with_set: Ints, units: Sequence[Ints]
    ) -> dict[tuple[Group, Kind], Cost]:
        own = self.part.clusters[with_set]
        random_sets = [self.silencer.units.sample_alike(members, self.rng) for members in units]
        kinds: tuple[tuple[Kind, Sequence[Ints]], ...] = (("found", units), ("random", random_sets))
        groups = self._groups()
        costs: dict[tuple[Group, Kind], Cost] = {}
        with self.progress.stage(f"cost elsewhere ({goal})", 2 * len(groups) * len(own)) as advance:
            for group, part in groups.items():
                before = self.silencer.passes.read(part.ids, score_suffix)["nll"]
                for kind, sets in kinds:
                    cost = self._cost(part, before, sets, need, advance)
                    same_cluster = own[:, None] == part.clusters[None, :]
                    for matrix in (cost.rise, cost.lost, cost.reached):
                        matrix[same_cluster] = np.nan
                    costs[group, kind] = cost
        return costs

    def _groups(self) -> dict[Group, Part]:
        subject, limit = self.subject, self.settings.cost_windows
        rng = np.random.default_rng([self.settings.seed, 4])  # the same for every goal
        groups: dict[Group, Part] = {}
        if len(self.part) > 1:
            groups["extracted"] = self.part.sample(limit, rng)
        unextracted = subject.controls
        if unextracted is None:
            unextracted, _ = unextracted_windows(subject)
        if len(unextracted):
            name: Group = "data" if subject.controls is None else "controls"
            groups[name] = unextracted.sample(limit, rng)
        admits = self.subject.disclosure.admits
        return {
            name: part
            for name, part in groups.items()
            if admits(f"{name} that costs are measured on", part.clusters)
        }

    def _cost(
        self,
        part: Part,
        before: Floats,
        sets: Sequence[Ints],
        need: int,
        advance: Callable[[int], None],
    ) -> Cost:
        rise, wrong = [], []
        for members in sets:
            after = self.silencer.score(part.ids, [members] * len(part))
            rise.append(after["nll"] - before)
            wrong.append(after["wrong"])
            advance(1)
        lost, reached = ((np.stack(wrong) >= required).astype(np.float64) for required in (1, need))
        return Cost(np.stack(rise), lost, reached, part.clusters, float(before.mean()))
