"""Whole files compared, and against the schema of those who read them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xmlschema
from made_result import make_result
from small_run import expected, small_run
from stored import edited, read_back

from memaudit.config.settings import GateSettings
from memaudit.report.ci import to_junit
from memaudit.report.model import Report

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parent / "schemas" / "junit-10.xsd"))

WHOLE = expected("results.xml")


def cases(report: Report) -> list[tuple[str, list[str]]]:
    text = to_junit(report)
    SCHEMA.validate(text)
    suite = ET.fromstring(text)[0]
    found = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(found)
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[name]) == len(suite.findall(f"testcase/{tag}"))
    return [(case.attrib["name"], [child.tag for child in case]) for case in found]


def test_a_whole_file():
    report, _ = small_run()
    assert to_junit(report) == WHOLE
    SCHEMA.validate(WHOLE)


def test_the_schema_bites():
    assert not SCHEMA.is_valid(WHOLE.replace("<testcase", "<test").replace("</testcase", "</test"))


def test_inconclusive_is_no_pass():
    report, _ = small_run(gate=GateSettings(max_exact=0.9))
    assert cases(report) == [("max-exact", ["error"])]


def test_without_a_gate_nothing_looks_tested():
    report, _ = read_back(make_result(controls=None))
    assert cases(report) == [("no gate", ["skipped"])]
    checked, _ = read_back(make_result())  # controls that are ok are no test that passed
    assert cases(checked) == [("no gate", ["skipped"])]
    assert '<property name="check.controls" value="ok" />' in to_junit(checked)
    doubtful, _ = read_back(make_result(controls={"dynamic": 90}))
    assert cases(doubtful) == [("controls", ["error"]), ("no gate", ["skipped"])]


@pytest.mark.parametrize("hostile", ["\x00", "]]>", "\ufffe", '"<&\r\n', "\ud800", "\x1b[31m"])
def test_whatever_a_report_holds_the_file_is_well_formed(hostile):
    def change(document):
        document["gates"][0]["reason"] = document["target"]["name"] = hostile
        document["run"]["started"] = hostile

    report = edited(small_run()[0], change)
    assert cases(report)[0] == ("max-exact", ["failure"])
