"""The date given to chat templates that ask for one.

Knows Jinja and ``strftime``. Must not know tokenizers or chats.
"""

from __future__ import annotations

import json
import re
import string
from datetime import date, datetime, time, timedelta

_FUNCTION = "strftime_now"
"""Function of transformers by which a template asks for the current time."""

# A macro of that name hides the function. It is not a variable, because transformers from 5.23 on
# turns variables that are not plain data into text. The last newline belongs to the tag, so that
# the template starts at the start of a line, as its own first tag may require.
_MACRO = """{%- macro strftime_now(format) -%}
{%- set known = KNOWN -%}
{%- if format in known -%}{{ known[format] }}{%- else -%}
{%- set parts = PARTS -%}
{%- set state = namespace(literal=true) -%}
{%- for piece in format.split('%') -%}
{%- if state.literal -%}{{ piece }}{%- set state.literal = false -%}
{%- elif piece == '' -%}{{ '%' }}{%- set state.literal = true -%}
{%- elif piece[:2] in parts -%}{{ parts[piece[:2]] }}{{ piece[2:] }}
{%- else -%}{{ parts.get(piece[:1], '%' ~ piece[:1]) }}{{ piece[1:] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro %}
"""

_LITERAL = re.compile(r"'[^'{}]*'|\"[^\"{}]*\"")


def may_ask(template: str) -> bool:
    """Return True if a chat template mentions the current time at all."""
    return _FUNCTION in template


def fix_date(template: str, day: date) -> str:
    """Return the chat template with ``strftime_now`` fixed at midnight of ``day``."""
    midnight = datetime.combine(day, time())
    parts = {
        flag + letter: midnight.strftime(f"%{flag}{letter}")
        for flag in ("", "-", "_", "0", "^", "#")  # %-d: the day without a leading zero
        for letter in string.ascii_letters
    }
    # Formats written out in the template are looked up whole, without the loop over their pieces.
    formats = sorted({literal[1:-1] for literal in _LITERAL.findall(template) if "%" in literal})
    known = {format_: midnight.strftime(format_) for format_ in formats}
    macro = _MACRO.replace("PARTS", json.dumps(parts)).replace("KNOWN", json.dumps(known))
    return macro + template


def other_day(day: date) -> date:
    """Return a day that differs in year, month, day of the month and weekday."""
    shift = 401
    while (day + timedelta(shift)).day == day.day:
        shift += 1
    return day + timedelta(shift)
