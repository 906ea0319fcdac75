"""The tables of settings in ``memaudit/docs``, made from the settings classes.

Run as a program it writes them into the pages: ``python tests/support/settings_page.py``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from memaudit.config.base import MAX_INTEGER
from memaudit.config.flags import flags_of
from memaudit.config.settings import ScanConfig
from memaudit.report.diagnosis import DIAGNOSES

DOCS = Path(__file__).parents[2] / "memaudit" / "docs"
HEAD = "| setting | values | default | meaning |\n|---|---|---|---|"


def field_docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field of a class and its bases, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not (issubclass(base, BaseModel) and base is not BaseModel):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)):
                continue
            if isinstance(text.value, ast.Constant) and isinstance(field.target, ast.Name):
                words = " ".join(str(text.value.value).split())
                texts[field.target.id] = words.replace("``", "`")
    return texts


def values(schema: dict[str, Any]) -> str:
    """Return a type with its bounds, in words."""
    if "anyOf" in schema:
        return next(values(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list: {values(schema['items'])}"
    if schema["type"] == "boolean":
        return "`true`, `false`"
    if schema["type"] == "string":
        if "pattern" in schema:
            return f"text like `{schema['pattern']}`"
        return {"path": "path", "date": "date"}.get(schema.get("format", ""), "text")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in signs.items()
        if key in schema and schema[key] != MAX_INTEGER
    ]
    kind = "whole number" if schema["type"] == "integer" else "number"
    return f"{kind} {', '.join(bounds)}".strip()


def rows(kind: type[BaseModel], section: str, skip: frozenset[str] = frozenset()) -> list[str]:
    """Return a table row for each setting of a class that is not a section itself."""
    texts, flags = field_docstrings(kind), flags_of(kind)
    made = []
    for name, schema in kind.model_json_schema()["properties"].items():
        if "$ref" in schema or name in skip:
            continue
        flag = flags[name].flag if name in flags else None
        text = " ".join(filter(None, [flag.help if flag else None, texts.get(name)]))
        assert text, f"{section}.{name} has no help: give it a docstring"
        text += f" Flag: `{flag.name}`." if flag and not flag.is_argument else ""
        default = schema.get("default")
        shown = "" if default is None else f"`{json.dumps(default)}`"
        if name == "attacks":
            shown = "all"
        made.append(f"| `{name}` | {values(schema)} | {shown} | {text} |".replace("|  |", "| |"))
    return made


def scan_tables() -> str:
    """Return the tables of everything that a scan can be told."""
    blocks = ["## Top level\n\n" + "\n".join([HEAD, *rows(ScanConfig, "")])]
    known: list[str] = []
    for section, field in ScanConfig.model_fields.items():
        kind = field.annotation
        if not (inspect.isclass(kind) and issubclass(kind, BaseModel)):
            continue
        about = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0].replace("``", "`")
        lines = rows(kind, section)
        if section == "dynamic":
            lines = [line for line in lines if line not in known]
            about += " The settings of `[constant]` apply, with these changes and additions."
        known = lines
        about = "\n".join(textwrap.wrap(about, 100))
        blocks.append(f"## [{section}]\n\n{about}\n\n" + "\n".join([HEAD, *lines]))
    return "\n\n".join(blocks)


def diagnosis_tables() -> str:
    """Return the tables of what ``--set`` and ``--windows`` take, one for each diagnosis."""
    blocks = []
    for name in DIAGNOSES:
        module = importlib.import_module(f"memaudit.diagnose.{name}.settings")
        kind = getattr(module, f"{name.capitalize()}Settings")
        skip = frozenset({"run", *flags_of(kind)} - {"windows"})
        lines = rows(kind, name, skip)
        blocks.append(f"### diagnose {name}\n\n" + "\n".join([HEAD, *lines]))
    return "\n\n".join(blocks)


def generated(page: str, mark: str) -> str:
    """Return the generated part of a page."""
    match = re.search(rf"<!-- generated: {mark} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert match, mark
    return match[1].strip()


PAGES = {"settings": ("settings.md", scan_tables), "diagnoses": ("diagnose.md", diagnosis_tables)}

if __name__ == "__main__":
    for mark, (file, tables) in PAGES.items():
        page = (DOCS / file).read_text(encoding="utf-8")
        head, start, rest = page.partition(f"<!-- generated: {mark} -->\n")
        tail = rest.partition("<!-- end -->")[2]
        text = f"{head}{start}\n{tables()}\n\n<!-- end -->{tail}"
        (DOCS / file).write_text(text, encoding="utf-8")
