"""Read values from a finished run's report and windows, for every format alike.

Knows the form of ``report.json`` and ``windows.csv``, in which a figure may be missing and a
setting unknown. Knows nothing of formats: each format neutralises what it shows. N: scored rows of
one role.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd

from memaudit.attack.facts import FEW_TO_SELECT
from memaudit.config.settings import LADDER, ProtocolSettings, attack_label
from memaudit.data.folds import attacks_left_out, left_out_sentence, untrained_sentence
from memaudit.report.columns import OWN
from memaudit.report.model import Gate, Report
from memaudit.report.model_parts import AnyAttack, Attack, Interval, Lift, Rate
from memaudit.report.wording import count, gate_label, percent_interval
from memaudit.score.estimate import MISSING, percent, points
from memaudit.score.stats import Bools, Floats, Ints

Row = dict[Any, Any]
"""A row of ``windows.csv``: column to cell."""
LEAKED, KNOWN = "fine-tuning", "before"
"""Origins of an extracted window, as tables name them."""
CHECKS = ("controls", "attacks", "validity")
"""Gates that no limit asks for: they check the run, and pass or fail nothing."""
NO_LIMIT = "No limit was set (--max-exact …), so this run passes or fails nothing."


def column(score: str, attack: str) -> str:
    """Return the column with an attack's score."""
    return f"{score}_{attack.replace('-', '_')}"


def scored(table: pd.DataFrame, role: str) -> pd.DataFrame:
    """Return the scored rows of a role, ``data`` or ``control``: one for each window or sample."""
    return table[(table["role"] == role) & (table["status"] == "scored")]


def is_own(rows: pd.DataFrame) -> Bools:
    """Return which windows (N,) are not template alone: those whose extraction is a finding."""
    return np.asarray(figures(rows, "template_tokens") < figures(rows, "suffix_tokens"))


def figures(rows: pd.DataFrame, name: str) -> Floats:
    """Return a column of figures (N,); NaN where a cell is blank."""
    return rows[name].to_numpy(dtype=np.float64, na_value=math.nan)


def model_attacks(report: Report) -> list[Attack]:
    """Return the attacks that query the model: all but ``copy``."""
    return [attack for attack in report.attacks if attack.attack != "copy"]


def ladder_rows(report: Report) -> list[Attack | AnyAttack]:
    """Return the attacks, weakest first, then all on the model together if there are several."""
    if report.any is None or len(model_attacks(report)) < 2:
        return [*report.attacks]
    return [*report.attacks, report.any]


def strongest(report: Report) -> Attack | None:
    """Return the attack on the model that extracts most samples, the simplest on ties.

    If none extracts any, return the one with the highest fractional rate.
    """
    attacks = model_attacks(report)
    if any(attack.extracted.k for attack in attacks):
        return max(attacks, key=lambda attack: attack.extracted.k)
    return max(attacks, key=_fractional, default=None)


def _fractional(attack: Attack) -> float:
    return 0.0 if math.isnan(attack.fractional.estimate) else attack.fractional.estimate


def hits(report: Report, rows: pd.DataFrame) -> Bools:
    """Return the mask of windows that each attack on the model extracts: (attacks, N).

    Windows of template alone are left out.
    """
    names = [column("exact", attack.attack) for attack in model_attacks(report)]
    exact = [(figures(rows, name) == 1) & is_own(rows) for name in names]
    return np.array(exact, dtype=bool).reshape(len(names), len(rows))


class Extracted(NamedTuple):
    """Masks of the N windows that any attack extracts."""

    target: Bools
    reference: Bools
    """Extracted from the model before fine-tuning; all False without one."""

    @property
    def leaked(self) -> Bools:
        """Windows extracted from the target alone."""
        return self.target & ~self.reference


def extracted(report: Report, rows: pd.DataFrame) -> Extracted:
    """Return masks (N,) of windows that any attack extracts from the target and the reference."""
    attacks = [attack.attack for attack in model_attacks(report)]
    names = [f"reference_{column('exact', attack)}" for attack in attacks]
    before = (
        [(figures(rows, name) == 1) & is_own(rows) for name in names]
        if has_reference(report)
        else []
    )
    before.append(np.zeros(len(rows), dtype=bool))
    both = (hits(report, rows), np.array(before, dtype=bool))
    return Extracted(*(np.asarray(np.any(side, axis=0)) for side in both))


def has_reference(report: Report) -> bool:
    """True if the model before fine-tuning was attacked as well."""
    return report.reference is not None


