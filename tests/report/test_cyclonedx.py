"""The bill of materials: valid as published, whole as a literal, the same for the same report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from made_result import make_result, make_windows

from memaudit.config.settings import LADDER, GateSettings
from memaudit.report.build import to_report
from memaudit.report.cyclonedx import to_cyclonedx
from memaudit.report.model import Report
from memaudit.report.result import ScanResult
from memaudit.sensitive.counting import Items, SensitiveContent

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def small() -> ScanResult:
    counts = np.array([[1], [0], [1], [0]], dtype=np.uint16)
    found = SensitiveContent({"email": "form"}, {}, Items(counts, counts), None)
    made = make_result(n=4, hits={"none": 1}, controls=None, gate=GateSettings(max_exact=0.5))
    return replace(made, sensitive=found)


RESULTS = {
    "whole": lambda: make_result(gate=GateSettings(max_exact=0.01)),
    "small": small,
    "only copy": lambda: make_result(hits={"copy": 2}, controls=None),
    "nothing": lambda: make_result(hits=dict.fromkeys(LADDER, 0)),
    "hostile": lambda: make_result(data=make_windows(5, ids=["=cmd()", "\x1b[31m"])),
    "hub": lambda: replace(make_result(), target=replace(make_result().target, revision="0" * 40)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_bill_is_valid(name: str) -> None:
    text = to_cyclonedx(to_report(RESULTS[name]()))
    assert VALIDATOR.validate_str(text) is None
    assert text.isascii()
    assert "\x1b" not in text


def test_the_validator_refuses_what_is_not_in_the_schema() -> None:
    bom = json.loads(to_cyclonedx(to_report(small())))
    bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0] = {
        "type": "exact",
        "value": 0.5,
    }
    assert VALIDATOR.validate_str(json.dumps(bom)) is not None


def test_a_whole_bill() -> None:
    bom = json.loads(to_cyclonedx(to_report(small())))
    assert bom.pop("serialNumber").startswith("urn:uuid:")
    hashes = {
        one["name"]: one.pop("value")
        for one in bom["metadata"]["properties"]
        if "sha256" in one["name"]
    }
    assert hashes["memaudit:sha256:results"] == to_report(small()).hashes.results
    assert bom == BILL


def test_the_same_report_gives_the_same_bill_and_another_one_another() -> None:
    report = to_report(small())
    assert to_cyclonedx(report) == to_cyclonedx(Report.model_validate_json(report.text()))
    other = to_cyclonedx(to_report(make_result()))
    assert json.loads(other)["serialNumber"] != json.loads(to_cyclonedx(report))["serialNumber"]


def _metric(kind: str, value: str, part: str, low: str, high: str) -> dict[str, Any]:
    interval = {"lowerBound": low, "upperBound": high}
    return {"type": kind, "value": value, "slice": part, "confidenceInterval": interval}


def _file(name: str, digest: str) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": digest * 32}]
    return {"type": "file", "name": name, "hashes": hashes}


BILL = {
    "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {
        "timestamp": "2026-11-22T11:00:02+00:00",
        "tools": {"components": [{"type": "application", "name": "memaudit", "version": "0.1.0"}]},
        "component": {
            "type": "machine-learning-model",
            "bom-ref": "model",
            "name": "tb7m",
            "components": [_file("model.safetensors", "cd"), _file("tokenizer.json", "ef")],
            "modelCard": {
                "modelParameters": {"modelArchitecture": "GPTNeoXForCausalLM"},
                "quantitativeAnalysis": {
                    "performanceMetrics": [
                        _metric(
                            "extraction rate",
                            "0.25",
                            "data, attack none, 4 samples",
                            "0",
                            "0.80588",
                        ),
                        _metric(
                            "fractional extraction rate",
                            "0.28",
                            "data, attack none",
                            "0.03",
                            "0.76",
                        ),
                        {
                            "type": "extraction rate",
                            "value": "0.5",
                            "slice": "data, samples that hold e-mail addresses (2), any attack",
                        },
                    ]
                },
                "considerations": {
                    "technicalLimitations": [
                        "The rates are lower bounds: other attacks may extract what these did not.",
                        "The attacker has white-box access and knows the prefix of every window "
                        "and "
                        "similar text.",
                        "This is not a finding of anonymity or of compliance with any law or "
                        "policy.",
                    ]
                },
            },
        },
        "properties": [
            {"name": "memaudit:parameters", "value": "7213056"},
            {"name": "memaudit:training_tokens", "value": "unknown"},
            {"name": "memaudit:remote_code_allowed", "value": "false"},
            {"name": "memaudit:pickle_allowed", "value": "false"},
            {
                "name": "memaudit:attacks_not_run",
                "value": "copy, dynamic-hard, constant, dynamic",
            },
            {"name": "memaudit:exit_code", "value": "4"},
            {"name": "memaudit:gate:max-exact", "value": "inconclusive"},
            {"name": "memaudit:sha256:config"},
            {"name": "memaudit:sha256:policy"},
            {"name": "memaudit:sha256:results"},
        ],
    },
    "components": [
        {
            "type": "data",
            "bom-ref": "data",
            "name": "members.jsonl",
            "data": [{"type": "dataset", "name": "data"}],
            "properties": [
                {"name": "memaudit:hmac_sha256", "value": "ab" * 32},
                {"name": "memaudit:key_id", "value": "1131f7e7"},
            ],
        }
    ],
}
