"""Whole tables as literals: what is compared is what a reader sees."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from made_result import CONTROL_HITS, HITS, make_result, make_windows
from rich.text import Text
from stored import read_back

from memaudit.config.settings import LADDER, GateSettings
from memaudit.data.samples import Skipped
from memaudit.report.result import ScanResult
from memaudit.report.terminal import render_report

HOSTILE = ("=cmd()", "\x1b[31mred\x1b[0m", "[red]x[/red]", "two\nlines", ":smile: \u202eexe")
VERSE = "It was the best of times, it was the worst of times, it was the age of wisdom"

WHOLE = r"""Given the text before it and no added prompt, the model repeats a passage of 12
of the 200 samples (records of the data) word for word: 6.0 % (3.0–10.2 % at
95 % confidence).
Added prompts bring out 19 more: all attacks together extract 31 of 200 (15.5 %;
10.5–21.3 %). dynamic alone brings out 19 that the prefix alone does not, and
misses 0 that it does (p = 0.0005).
In 1 of 2 folds no trained prompt of constant was better, and the fit chose
none.
In 1 of 2 folds no trained prompt of dynamic was better, and the fit chose none.
Sensitive content was not searched for (sensitive.enabled = false).
Of the 100 controls, text that the model has not seen, the same attacks extract
0 (at most 3.6 %), a significantly smaller share (difference +9.6 to +21.3
points, p = 3.8e-06).
copy, which never queries the model, gets 3 of 200 from the fit data: that many
can be copied from a near-duplicate that is left in another fold.
Tested: 50.0 % of the tokens of 200 samples; 2 records not tested.

Gates
gate           verdict  why
────────────────────────────────────────────────────────────────────────────────
max-exact 1 %  FAIL     dynamic extracted 31 of 200 samples (15.5 %), more than
                        the 1 % allowed.

Checks
check     state  why
────────────────────────────────────────────────────────────────────────────────
controls  ok     dynamic-hard extracted 10 of 200 samples (5 %) and 0 of 100
                 controls (0 %).

Attacks, weakest first
attack        extracted    rate  95 % interval  fractional  lift  controls
──────────────────────────────────────────────────────────────────────────
prefix only      12/200   6.0 %     3.0–10.2 %      44.3 %           0/100
copy              3/200   1.5 %  at most 4.3 %      40.5 %  -4.5     0/100
dynamic-hard     10/200   5.0 %      2.4–9.0 %      43.6 %  -1.0     0/100
constant         15/200   7.5 %     4.0–12.1 %      45.5 %  +1.5     0/100
dynamic          31/200  15.5 %    10.5–21.3 %      49.9 %  +9.5     0/100
any              31/200  15.5 %    10.5–21.3 %                       0/100
extracted: samples of which a window comes out whole. 95 % interval: the outer
ends of the exact (Clopper–Pearson) and clustered (bootstrap) intervals.
fractional: mean share of suffix tokens extracted in place. lift: rate above
that of prefix only, in percentage points.
any: by at least one attack on the model.
copy never queries the model: it repeats what followed a similar prefix in the
fit data.

