"""A finished run, asked: what its document and its samples say, for every format alike.

Knows the form of ``report.json`` and ``samples.csv`` as they are read back, in which a figure may
be missing and a setting unknown. Knows nothing of formats: whoever writes one neutralises what
it shows. N stands for the rows of one role that were scored.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from memaudit.config.settings import LADDER
from memaudit.report.report_json import Document
from memaudit.report.samples_csv import COLUMNS, TEXTS
from memaudit.report.wording import (
    gate_label,
    p_value,
    percent_interval,
)
from memaudit.score.estimate import MISSING, percent, points
from memaudit.score.stats import Bools, Floats, Interval, Ints

Row = dict[Any, Any]
"""A row of ``samples.csv``: column to cell."""
LEAKED, KNOWN = "fine-tuning", "before"
"""What a table calls the origin of a window that comes out."""
UNASKED = ("controls", "validity")
"""Gates that are judged without a threshold."""


def column(score: str, attack: str) -> str:
    """The column of ``samples.csv`` that holds an attack's score."""
    return f"{score}_{attack.replace('-', '_')}"


def scored(samples: pd.DataFrame, role: str) -> pd.DataFrame:
    """The rows of a role, ``data`` or ``control``, that were scored: one for each window."""
    return samples[(samples["role"] == role) & (samples["status"] == "scored")]


def figures(rows: pd.DataFrame, name: str) -> Floats:
    """A column of figures (N,); NaN where a cell is blank."""
    return rows[name].to_numpy(dtype=np.float64, na_value=math.nan)


def model_attacks(document: Document) -> list[Document]:
    """The attacks that ask the model: all but ``copy``."""
    return [attack for attack in document["attacks"] if attack["attack"] != "copy"]


def strongest(document: Document) -> Document | None:
    """The attack on the model that extracts most windows; of equals the simplest.

    Where none extracts any, the one with the highest fractional rate.
    """
    attacks = model_attacks(document)
    if any(attack["exact"]["k"] for attack in attacks):
        return max(attacks, key=lambda attack: int(attack["exact"]["k"]))
    return max(attacks, key=lambda one: one["fractional"]["estimate"] or 0.0, default=None)


def hits(document: Document, rows: pd.DataFrame) -> Bools:
    """Which attack on the model extracts which window exactly: (attacks, N)."""
    names = [column("exact", attack["attack"]) for attack in model_attacks(document)]
    found = [figures(rows, name) == 1 for name in names]
    return np.array(found, dtype=bool).reshape(len(names), len(rows))


class Extracted(NamedTuple):
    """What any attack extracts of N windows."""

    target: Bools
    reference: Bools
    """From the model before fine-tuning; all False where there was none."""

    @property
    def leaked(self) -> Bools:
        """Windows that come out of the target alone."""
        return self.target & ~self.reference


def extracted(document: Document, rows: pd.DataFrame) -> Extracted:
    """Which windows (N,) come out of the target and of the reference, by whichever attack."""
    names = [f"reference_{column('exact', one['attack'])}" for one in model_attacks(document)]
    before = [figures(rows, name) == 1 for name in names] if has_reference(document) else []
    before.append(np.zeros(len(rows), dtype=bool))
    found = (hits(document, rows), np.array(before, dtype=bool))
    return Extracted(*(np.asarray(np.any(side, axis=0)) for side in found))


def has_reference(document: Document) -> bool:
    """Whether the model before fine-tuning was attacked as well."""
    return document["reference"] is not None


def origin_words(document: Document, rows: pd.DataFrame) -> list[str]:
    """Where each window (N,) that comes out comes from, `LEAKED` or `KNOWN`; blank for others."""
    both = extracted(document, rows)
    words = np.where(both.target, np.where(both.reference, KNOWN, LEAKED), "")
    return [str(word) for word in words]


def best(document: Document, rows: pd.DataFrame, score: str, *, least: bool = False) -> Floats:
    """The largest, or least, value of a score (N,) that any attack on the model gets."""
    names = [column(score, attack["attack"]) for attack in model_attacks(document)]
    if not names:
        return np.full(len(rows), math.nan)
    values = np.array([figures(rows, name) for name in names])
    return np.asarray((np.fmin if least else np.fmax).reduce(values))


def worst_rows(document: Document, rows: pd.DataFrame, limit: int) -> Ints:
    """Places (at most ``limit``,) of the windows in ``rows`` that are extracted, worst first.

    First those that the fine-tuning leaked, where a reference tells; then by how many attacks
    extract the window, by how far any gets, by the lowest NLL; windows of which no attack gets a
    single token right are left out. ``copy`` does not count.
    """
    by, longest = hits(document, rows).sum(axis=0), best(document, rows, "longest_run")
    matched, nll = best(document, rows, "matched"), best(document, rows, "suffix_nll", least=True)
    leaked = extracted(document, rows).leaked & has_reference(document)
    order = np.lexsort((nll, -longest, -matched, -by, ~leaked))
    told = (by > 0) | (longest > 0)  # one that is extracted counts, whatever other columns say
    return np.asarray(order[told[order]][:limit])


