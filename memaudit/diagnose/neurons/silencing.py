"""Sets of units whose silencing stops an extraction, what else stops it, and what else they stop.

Knows extracted windows, units and the search. Knows nothing of how it is told. W stands for the
extracted windows that are looked at, J for windows of another group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.neurons.silencing_found import (
    EFFECT_FOR,
    Cost,
    Goal,
    Group,
    Kind,
    Outcome,
    Ranking,
    Silencing,
)
from memaudit.diagnose.neurons.unit_effects import Attribution, attribute
from memaudit.diagnose.neurons.unit_search import FoundSet, Search, run_searches, search_smallest
from memaudit.diagnose.neurons.units import Levels, Silencer, Units, mean_levels, score_suffix
from memaudit.diagnose.subject import Part, Subject, draw
from memaudit.score.stats import Bools, Floats, Ints

OTHER_TEXT = 100
"""Windows that the mean of a unit is taken over: its standard error is below a fortieth of the
unit's spread, the suffix positions of a window taken as one."""


def silence_run(
    subject: Subject, settings: NeuronsSettings, units: Units, progress: Progress
) -> Silencing | None:
    """Search sets of units for extracted windows, and compare them; None where no extracted window
    comes out in a pass made here.

    Raises:
        TargetError: no gradient flows to the units.
    """
    rng = np.random.default_rng([settings.seed, 2])
    part, unlike = _choose(subject, settings.unit_windows, rng)
    if not len(part) or not subject.disclosure.admits("windows of unit sets", part.clusters):
        return None
    other, level = _levels(subject, settings, units, part, rng)
    with progress.stage("attribution of units", len(part)) as advance:
        passes = subject.passes()
        found = attribute(passes, units, level, part.ids, advance)
    work = _Work(subject, settings, Silencer(passes, units, level), part, found, progress, rng)
    lengths, wrong = work.rankings()
    needs = {"stopped": 1, "erased": max(1, round(settings.erased * subject.suffix_tokens))}
    outcomes = [work.outcome("stopped", needs["stopped"]), work.outcome("erased", needs["erased"])]
    return Silencing(units, part.clusters, unlike, work.most, lengths, wrong, outcomes, other)


def _choose(subject: Subject, most: int, rng: np.random.Generator) -> tuple[Part, int]:
    """Extracted windows, one of each cluster, that come out here too; and how many do not."""
    data = subject.data
    rows = rng.permutation(np.flatnonzero(data.extracted))
    _, first = np.unique(data.clusters[rows], return_index=True)
    kept = rng.permutation(rows[first])[:most]
    part = data.take(np.sort(kept).astype(np.int64))
    if not len(part):
        return part, 0
    exact = subject.passes().read(part.ids, score_suffix)["wrong"] == 0
    return part.take(exact), int((~exact).sum())


def _levels(
    subject: Subject,
    settings: NeuronsSettings,
    units: Units,
    part: Part,
    rng: np.random.Generator,
) -> tuple[str, Levels]:
    """What the units give while they are silenced, and where that is from."""
    if settings.silence == "zero":
        return "nothing", np.zeros(int(units.widths.sum()), dtype=np.float32)
    plain, what = untouched(subject)
    chosen = plain if len(plain) else part
    what = what if len(plain) else "the extracted windows themselves"
    rows = draw(np.ones(len(chosen), dtype=bool), OTHER_TEXT, rng)
    return what, mean_levels(subject.passes(), units, chosen.take(rows).ids)


def untouched(subject: Subject) -> tuple[Part, str]:
    """Windows that nothing extracts, data before controls, and what they are; may be none."""
    data = subject.data
    plain = data.take(~(data.extracted | data.hidden))
    if not len(plain) and subject.controls is not None:
        return subject.controls, "the controls"
    return plain, "data that no attack extracts"