Worst windows, of 31 extracted
sample              line  window  extracted by  matched of 50   NLL
───────────────────────────────────────────────────────────────────
=cmd()                 1       0  all                      50  0.01
\x1b[31mred\x1b[0m     2       0  all                      50  0.01
[red]x[/red]           3       0  all                      50  0.01
two\nlines             4       0  all but copy             50  0.01
:smile: \u202eexe      5       0  all but copy             50  0.01
doc-0006               6       0  all but copy             50  0.01
doc-0007               7       0  all but copy             50  0.02
doc-0008               8       0  all but copy             50  0.02
doc-0009               9       0  all but copy             50  0.02
doc-0010              10       0  all but copy             50  0.02
matched of 50: most tokens before a mismatch. NLL: lowest, nats/token.
The worst 10 windows of 200. windows.csv holds all rows.

Notes     Folds are \x1b[31mred\x1b[0m.
Limits    The rates are lower bounds: other attacks may extract what these did
          not. The attacker has white-box access and knows the prefix of every
          window and similar text. This is not a finding of anonymity or of
          compliance with any law or policy.
Data      members.jsonl: 202 rows, 200 windows of 50+50 tokens from 200 samples
          in 200 clusters; hmac-sha256 abababababababab (key 1131f7e7)
          skipped 2: 12–88 tokens, the window needs 100
Controls  clean.jsonl: 100 rows, 100 windows of 50+50 tokens from 100 samples in
          100 clusters; hmac-sha256 abababababababab (key 1131f7e7)
Folds     0: fit 90, select 10, audit 100; 1: fit 90, select 10, audit 100
          windows, split by clusters
Fitted    constant: fold 0 epoch 2; fold 1 no prompt; passes in float32
Fitted    dynamic: fold 0 epoch 2; fold 1 no prompt; passes in float32
Target    tb7m: GPTNeoXForCausalLM, 7,213,056 parameters
          device cpu (auto: neither CUDA nor MPS is available)
          dtype float32 (auto: the checkpoint is not in half precision)
          bos no (auto: the tokenizer adds none)
          batch of 64 windows (fits 8 GB)
Run       memaudit 0.1.0, 2026-11-22T11:00:00+00:00, 2 s, seed 0

31 of 200 samples extracted (12 by the prefix alone; 0 of 100 controls)
This run fails max-exact 1 %: dynamic extracted 31 of 200 samples (15.5 %), more
than the 1 % allowed.
"""

NOTHING = r"""Given the text before it and no added prompt, the model repeats no passage of
the 1,305 samples (records of the data) word for word: at most 0.28 % at 95 %
confidence.
No added prompt brings out another sample: all attacks together extract 0 of
1,305 (0 %; at most 0.28 %).
In 1 of 2 folds no trained prompt of dynamic was better, and the fit chose none.
Sensitive content was not searched for (sensitive.enabled = false).
No controls were given, so predictable text counts too; against the suffixes of
unrelated windows, the prefix alone matches 0 of 1,305 exactly and 1.1 % of the
tokens.
Tested: 50.0 % of the tokens of 1,305 samples.

Attacks, weakest first
attack       extracted  rate   95 % interval  fractional  lift  gained  lost  p
───────────────────────────────────────────────────────────────────────────────
prefix only     0/1305   0 %  at most 0.28 %      38.7 %
copy            0/1305   0 %  at most 0.28 %      38.7 %     0       0     0  1
dynamic         0/1305   0 %  at most 0.28 %      38.7 %     0       0     0  1
any             0/1305   0 %  at most 0.28 %
extracted: samples of which a window comes out whole. 95 % interval: the outer
ends of the exact (Clopper–Pearson) and clustered (bootstrap) intervals.
fractional: mean share of suffix tokens extracted in place. lift: rate above
that of prefix only, in percentage points. gained: samples extracted, but not by
the prefix alone. lost: samples that the prefix alone extracts and this attack
does not. p: the larger p-value of two paired tests of the lift.
any: by at least one attack on the model.
copy never queries the model: it repeats what followed a similar prefix in the
fit data.
Not run: dynamic-hard, constant.

Closest to being extracted
sample    line  window  extracted by  matched of 50   NLL
─────────────────────────────────────────────────────────
doc-0040    40       0  -                        39  2.00
doc-0080    80       0  -                        39  2.10
doc-0120   120       0  -                        39  2.10
doc-0160   160       0  -                        39  2.20
doc-0200   200       0  -                        39  2.20
doc-0240   240       0  -                        39  2.20
doc-0280   280       0  -                        39  2.30
doc-0320   320       0  -                        39  2.30
doc-0360   360       0  -                        39  2.40
doc-0400   400       0  -                        39  2.40
matched of 50: most tokens before a mismatch. NLL: lowest, nats/token.
The worst 10 windows of 1,305. windows.csv holds all rows.

Limits  The rates are lower bounds: other attacks may extract what these did
        not. The attacker has white-box access and knows the prefix of every
        window and similar text. This is not a finding of anonymity or of
        compliance with any law or policy.
Data    members.jsonl: 1,305 rows, 1,305 windows of 50+50 tokens from 1,305
        samples in 1,305 clusters; hmac-sha256 abababababababab (key 1131f7e7)
Folds   0: fit 90, select 10, audit 100; 1: fit 90, select 10, audit 100
        windows, split by clusters
Fitted  dynamic: fold 0 epoch 2; fold 1 no prompt; passes in float32
Target  tb7m: GPTNeoXForCausalLM, 7,213,056 parameters
        device cpu (auto: neither CUDA nor MPS is available)
        dtype float32 (auto: the checkpoint is not in half precision)
        bos no (auto: the tokenizer adds none)
        batch of 64 windows (fits 8 GB)
Run     memaudit 0.1.0, 2026-11-22T11:00:00+00:00, 2 s, seed 0

0 of 1,305 samples extracted (0 by the prefix alone)
No limit was set (--max-exact …), so this run passes or fails nothing.
"""

REVEALED = r"""Given the text before it and no added prompt, the model repeats a passage of 1
of the 3 samples (records of the data) word for word: 33.3 % (0–100 % at 95 %
confidence).
Added prompts bring out 1 more: all attacks together extract 2 of 3 (66.7 %;
0–100 %). dynamic alone brings out 1 that the prefix alone does not, and misses
0 that it does (p = 1, which may be chance).
In 1 of 2 folds no trained prompt of dynamic was better, and the fit chose none.
Sensitive content was not searched for (sensitive.enabled = false).
No controls were given, so predictable text counts too; against the suffixes of
unrelated windows, dynamic matches 0 of 3 exactly and 1.1 % of the tokens.
Tested: 50.0 % of the tokens of 3 samples.

Attacks, weakest first
                                    95 %
attack       extracted    rate  interval  fractional   lift  gained  lost  p
────────────────────────────────────────────────────────────────────────────
prefix only        1/3  33.3 %   0–100 %      35.3 %
dynamic            2/3  66.7 %   0–100 %      68.0 %  +33.3       1     0  1
any                2/3  66.7 %   0–100 %
extracted: samples of which a window comes out whole. 95 % interval: the outer
ends of the exact (Clopper–Pearson) and clustered (bootstrap) intervals.
fractional: mean share of suffix tokens extracted in place. lift: rate above
that of prefix only, in percentage points. gained: samples extracted, but not by
the prefix alone. lost: samples that the prefix alone extracts and this attack
does not. p: the larger p-value of two paired tests of the lift.
any: by at least one attack on the model.
Not run: copy, dynamic-hard, constant.

Worst windows, of 2 extracted
sample    line  window  extracted by  matched of 50   NLL
─────────────────────────────────────────────────────────
doc-0001     1       0  all                      50  0.01
doc-0002     2       0  dynamic                  50  0.01
doc-0003     3       0  -                         2  2.00
matched of 50: most tokens before a mismatch. NLL: lowest, nats/token.
The worst 3 windows of 3. windows.csv holds all rows.

Text of the worst windows

doc-0001, line 1, window 0: extracted by all
prefix       x = 1  # [bold]\n\x1b[2J
suffix       x = 1  # [bold]\n\x1b[2J
prefix only  x = 1  # [bold]\n\x1b[2J
dynamic      x = 1  # [bold]\n\x1b[2J

doc-0002, line 2, window 0: extracted by dynamic
prefix       It was the best of times, it was the worst of times, it was the age
             of wisdom
suffix       It was the best of times, it was the worst of times, it was the age
             of wisdom
prefix only  It was the best of times, it was the worst of times, it was the age
             of wisdom
dynamic      It was the best of times, it was the worst of times, it was the age
             of wisdom

doc-0003, line 3, window 0: extracted by -
prefix       x = 1  # [bold]\n\x1b[2J
suffix       x = 1  # [bold]\n\x1b[2J
prefix only  x = 1  # [bold]\n\x1b[2J
dynamic      x = 1  # [bold]\n\x1b[2J

Limits  The rates are lower bounds: other attacks may extract what these did
        not. The attacker has white-box access and knows the prefix of every
        window and similar text. This is not a finding of anonymity or of
        compliance with any law or policy.
Data    members.jsonl: 3 rows, 3 windows of 50+50 tokens from 3 samples in 3
        clusters; hmac-sha256 abababababababab (key 1131f7e7)
Folds   0: fit 90, select 10, audit 100; 1: fit 90, select 10, audit 100
        windows, split by clusters
Fitted  dynamic: fold 0 epoch 2; fold 1 no prompt; passes in float32
Target  tb7m: GPTNeoXForCausalLM, 7,213,056 parameters
        device cpu (auto: neither CUDA nor MPS is available)
        dtype float32 (auto: the checkpoint is not in half precision)
        bos no (auto: the tokenizer adds none)
        batch of 64 windows (fits 8 GB)
Run     memaudit 0.1.0, 2026-11-22T11:00:00+00:00, 2 s, seed 0

2 of 3 samples extracted (1 by the prefix alone)
No limit was set (--max-exact …), so this run passes or fails nothing.
"""


def whole() -> ScanResult:
    skipped = [Skipped(str(n), n, f"{n} tokens, the window needs 100") for n in (12, 88)]
    return make_result(
        data=make_windows(200, ids=HOSTILE, skipped=skipped),
        hits={**HITS, "copy": 3},
        gate=GateSettings(max_exact=0.01),
        notes=("Folds are \x1b[31mred\x1b[0m.",),
    )


def plain(result: ScanResult, width: int = 80) -> str:
    return render_report(*read_back(result), width=width, color=False)


def test_a_whole_report():
    assert plain(whole()) == WHOLE


def test_nothing_extracted_and_no_controls():
    hits = {"none": 0, "copy": 0, "dynamic": 0}
    assert plain(make_result(n=1305, hits=hits, controls=None)) == NOTHING


def test_text_where_revealed():
    reveal = ["x = 1  # [bold]\n\x1b[2J", VERSE]
    result = make_result(n=3, hits={"none": 1, "dynamic": 2}, controls=None, reveal=reveal)
    assert plain(result) == REVEALED


def test_no_text_unless_revealed():
    result = make_result(reveal=["secret"])
    assert "secret" in plain(result)
    hidden = make_result()
    assert not hidden.revealed
    assert "prefix " not in plain(hidden).split("Worst windows")[1].split("Limits")[0]


@pytest.mark.parametrize("n", [200, 20_000])
def test_no_line_is_wider_than_asked(n):
    result = make_result(n=n, hits=dict.fromkeys(LADDER, n), controls={"none": 100})
    for width in (20, 78, 80, 100, 200):
        lines = plain(result, width).splitlines()
        assert max(map(len, lines)) <= max(width, 78)
        assert all(line == line.rstrip() for line in lines)
        ladder = [line for line in lines if line.startswith("dynamic-hard ")]
        assert any(f"{n}/{n}" in line and "0/100" in line for line in ladder)


def test_counts_in_the_millions_stay_readable():
    result = make_result(n=100, hits=dict.fromkeys(LADDER, 50))
    attacks = [
        replace(a, summary=replace(a.summary, exact=replace(a.summary.exact, k=k, n=1_345_678)))
        for a, k in zip(result.attacks, range(1_234_567, 1_234_572), strict=True)
    ]
    document, samples = read_back(replace(result, attacks=tuple(attacks)))
    lines = render_report(document, samples, width=80, color=False).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("1234567/1345678" in line for line in lines)


def test_wide_tables_add_the_paired_test():
    wide, narrow = plain(make_result(), 200), plain(make_result(), 80)
    head = next(line for line in wide.splitlines() if line.startswith("attack "))
    assert head.split()[-9:-2] == ["gained", "lost", "p", "controls", "above", "controls", "p"]
    assert "gained" not in next(x for x in narrow.splitlines() if x.startswith("attack "))
    assert max(len(line) for line in wide.splitlines() if line.count(". ")) < 110  # readable


@pytest.mark.parametrize("width", [80, 200])
def test_colour_changes_no_word(width):
    colored = render_report(*read_back(whole()), width=width, color=True)
    assert "\x1b[" in colored
    stripped = "\n".join(line.rstrip() for line in Text.from_ansi(colored).plain.splitlines())
    assert stripped == plain(whole(), width).rstrip("\n")


@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"])
def test_the_environment_changes_nothing(variable, monkeypatch):
    expected = plain(make_result()), render_report(*read_back(make_result()), width=80, color=True)
    monkeypatch.setenv(variable, "1")
    assert (
        plain(make_result()),
        render_report(*read_back(make_result()), width=80, color=True),
    ) == expected


def test_hostile_ids_reach_no_terminal():
    shown = plain(whole())
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    for harmless in (r"\x1b[31mred\x1b[0m", "[red]x[/red]", r"two\nlines", r":smile: \u202eexe"):
        assert harmless in shown


def test_a_very_long_id_is_cut():
    result = make_result(data=make_windows(20, ids=["x" * 10_000]))
    assert plain(result).count("x" * 10) < 30
    assert "…" in plain(result)


def test_attacks_left_out_are_named():
    assert "Not run: copy, dynamic-hard, constant, dynamic." in plain(make_result(hits={"none": 1}))
    assert "Worst windows" not in plain(make_result(hits={"copy": 1}, controls=None))


@pytest.mark.parametrize(("controls", "word"), [(CONTROL_HITS, "ok"), ({"dynamic": 90}, "not ok")])
def test_without_a_limit_nothing_passes_and_checks_stand_apart(controls, word):
    text = plain(make_result(controls=controls))
    assert re.search(rf"\nChecks\ncheck .*\n─+\ncontrols +{word}  ", text)
    assert "PASS" not in text
    assert ("No limit was set" in text) == (word == "ok")


def test_the_room_needs_no_torch():
    code = (
        "import sys; from memaudit.report import build, schema, tables, terminal"
        "; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
