"""The house rules, checked from the code's own syntax: how long, who prints, what loads torch.

Who imports whom is checked by import-linter (pyproject.toml).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "memaudit"

TORCH_FREE = (
    *("config", "data", "demo", "docs", "gate", "report", "score", "sensitive", "system"),
    *("attack.facts", "attack.journal", "run.baselines", "run.diagnoses", "run.load"),
    *("run.manifest", "run.merge", "run.new_folder", "run.record", "run.signature"),
    *("run.tables", "run.unfinished"),
    *("cli.flags", "cli.options", "diagnose.settings", "diagnose.latent.settings"),
    *("diagnose.neurons.settings", "diagnose.sweep.settings", "errors", "progress"),
)
"""Rooms and modules that load neither torch nor what loads it, not even later inside a function:
they answer at once, anywhere."""
LOADS_TORCH = {"torch", "transformers", "peft", "accelerate"}

MODULE_LINES = 500
FUNCTION_LINES = 60


class Import(NamedTuple):
    """One name that a module imports."""

    name: str
    """Full dotted name."""
    line: int
    for_types: bool
    """Under ``if TYPE_CHECKING``: not there when the program runs."""


def modules() -> dict[str, ast.Module]:
    """Every module by its name below memaudit; a room's ``__init__`` by the room's name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


MODULES = modules()
ROOMS = {
    path.parent.relative_to(PACKAGE).as_posix().replace("/", ".").strip(".")
    for path in PACKAGE.rglob("__init__.py")
}
"""Packages, the package itself as the empty name."""


def imports(tree: ast.Module) -> Iterator[Import]:
    """Every import of a module, also those inside functions."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(name, node.lineno, id(node) in guarded) for name in names)


def own_imports(name: str) -> Iterator[tuple[str, Import]]:
    """The modules of memaudit that a module imports, each with where."""
    for found in imports(MODULES[name]):
        top, _, rest = found.name.partition(".")
        if top == "memaudit":
            # ``from memaudit.data.folds import Fold`` names a thing in a module, ``from
            # memaudit.score import stats`` a module: the longest name that is a module counts.
            parts = rest.split(".")
            names = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
            yield next((known for known in names if known in MODULES), ""), found


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield name, node


def test_rooms_themselves_import_nothing() -> None:
    """The package itself offers ``memaudit.api``, which it imports when that is used."""
    for name in sorted(ROOMS - {""}):
        assert not [found.name for found in imports(MODULES[name])], f"{name}/__init__.py"


@pytest.mark.parametrize(
    "name", [n for n in sorted(set(MODULES) - ROOMS) if {n, n.partition(".")[0]} & set(TORCH_FREE)]
)
def test_what_needs_no_torch_loads_none(name: str) -> None:
    reached, waiting = {name}, [name]
    while waiting:
        module = waiting.pop()
        heavy = [
            found
            for found in imports(MODULES[module])
            if not found.for_types and found.name.partition(".")[0] in LOADS_TORCH
        ]
        assert not heavy, f"{name} loads {heavy[0].name} through {module}, line {heavy[0].line}"
        new = {other for other, at in own_imports(module) if not at.for_types} - reached - {""}
        reached |= new
        waiting.extend(new)


@pytest.mark.parametrize("name", sorted(set(MODULES) - ROOMS))
def test_a_module_can_be_read_in_one_sitting(name: str) -> None:
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES, f"{name} has {lines} lines, more than {MODULE_LINES}: split it"


def test_functions_are_small_enough_to_see() -> None:
    for name, node in functions():
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        assert lines <= FUNCTION_LINES, f"{name}, line {node.lineno}: {node.name} has {lines} lines"


def test_only_borders_of_a_process_catch_everything() -> None:
    broad = {None, "Exception", "BaseException"}
    caught = {
        (name, node.lineno)
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and not broad.isdisjoint(_caught(node))
        and not _raises_again(node)
    }
    # The border of the process, and that of a child process, which hands on what it caught.
    assert sorted(name for name, _ in caught) == ["cli.errors", "system.limits"], caught


def _caught(handler: ast.ExceptHandler) -> list[str | None]:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return [None if kind is None else ast.unparse(kind) for kind in kinds]


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Ends in a ``raise``, bare or of another error from it: it cleans up and hides nothing."""
    last = handler.body[-1]
    if not isinstance(last, ast.Raise):
        return False
    return last.exc is None or (last.cause is not None and ast.unparse(last.cause) == handler.name)


def test_only_the_command_line_prints_or_exits() -> None:
    """A child process, which ends in ``system.limits``, aside."""
    talking = {"print", "exit", "quit", "breakpoint", "input"}
    streams = {"sys.stdout", "sys.stderr", "sys.exit", "os._exit", "SystemExit"}
    for name, tree in MODULES.items():
        if name.startswith("cli."):
            continue
        for node in ast.walk(tree):
            where = f"{name}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in talking, where
            if isinstance(node, (ast.Attribute, ast.Name)):
                word = ast.unparse(node)
                assert word not in streams or (name, word) == ("system.limits", "os._exit"), where
        packages = {found.name.partition(".")[0] for found in imports(tree)}
        assert "typer" not in packages, name


def test_a_console_writes_where_it_was_told_to() -> None:
    """Outside cli a Rich console is made over a file in memory, or handed in."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console":
                to_file = any(keyword.arg == "file" for keyword in node.keywords)
                assert to_file or name == "cli.errors", f"{name}, line {node.lineno}"
