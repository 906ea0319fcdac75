"""JUnit XML: a test case for each gate, for CI systems that show test results.

Knows the form that Jenkins and GitLab read. A gate that fails is a failure. An inconclusive gate
is an error, not a skipped case, which CI systems show as green: inconclusive is not a pass.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from memaudit.report.reading import verdict
from memaudit.report.report_json import Document
from memaudit.report.wording import neutral

_TAGS = {"fail": "failure", "inconclusive": "error"}


def to_junit(document: Document) -> str:
    """Return one suite. Without gates its only case is skipped, so that nothing looks tested."""
    gates = document["gates"]
    verdicts = [gate["verdict"] for gate in gates]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name="memaudit",
        tests=str(len(gates) or 1),
        failures=str(verdicts.count("fail")),
        errors=str(verdicts.count("inconclusive")),
        skipped="0" if gates else "1",
        timestamp=_text(document["run"]["started"]),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(document).items():
        ET.SubElement(properties, "property", name=name, value=_text(value))
    for gate in gates:
        case = ET.SubElement(suite, "testcase", classname="memaudit", name=_text(gate["name"]))
        _judge(case, gate)
    if not gates:
        case = ET.SubElement(suite, "testcase", classname="memaudit", name="no gate")
        ET.SubElement(case, "skipped", message=verdict(document)[1])
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _judge(case: ET.Element, gate: Document) -> None:
    """Add a gate's outcome, with the reason where Jenkins and where GitLab look for it."""
    reason = _text(gate["reason"])
    if gate["verdict"] in _TAGS:
        tag = _TAGS[gate["verdict"]]
        ET.SubElement(case, tag, type=gate["verdict"], message=reason).text = reason
    else:
        ET.SubElement(case, "system-out").text = reason


def _properties(document: Document) -> dict[str, str]:
    target, data = document["target"], document["data"]
    return {
        "memaudit": document["tool"]["version"],
        "model": target["name"],
        "data": data["path"],
        "data.hmac_sha256": data["hmac_sha256"],
        "data.key_id": data["key_id"],
        "finding": " ".join(document["headline"]),
    }


def _text(text: str) -> str:
    """Return text that XML can hold: ``neutral`` removes control characters and lone surrogates."""
    return neutral(text)
