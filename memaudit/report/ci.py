"""Gates and checks for CI systems: GitHub's annotations, and JUnit XML.

Knows workflow commands and their escapes, and the form of JUnit XML that Jenkins and GitLab read.
A step shows ten annotations of a kind, so each gate gets one and windows get none. A check of the
run that is ok is no test that passed: it is a property in JUnit XML, where a
gate that fails is a failure; an inconclusive one is an error, not a skipped case, which CI systems
show as green: inconclusive is not a pass. `neutral` leaves nothing that XML cannot hold.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from memaudit.report.model import Gate, Report
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


def to_junit(report: Report) -> str:
    """Return one suite of the gates, and of the checks that are not ok.

    Without a limit there is a case that is skipped, so that nothing looks tested.
    """
    limits = limits_of(report)
    gates = [*limits, *(check for check in checks_of(report) if check.verdict != "pass")]
    verdicts = [gate.verdict for gate in gates]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name="memaudit",
        tests=str(len(gates) + (not limits)),
        failures=str(verdicts.count("fail")),
        errors=str(verdicts.count("inconclusive")),
        skipped="0" if limits else "1",
        timestamp=neutral(report.run.started),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report).items():
        ET.SubElement(properties, "property", name=name, value=neutral(value))
    for gate in gates:
        case = ET.SubElement(suite, "testcase", classname="memaudit", name=neutral(gate_id(gate)))
        _judge(case, gate)
    if not limits:
        case = ET.SubElement(suite, "testcase", classname="memaudit", name="no gate")
        ET.SubElement(case, "skipped", message=NO_LIMIT)
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _judge(case: ET.Element, gate: Gate) -> None:
    """Add a gate's outcome, with the reason where Jenkins and where GitLab look for it."""
    reason = neutral(gate.reason)
    if gate.verdict in _TAGS:
        tag = _TAGS[gate.verdict]
        ET.SubElement(case, tag, type=gate.verdict, message=reason).text = reason
    else:
        ET.SubElement(case, "system-out").text = reason


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
