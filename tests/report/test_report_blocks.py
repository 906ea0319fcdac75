"""One table in the terminal and in Markdown, as whole literals."""

from __future__ import annotations

from small_run import small_run

from memaudit.report.blocks import Facts, Head, Table, Text
from memaudit.report.markdown import table_lines
from memaudit.report.page import to_html
from memaudit.report.terminal import render_blocks
from memaudit.score.estimate import Estimate

TABLE = Table(
    "shares",
    "Shares | by \x1b[1mkind",
    "There are few windows.\nNot searched: names.",
    [
        Head("kind", style="id"),
        Head("windows", "count", "all that were scored"),
        Head("share of the windows", "share", "with its interval"),
        Head("rise of the NLL", "nats", "in nats/token", 1),
        Head("rise under noise", "nats", "the same under noise", 2),
        Head("why", style="prose"),
    ],
    [
        ["a|b", 12_345, Estimate(0.25, 0.1, 0.5), 1.5, Estimate(0.25, 0, 1), "It holds <b>."],
        ["c", None, Estimate(0.5, 0.125, 0.75), -0.5, None, ""],
    ],
    strong=1,
)

WIDE = """\
Shares | by \\x1b[1mkind
kind  windows   share of the windows  rise of the NLL        rise under noise  why
────────────────────────────────────────────────────────────────────────────────────────────
a|b    12,345  25.0 % (10.0 to 50.0)            1.500  0.250 (0.000 to 1.000)  It holds <b>.
c         n/a  50.0 % (12.5 to 75.0)           -0.500                     n/a
windows: all that were scored. share of the windows: with its interval. rise of the NLL: in
nats/token. rise under noise: the same under noise.
There are few windows.
Not searched: names.
"""

NARROW = """\
Shares | by \\x1b[1mkind
kind  windows   share of the windows  rise of the NLL  why
────────────────────────────────────────────────────────────────────
a|b    12,345  25.0 % (10.0 to 50.0)            1.500  It holds <b>.
c         n/a  50.0 % (12.5 to 75.0)           -0.500
windows: all that were scored. share of the windows: with its interval.
rise of the NLL: in nats/token.
There are few windows.
Not searched: names.
"""

MARKDOWN = """\
### Shares \\| by \\\\x1b\\[1mkind

| kind | windows | share of the windows | rise of the NLL | rise under noise | why |
| --- | --: | --: | --: | --: | --- |
| <code>a\\|b</code> | 12,345 | 25.0 % (10.0 to 50.0) | 1.500 | 0.250 (0.000 to 1.000) \
| It holds &lt;b&gt;. |
| **<code>c</code>** | **n/a** | **50.0 % (12.5 to 75.0)** | **-0.500** | **n/a** |  |

<sub>windows: all that were scored. share of the windows: with its interval. rise of the NLL: in \
nats/token. rise under noise: the same under noise. There are few windows. \
Not searched: names.</sub>
"""

OTHERS = """\
First.
Second.

- one
- two

Facts
label  value
       more
"""


def test_a_wide_terminal_shows_every_column() -> None:
    assert render_blocks([TABLE], width=120, color=False) == WIDE


def test_a_narrow_terminal_leaves_out_columns_and_their_legend() -> None:
    assert render_blocks([TABLE], width=72, color=False) == NARROW


def test_markdown_shows_every_column() -> None:
    assert "\n".join(table_lines(TABLE)) + "\n" == MARKDOWN


def test_text_and_facts() -> None:
    facts = Facts("Facts", [("label", "value"), ("", "more")])
    blocks: list[Text | Facts] = [
        Text(["First.", "Second."], "lead"),
        Text(["one", "two"], "items"),
        facts,
    ]
    assert render_blocks(blocks, width=72, color=False) == OTHERS


PAGE = """\
<div class="wide" tabindex="0" role="region" aria-label="Gates, figures"><table>
<thead><tr><th scope="col">gate</th><th scope="col">verdict</th>\
<th scope="col">why</th></tr></thead>
<tbody>
<tr><th scope="row">max-exact 10 %</th><td><span class="word fail">fail</span></td>\
<td class="prose">dynamic extracted 2 of 4 samples (50 %), \
more than the 10 % allowed.</td></tr>
</tbody></table></div>
"""


def test_the_page_shows_a_table_with_its_row_heads_and_kinds() -> None:
    assert PAGE in to_html(*small_run())


def test_names_too_wide_for_the_terminal_are_broken() -> None:
    heads = [Head(f"name {n}") for n in range(9)]
    table = Table("names", "Names", "", heads, [["x" * 50] * 9])
    lines = render_blocks([table], width=72, color=False).splitlines()
    assert max(map(len, lines)) <= 72
    assert "".join(lines).count("x") == 450