def origin_words(report: Report, rows: pd.DataFrame) -> list[str]:
    """Return each extracted window's origin (N,), `LEAKED` or `KNOWN`; blank for other windows."""
    both = extracted(report, rows)
    words = np.where(both.target, np.where(both.reference, KNOWN, LEAKED), "")
    return [str(word) for word in words]


def best(report: Report, rows: pd.DataFrame, score: str, *, least: bool = False) -> Floats:
    """Return the largest, or least, value (N,) of a score over the attacks on the model."""
    names = [column(score, attack.attack) for attack in model_attacks(report)]
    if not names:
        return np.full(len(rows), math.nan)
    values = np.array([figures(rows, name) for name in names])
    return np.asarray((np.fmin if least else np.fmax).reduce(values))


def worst_rows(report: Report, rows: pd.DataFrame, limit: int) -> Ints:
    """Return row indices of the worst windows, worst first, up to ``limit``.

    Windows leaked by the fine-tuning come first; then order is by the number of attacks that
    extract the window, by the most tokens matched, by the lowest NLL. Windows of which no attack
    gets a single token right are left out. ``copy`` does not count.
    """
    by, longest = hits(report, rows).sum(axis=0), best(report, rows, "longest_run")
    matched, nll = best(report, rows, "matched"), best(report, rows, "suffix_nll", least=True)
    leaked = extracted(report, rows).leaked & has_reference(report)
    order = np.lexsort((nll, -longest, -matched, -by, ~leaked))
    counted = (by > 0) | (longest > 0)  # an extracted window counts, whatever other columns hold
    return np.asarray(order[counted[order]][:limit])


def extracted_by(report: Report, row: Row) -> str:
    """Return the attacks that extract a window: ``all``, ``prefix only, dynamic``, ``-``."""
    asked = {attack.attack for attack in model_attacks(report)}
    ran = [attack.attack for attack in report.attacks]
    by = [attack for attack in ran if is_hit(row, attack)]
    if len(asked) > 1 and asked <= set(by):
        return "all" if len(by) == len(ran) else "all but copy"
    return ", ".join(map(attack_label, by)) or "-"


def is_hit(row: Row, attack: str) -> bool:
    """True if the attack extracts the row's window, and that is not template alone."""
    value = row[column("exact", attack)]
    return bool(pd.notna(value) and value == 1 and row["template_tokens"] < row["suffix_tokens"])


def passed_through(table: pd.DataFrame) -> list[str]:
    """Return the columns that the data brought along."""
    return [name for name in table.columns if name not in OWN]