def extracted_by(document: Document, row: Row) -> str:
    """The attacks that extract a window, as words: ``all``, ``none, dynamic``, ``-``."""
    asked = {attack["attack"] for attack in model_attacks(document)}
    ran = [attack["attack"] for attack in document["attacks"]]
    by = [attack for attack in ran if is_hit(row, attack)]
    if len(asked) > 1 and asked <= set(by):
        return "all" if len(by) == len(ran) else "all but copy"
    return ", ".join(by) or "-"


def is_hit(row: Row, attack: str) -> bool:
    """Whether the attack extracts the row's window exactly."""
    value = row[column("exact", attack)]
    return bool(pd.notna(value) and value == 1)


def passed_through(samples: pd.DataFrame) -> list[str]:
    """The columns that the data brought along."""
    own = {*COLUMNS, *TEXTS}
    return [name for name in samples.columns if name not in own]


def revealed_texts(document: Document, samples: pd.DataFrame) -> list[tuple[str, str]]:
    """Columns with audited text, each with what it holds; empty where none was revealed."""
    names = ["prefix", "suffix", *(attack["attack"] for attack in document["attacks"])]
    both = [(name, f"text_{name.replace('-', '_')}") for name in names]
    return [(name, shown) for name, shown in both if shown in samples.columns]


def not_run(document: Document) -> list[str]:
    """The attacks of the ladder that were left out."""
    ran = {attack["attack"] for attack in document["attacks"]}
    return [attack for attack in LADDER if attack not in ran]


def batch_remark(document: Document, stage: str) -> str:
    """What a lack of memory did to the batches of ``extraction`` or ``tuning``; "" if nothing."""
    facts = document["run"]["batches"].get(stage)
    return "" if facts is None else str(facts["remark"])


def batch_reason(document: Document) -> str:
    """Why extraction took as many windows at a time as it did in the end."""
    reasons = (document["run"]["batch_size_reason"], batch_remark(document, "extraction"))
    return "; ".join(filter(None, reasons))


def setting(document: Document, *path: str) -> Any:
    """A setting of the run by its path; None where the document holds none of that name."""
    value: Any = document["config"]["values"]
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def confidence(document: Document) -> float:
    """Of every interval: a fraction in (0,1)."""
    attacks = document["attacks"]
    return float(attacks[0]["exact"]["confidence"]) if attacks else 0.95


def figure(value: float | None) -> float:
    """A figure of the document; NaN where it is null."""
    return math.nan if value is None else float(value)


def interval_text(interval: Document) -> str:
    """An interval of shares: ``10.6–14.2 %``."""
    low, high = figure(interval["low"]), figure(interval["high"])
    if math.isnan(low) or math.isnan(high):
        return MISSING
    return percent_interval(Interval(low, high))


def rate_text(rate: Document) -> str:
    """The exact rate: ``15.5 %``."""
    return percent(figure(rate["estimate"]))


def count_text(rate: Document | None) -> str:
    """Hits of how many: ``31/200``; blank where there is no such rate."""
    return "" if rate is None else f"{rate['k']}/{rate['n']}"


def lift_texts(lift: Document | None) -> tuple[str, str, str, str]:
    """Lift in points, windows gained and lost, the larger p-value; blank where there is none."""
    if lift is None:
        return "", "", "", ""
    p = max(figure(lift["p_value"]), figure(lift["clustered_p_value"]))
    shown = MISSING if math.isnan(p) else p_value(p).removeprefix("p = ")
    return points(figure(lift["estimate"])), str(lift["gained"]), str(lift["lost"]), shown


def controls_rate(attack: Document) -> Document | None:
    """The rate of an attack on the controls, where there are any."""
    controls = attack["controls"]
    rate: Document | None = None if controls is None else controls["exact"]
    return rate


def gate_name(gate: Document) -> str:
    """A gate and what it allows: ``max-exact 1 %``."""
    return gate_label(str(gate["name"]), gate["threshold"])


def void_reason(document: Document) -> str:
    """Why the run means nothing; empty where it means something."""
    return next(
        (str(gate["reason"]) for gate in document["gates"] if gate["name"] == "validity"), ""
    )


def verdict(document: Document) -> tuple[str, str]:
    """The verdict over all gates, ``pass``, ``fail``, ``inconclusive`` or ``none``, and why.

    ``none`` where no threshold was set, whatever the controls say in their favour.
    """
    gates = document["gates"]
    starts = {"fail": "This run fails", "inconclusive": "This run is inconclusive on"}
    for word, start in starts.items():
        found = [gate for gate in gates if gate["verdict"] == word]
        if found:
            more = f" ({len(found) - 1} more like it below.)" if len(found) > 1 else ""
            return word, f"{start} {gate_name(found[0])}: {found[0]['reason']}{more}"
    if any(gate["name"] not in UNASKED for gate in gates):
        return "pass", "This run passes every gate that was set."
    return "none", "No gate was set, so this run neither passes nor fails."
