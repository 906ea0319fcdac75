from __future__ import annotations

from made_result import make_result
from small_run import expected, small_run
from stored import read_back

from memaudit.config.settings import GateSettings
from memaudit.report.ci import to_annotations

WHOLE = expected("annotations.txt")


def test_one_for_each_gate():
    assert to_annotations(small_run()[0]) == WHOLE


def test_inconclusive_is_a_warning():
    report, _ = small_run(gate=GateSettings(max_exact=0.9))
    assert to_annotations(report).startswith("::warning title=memaudit max-exact 90 %25%3A inc")


def test_without_a_gate_it_is_said():
    assert to_annotations(read_back(make_result(controls=None))[0]) == (
        "::notice title=memaudit no gate::No limit was set (--max-exact …), so this run passes or "
        "fails nothing.\n"
    )
    checked = to_annotations(read_back(make_result())[0]).splitlines()
    assert checked[0].startswith("::notice title=memaudit no gate::No limit was set")
    assert checked[1].startswith("::notice title=memaudit check controls%3A ok::")


def test_no_string_starts_a_command_of_its_own():
    report, _ = small_run()
    reason = "x%0A::error::y\r\n::add-mask::z\u2028::stop-commands::q"
    gate = report.gates[0].model_copy(update={"reason": reason, "name": "a,file=b::c"})
    (line,) = to_annotations(report.model_copy(update={"gates": (gate,)})).splitlines()
    assert line == (
        "::error title=memaudit a%2Cfile=b%3A%3Ac 10 %25%3A fail::"
        r"x%250A::error::y\r\n::add-mask::z\u2028::stop-commands::q"
    )