def revealed_texts(report: Report, windows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return names and columns of audited text; empty if none was revealed."""
    names = ["prefix", "suffix", *(attack.attack for attack in report.attacks)]
    both = [(attack_label(name), f"text_{name.replace('-', '_')}") for name in names]
    return [(name, column) for name, column in both if column in windows.columns]


def not_run(report: Report) -> list[str]:
    """Return the attacks of the ladder that were left out."""
    ran = {attack.attack for attack in report.attacks}
    return [attack for attack in LADDER if attack not in ran]


def batch_remark(report: Report, stage: Literal["extraction", "tuning"]) -> str:
    """Return how memory limits changed the batches of ``extraction`` or ``tuning``; "" if not."""
    facts = report.run.batches.get(stage)
    return "" if facts is None else facts.remark


def batch_reason(report: Report) -> str:
    """Return the reasons for extraction's final batch size."""
    reasons = (report.run.batch_size_reason, batch_remark(report, "extraction"))
    return "; ".join(filter(None, reasons))


def setting(report: Report, *path: str) -> Any:
    """Return a setting of the run by its path; None if the report has none of that name."""
    value: Any = report.config.values
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def confidence(report: Report) -> float:
    """Return the confidence of every interval, in (0,1)."""
    attacks = report.attacks
    return attacks[0].extracted.confidence if attacks else 0.95


def interval_text(interval: Interval) -> str:
    """Format an interval of shares: ``10.6–14.2 %``."""
    return MISSING if math.isnan(sum(interval.ends)) else percent_interval(interval.ends)


def rate_text(rate: Rate) -> str:
    """Format a rate: ``15.5 %``."""
    return percent(rate.estimate)


def count_text(rate: Rate | None) -> str:
    """Format hits of samples: ``31/200``; blank without a rate."""
    return "" if rate is None else f"{rate.k}/{rate.n}"


def lift_texts(lift: Lift | None) -> tuple[str, str, str, str]:
    """Format lift in points, samples gained and lost, the larger p-value; blank without a lift."""
    if lift is None:
        return "", "", "", ""
    return points(lift.estimate), str(lift.gained), str(lift.lost), p_text(cautious_p(lift))


class Paired(Protocol):
    """Two paired tests of the same change."""

    @property
    def p_value(self) -> float:
        """P-value with windows as independent."""

    @property
    def clustered_p_value(self) -> float:
        """P-value over clusters."""


def cautious_p(paired: Paired) -> float:
    """Return the larger p-value of two paired tests."""
    return max(paired.p_value, paired.clustered_p_value)


def p_text(p: float) -> str:
    """Format a p-value in a column of its own: ``0.0005``."""
    return MISSING if math.isnan(p) else f"{p:.2g}"


def controls_rate(attack: Attack | AnyAttack) -> Rate | None:
    """Return an attack's rate on the controls; None without controls."""
    return None if attack.controls is None else attack.controls.extracted


def gate_name(gate: Gate) -> str:
    """Format a gate and its threshold: ``max-exact 1 %``."""
    return gate_label(gate.name, gate.threshold, gate.category)


def gate_id(gate: Gate) -> str:
    """Format a gate without its threshold: ``max-exact``, ``max-sensitive phone``."""
    return f"{gate.name} {gate.category}".rstrip()


def limits_of(report: Report) -> list[Gate]:
    """Return the gates of the limits that the user set."""
    return [gate for gate in report.gates if gate.name not in CHECKS]


def checks_of(report: Report) -> list[Gate]:
    """Return the checks of the run itself."""
    return [gate for gate in report.gates if gate.name in CHECKS]


def check_state(check: Gate) -> str:
    """Return a check's state in words: no verdict, as no limit asks for one."""
    return "ok" if check.verdict == "pass" else "not ok"


def void_reason(report: Report) -> str:
    """Return why the run is void; empty if it is valid."""
    return next((gate.reason for gate in report.gates if gate.name == "validity"), "")


def left_out(report: Report) -> tuple[str, ...]:
    """Return the attacks that were asked for and could not run, as too few clusters gave no folds.

    It follows from the settings and the clusters.
    """
    data, attacks = report.data, setting(report, "attacks") or []
    if setting(report, "generator") is not None or not attacks:
        return ()
    protocol = ProtocolSettings.model_validate(setting(report, "protocol"))
    missing = {*attacks}.intersection(not_run(report))
    return attacks_left_out(missing, data.used, data.clusters.count, protocol)


def left_out_reason(report: Report) -> str:
    """Say which attacks could not run, or trained nothing, and why; empty if all did."""
    protocol = ProtocolSettings.model_validate(setting(report, "protocol"))
    names = left_out(report)
    missing = left_out_sentence(names, report.data.clusters.count, protocol) if names else ""
    named = untrained_attacks(report)
    return " ".join(filter(None, [missing, untrained_sentence(named, protocol)]))


def untrained_attacks(report: Report) -> list[str]:
    """Return the attacks of which no fold had enough windows to choose an epoch by."""
    return untrained(
        (attack.attack, fit.stop_reason) for attack in report.attacks for fit in attack.fits
    )


def untrained(ends: Iterable[tuple[str, str]]) -> list[str]:
    """Return the attacks of which no fit had enough windows to choose an epoch by.

    ends: attack, and why its fit ended, for each fit.
    """
    by_attack: dict[str, list[str]] = {}
    for attack, reason in ends:
        by_attack.setdefault(attack, []).append(reason)
    return [name for name, reasons in by_attack.items() if {*reasons} == {FEW_TO_SELECT}]


def verdict(report: Report) -> tuple[str, str]:
    """Return the verdict over all gates and its reason.

    The verdict is ``pass``, ``fail``, ``inconclusive``, or ``none`` where no limit was set, even if
    every check is ok; people read "no gate" for it.
    """
    gates = report.gates
    starts = {"fail": "This run fails", "inconclusive": "This run is inconclusive on"}
    for word, start in starts.items():
        matching = [gate for gate in gates if gate.verdict == word]
        if matching:
            first, more = matching[0], len(matching) - 1
            rest = f" ({count(more, 'more gate')} below.)" if more else ""
            return word, f"{start} {gate_name(first)}: {first.reason}{rest}"
    if limits := limits_of(report):
        named = ", ".join(map(gate_name, limits))
        return "pass", f"This run passes every limit that was set, and no other: {named}."
    return "none", NO_LIMIT


def one_line(report: Report) -> str:
    """Return the finding and the verdict, each as a sentence, for a log or a chat."""
    return f"{report.summary}. {verdict(report)[1]}"
