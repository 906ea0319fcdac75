"""Gates and checks for CI systems: GitHub's annotations, and JUnit XML.

Knows workflow commands and their escapes, and the form of JUnit XML that Jenkins and GitLab read.
A step shows ten annotations of a kind, so each gate gets one and windows get none. A check of the
run that is ok is no test that passed: it is a property in JUnit XML, where a
gate that fails is a failure; an inconclusive one is an error, not a skipped case, which CI systems
show as green: inconclusive is not a pass. `neutral` leaves nothing that XML cannot hold.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memaudit.report.model import Report
from memaudit.report.reading import (
    NO_LIMIT,
    check_state,
    checks_of,
    gate_id,
    gate_name,
    limits_of,
)
from memaudit.report.wording import neutral

_COMMANDS = {"pass": "notice", "inconclusive": "warning", "fail": "error"}
_TAGS = {"fail": "failure", "inconclusive": "error"}


def to_annotations(report: Report) -> str:
    """Return a line for each gate, or one that says no limit was set, then one for each check."""
    lines = [
        _command(_COMMANDS[gate.verdict], f"{gate_name(gate)}: {gate.verdict}", gate.reason)
        for gate in limits_of(report)
    ]
    lines = lines or [_command("notice", "no gate", NO_LIMIT)]
    for check in checks_of(report):
        title = f"check {check.name}: {check_state(check)}"
        lines.append(_command(_COMMANDS[check.verdict], title, check.reason))
    return "".join(f"{line}\n" for line in lines)


def _command(command: str, title: str, message: str) -> str:
    escaped = _escape(f"memaudit {title}").replace(":", "%3A").replace(",", "%2C")
    return f"::{command} title={escaped}::{_escape(message)}"


def _escape(text: str) -> str:
    """Escape text so that it cannot end the command; ``neutral`` removes line ends."""
    return neutral(text).replace("%", "%25")


class Case(NamedTuple):
    """One case of a suite."""

    name: str
    verdict: str
    """``pass``, ``fail``, ``inconclusive`` or ``skipped``."""
    reason: str


def to_junit(report: Report) -> str:
    """Return one suite of the gates, and of the checks that are not ok.

    Without a limit there is a case that is skipped, so that nothing looks tested.
    """
    limits = limits_of(report)
    gates = [*limits, *(check for check in checks_of(report) if check.verdict != "pass")]
    cases = [Case(gate_id(gate), gate.verdict, gate.reason) for gate in gates]
    if not limits:
        cases.append(Case("no gate", "skipped", NO_LIMIT))
    return junit_suite("memaudit", cases, _properties(report), report.run.started)


def junit_suite(
    name: str, cases: Sequence[Case], properties: Mapping[str, str], started: str
) -> str:
    """Return a document with one suite of these cases."""
    verdicts = [case.verdict for case in cases]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(verdicts.count("fail")),
        errors=str(verdicts.count("inconclusive")),
        skipped=str(verdicts.count("skipped")),
        timestamp=neutral(started),
    )
    listed = ET.SubElement(suite, "properties")
    for key, value in properties.items():
        ET.SubElement(listed, "property", name=key, value=neutral(value))
    for case in cases:
        _judge(ET.SubElement(suite, "testcase", classname=name, name=neutral(case.name)), case)
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _judge(element: ET.Element, case: Case) -> None:
    """Add a case's outcome, with the reason where Jenkins and where GitLab look for it."""
    reason = neutral(case.reason)
    if case.verdict in _TAGS:
        tag = _TAGS[case.verdict]
        ET.SubElement(element, tag, type=case.verdict, message=reason).text = reason
    elif case.verdict == "skipped":
        ET.SubElement(element, "skipped", message=reason)
    else:
        ET.SubElement(element, "system-out").text = reason


def _properties(report: Report) -> dict[str, str]:
    target, data = report.target, report.data
    checks = {f"check.{check.name}": check_state(check) for check in checks_of(report)}
    return {
        **checks,
        "memaudit": report.tool.version,
        "model": target.name,
        "data": data.path,
        "data.hmac_sha256": data.hmac_sha256,
        "data.key_id": data.key_id,
        "finding": " ".join(report.headline),
    }
