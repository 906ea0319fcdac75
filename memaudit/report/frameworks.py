"""Rows of evidence: what a run tested of what well-known frameworks ask for.

Knows reports and paraphrases of the frameworks. Says what was and was not tested, and never that
anything complies. The references come from secondary sources: paraphrases, not quotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal, NamedTuple

from memaudit.config.settings import attack_label
from memaudit.report.model import Framework, Report
from memaudit.report.reading import gate_id, limits_of, model_attacks, void_reason

Tested = Literal["tested", "partly", "not tested"]

NOTE = (
    "This is not a finding of compliance: a row says only what this run measured. What a framework "
    "asks is paraphrased, partly from secondary sources: read the primary text."
)
EDPB, NIST = "EDPB Opinion 28/2024", "NIST AI 600-1"
OWASP, ATLAS = "OWASP Top 10 for LLM applications", "MITRE ATLAS"


class Row(NamedTuple):
    """One request of a framework, and what this run did about it."""

    framework: str
    reference: str
    """Place in the framework."""
    asks: str
    """Request, paraphrased by memaudit."""
    tested: Tested
    did: str
    """Tests that this run did, or left out."""
    evidence: tuple[str, ...]
    """JSON pointers into report.json; empty if none."""


def framework_rows(report: Report) -> tuple[Framework, ...]:
    """Return all rows, by framework."""
    facts = _Facts(report)
    rows = (row for part in (_edpb, _nist, _owasp, _atlas) for row in part(facts))
    return tuple(Framework(**row._asdict()) for row in rows)


class _Facts:
    """Facts of a report that the rows use."""

    def __init__(self, report: Report) -> None:
        asked = [attack for attack in model_attacks(report) if attack.extracted.n]
        names = ", ".join(attack_label(attack.attack) for attack in asked)
        samples = max((attack.extracted.n for attack in asked), default=0)
        void = bool(void_reason(report))
        self.partly: Tested = "partly" if asked and not void else "not tested"
        self.extraction: Tested = "tested" if self.partly == "partly" else "not tested"
        self.ran = (
            f"{samples:,} samples of the data were tried with known prefixes ({names})"
            if asked
            else "no attack on the model was run"
        )
        if asked and void:
            self.ran += ", in a run judged void (validity)"
        with_controls = report.controls is not None
        self.controls = "with controls" if with_controls else "without controls"
        self.gates = limits_of(report)
        chosen = report.target.choices.get("format")
        self.adapter = chosen is not None and "adapter" in chosen.value
        self.sensitive = report.sensitive is not None
        self.tokens = report.target.training_tokens


def _edpb(facts: _Facts) -> Iterator[Row]:
    row = partial(Row, EDPB, "paragraph 55, classes of attack")
    yield row(
        "attribute and membership inference",
        "not tested",
        "membership is not decided; the NLL of every suffix is recorded",
        ("/attacks/0/suffix_nll",),
    )
    yield row(
        "exfiltration",
        facts.partly,
        f"{facts.ran}, with access to the weights; not through a deployed service",
        ("/attacks",),
    )
    yield row(
        "regurgitation of training data",
        facts.extraction,
        f"{facts.ran}, {facts.controls}",
        ("/attacks", "/controls"),
    )
    yield row("model inversion", "not tested", "not attempted", ())
    yield row(
        "reconstruction",
        "not tested",
        "no record is reconstructed without its true prefix",
        (),
    )
    known = facts.tokens is not None
    yield Row(
        EDPB,
        "paragraph 58",
        "amount of training data against number of parameters",
        "tested" if known else "partly",
        "both recorded" if known else "parameters recorded; set target.training_tokens for both",
        ("/target/parameters", "/target/training_tokens"),
    )


def _nist(facts: _Facts) -> Iterator[Row]:
    row = partial(Row, NIST, "data privacy, suggested actions")
    yield row(
        "red-teaming for output of training data samples",
        facts.extraction,
        f"{facts.ran}, {facts.controls}",
        ("/attacks", "/controls"),
    )
    yield row(
        "red-teaming for membership inference and model extraction",
        "not tested",
        "not attempted",
        (),
    )
    yield row(
        "red-teaming for the revealing of personal or confidential information",
        facts.partly if facts.sensitive else "not tested",
        "items of known form were counted in the suffixes, and in the extracted ones"
        if facts.sensitive
        else "sensitive.enabled = false",
        ("/sensitive",),
    )
    yield row(
        "deduplication of the training data",
        "partly",
        "near-duplicates counted within the audited file, not in the whole training data",
        ("/data/clusters",),
    )


def _owasp(facts: _Facts) -> Iterator[Row]:
    row = partial(Row, OWASP, "LLM02 Sensitive Information Disclosure")
    yield row(
        "memorization in training",
        facts.extraction,
        f"{facts.ran}, {facts.controls}",
        ("/attacks", "/controls"),
    )
    yield row(
        "disclosure measured as a release gate",
        "tested" if facts.gates else "not tested",
        "; ".join(f"{gate_id(gate)}: {gate.verdict}" for gate in facts.gates) or "no limit was set",
        ("/gates",),
    )
    yield row(
        "extractability from adapters",
        facts.extraction if facts.adapter else "not tested",
        "the target is an adapter over its base"
        if facts.adapter
        else "the target is not an adapter",
        ("/target/choices",),
    )
    yield row(
        "probes before and after unlearning",
        "not tested",
        "one model was audited; a comparison takes two runs",
        (),
    )


def _atlas(facts: _Facts) -> Iterator[Row]:
    row = partial(Row, ATLAS)
    yield row(
        "AML.T0057",
        "leakage of data by a language model",
        facts.extraction,
        f"{facts.ran}, {facts.controls}",
        ("/attacks", "/controls"),
    )
    yield row(
        "AML.T0024",
        "exfiltration through the inference interface",
        facts.partly,
        f"{facts.ran}, with access to the weights; not through an interface with limits",
        ("/attacks",),
    )
    yield row(
        "AML.T0024.000",
        "inference of membership in the training data",
        "not tested",
        "membership is not decided",
        (),
    )
    yield row("AML.T0024.001", "model inversion", "not tested", "not attempted", ())
