"""Rows of evidence: what was tested and what was not, never that anything complies."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from made_result import make_result

from memaudit.config.settings import GateSettings, TargetSettings
from memaudit.report.build import to_report
from memaudit.report.frameworks import NOTE
from memaudit.report.result import ScanResult
from memaudit.sensitive.counting import Items, SensitiveContent
from memaudit.target.checkpoint import Choice

WHOLE = """\
EDPB Opinion 28/2024 | attribute and membership inference | not tested
EDPB Opinion 28/2024 | exfiltration | partly
EDPB Opinion 28/2024 | regurgitation of training data | tested
EDPB Opinion 28/2024 | model inversion | not tested
EDPB Opinion 28/2024 | reconstruction | not tested
EDPB Opinion 28/2024 | amount of training data against number of parameters | tested
NIST AI 600-1 | red-teaming for output of training data samples | tested
NIST AI 600-1 | red-teaming for membership inference and model extraction | not tested
NIST AI 600-1 | red-teaming for the revealing of personal or confidential information | partly
NIST AI 600-1 | deduplication of the training data | partly
OWASP Top 10 for LLM applications | memorization in training | tested
OWASP Top 10 for LLM applications | disclosure measured as a release gate | tested
OWASP Top 10 for LLM applications | extractability from adapters | tested
OWASP Top 10 for LLM applications | probes before and after unlearning | not tested
MITRE ATLAS | leakage of data by a language model | tested
MITRE ATLAS | exfiltration through the inference interface | partly
MITRE ATLAS | inference of membership in the training data | not tested
MITRE ATLAS | model inversion | not tested
"""


def whole() -> ScanResult:
    """Everything that can be tested was."""
    result = make_result(
        gate=GateSettings(max_exact=0.01), target=TargetSettings(training_tokens=10**9)
    )
    adapter = Choice("safetensors, adapter", "kept apart")
    counts = np.zeros((200, 0), dtype=np.uint16)
    return replace(
        result,
        target=replace(result.target, choices={**result.target.choices, "format": adapter}),
        sensitive=SensitiveContent({}, {}, Items(counts, counts), None),
    )


def shown(result: ScanResult) -> str:
    rows = to_report(result).frameworks
    return "".join(f"{row.framework} | {row.asks} | {row.tested}\n" for row in rows)


def test_a_whole_run() -> None:
    assert shown(whole()) == WHOLE
    did = {row.asks: row.did for row in to_report(whole()).frameworks}
    assert did["regurgitation of training data"] == (
        "200 samples of the data were tried with known prefixes (prefix only, dynamic-hard, "
        "constant, dynamic), with controls"
    )
    assert did["disclosure measured as a release gate"] == "max-exact: fail"


def test_what_was_left_out_is_not_tested() -> None:
    left_out = make_result(hits={"copy": 3}, controls=None)
    rows = {row.asks: row for row in to_report(left_out).frameworks}
    changed = {
        "regurgitation of training data": "no attack on the model was run, without controls",
        "disclosure measured as a release gate": "no limit was set",
        "extractability from adapters": "the target is not an adapter",
        "red-teaming for the revealing of personal or confidential information": (
            "sensitive.enabled = false"
        ),
    }
    for asks, did in changed.items():
        assert (rows[asks].tested, rows[asks].did) == ("not tested", did)
    assert rows["amount of training data against number of parameters"].tested == "partly"


@pytest.mark.parametrize("result", [whole(), make_result(hits={"none": 0}, controls=None)])
def test_every_pointer_leads_somewhere(result: ScanResult) -> None:
    document = to_report(result).document()
    for row in document["frameworks"]:
        for pointer in row["evidence"]:
            place = document
            for part in pointer.split("/")[1:]:
                place = place[int(part)] if isinstance(place, list) else place[part]


def test_no_row_claims_compliance() -> None:
    document = to_report(whole()).document()
    assert document["frameworks_note"] == NOTE
    assert "not a finding of compliance" in NOTE
    words = " ".join(f"{row['did']} {row['asks']}" for row in document["frameworks"])
    assert not re.search(r"\bcompl(y|ies|iant|iance)\b|\banonym|\bsatisf|\bmeets\b", words)
    assert '"' not in words  # paraphrases, not quotations