@dataclass(frozen=True, eq=False)
class _Work:
    subject: Subject
    settings: NeuronsSettings
    silencer: Silencer
    part: Part
    attribution: Attribution
    progress: Progress
    rng: np.random.Generator

    @property
    def most(self) -> int:
        """Units that are silenced together at most: never more than there are."""
        return min(self.settings.most_units, int(self.attribution.size.shape[1]))

    def head(self, ranking: Ranking, window: int, length: int) -> Ints:
        """The first units of a ranking for a window."""
        if ranking == "random":
            rng = np.random.default_rng([self.settings.seed, 3, window])
            return rng.permutation(self.attribution.size.shape[1])[:length]
        values = self.values(ranking)[window]
        return np.argsort(-values, kind="stable")[:length]

    def values(self, ranking: Ranking) -> Levels:
        """(W,U) what units are ranked by, but for random ones."""
        found: Levels = getattr(self.attribution, ranking)
        return found

    def rankings(self) -> tuple[Ints, dict[Ranking, Ints]]:
        """How many tokens the head of each ranking makes wrong, by its length."""
        lengths = 2 ** np.arange(int(np.log2(self.most)) + 1)
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
        """Sets that reach a goal, and what they are compared with."""
        sets = self._search(goal, need)
        wrong = self.silencer.score(self.part.ids, [one.units for one in sets])["wrong"]
        found = np.flatnonzero([one.stopped for one in sets])
        if not len(found):
            nothing = np.zeros(0)
            return Outcome(goal, need, sets, wrong, nothing, nothing.astype(bool), {})
        ids, units = self.part.ids[found], [sets[window].units for window in found]
        draws = []
        for _ in range(self.settings.random_sets):
            alike = [self.silencer.units.draw_alike(some, self.rng) for some in units]
            draws.append(self.silencer.score(ids, alike)["wrong"] >= need)
        pairs = zip(found.tolist(), units, strict=True)
        largest = [self.head("size", window, len(some)) for window, some in pairs]
        return Outcome(
            goal=goal,
            need=need,
            sets=sets,
            wrong=wrong,
            random=np.mean(draws, axis=0),
            largest=self.silencer.score(ids, largest)["wrong"] >= need,
            costs=self._costs(goal, need, found, units),
            disclosed=self.subject.disclosure.admits(
                f"windows with a unit set ({goal})", self.part.clusters[found]
            ),
        )

    def _search(self, goal: Goal, need: int) -> list[FoundSet]:
        ids, ranking = self.part.ids, EFFECT_FOR[goal]
        with self.progress.stage(f"search of units ({goal})", len(ids)) as advance:

            def search(window: int) -> Search:
                helping = int((self.values(ranking)[window] > 0).sum())
                order = self.head(ranking, window, min(self.most, helping))
                found = yield from search_smallest(order, self.most, self.settings.trials)
                advance(1)
                return found

            def trial(windows: Ints, sets: Sequence[Ints]) -> Bools:
                return np.asarray(self.silencer.score(ids[windows], sets)["wrong"] >= need)

            return run_searches([search(window) for window in range(len(ids))], trial)

    def _costs(
        self, goal: Goal, need: int, found: Ints, units: Sequence[Ints]
    ) -> dict[tuple[Group, Kind], Cost]:
        own = self.part.clusters[found]
        alike = [self.silencer.units.draw_alike(some, self.rng) for some in units]
        kinds: tuple[tuple[Kind, Sequence[Ints]], ...] = (("found", units), ("random", alike))
        groups = self._groups()
        costs: dict[tuple[Group, Kind], Cost] = {}
        with self.progress.stage(f"cost elsewhere ({goal})", 2 * len(groups) * len(own)) as advance:
            for group, part in groups.items():
                before = self.silencer.passes.read(part.ids, score_suffix)["nll"]
                for kind, sets in kinds:
                    cost = self._cost(part, before, sets, need, advance)
                    same = own[:, None] == part.clusters[None, :]
                    for matrix in (cost.rise, cost.lost, cost.reached):
                        matrix[same] = np.nan
                    costs[group, kind] = cost
        return costs

    def _groups(self) -> dict[Group, Part]:
        subject, most = self.subject, self.settings.cost_windows
        rng = np.random.default_rng([self.settings.seed, 4])  # the same for every goal
        groups: dict[Group, Part] = {}
        if len(self.part) > 1:
            groups["extracted"] = self.part.take(draw(np.ones(len(self.part), bool), most, rng))
        plain = subject.controls
        if plain is None:
            plain, _ = untouched(subject)
        if len(plain):
            name: Group = "data" if subject.controls is None else "controls"
            groups[name] = plain.take(draw(np.ones(len(plain), bool), most, rng))
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
        for some in sets:
            after = self.silencer.score(part.ids, [some] * len(part))
            rise.append(after["nll"] - before)
            wrong.append(after["wrong"])
            advance(1)
        lost, reached = ((np.stack(wrong) >= least).astype(np.float64) for least in (1, need))
        return Cost(np.stack(rise), lost, reached, part.clusters, float(before.mean()))
