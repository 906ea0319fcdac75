"""The house rules, checked from the code's own syntax: who imports whom, how long, who prints."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "memaudit"

ORDER = (
    *(
        "errors",
        "limits",
        "out_of_memory",
        "whole_files",
        "file_hash",
        "untrusted_json",
        "home",
        "settings_base",
        "tuning_settings",
        "config",
        "shard",
        "layers",
        "environment",
        "waiting_threads",
        "network",
        "project_key",
        "curves",
    ),
    *("data.packing", "data.charsets", "data.raw_files", "data.parquet_rows"),
    *("data.forms", "data.csv_rows"),
    *(
        "data.records",
        "data.samples",
        "data.drawing",
        "data.pieces",
        "data.bos",
        "data.chat_date",
        "data.chats",
        "data.reading_back",
        "data.encoding",
        "data.windows",
        "data.fingerprints",
    ),
    *("data.clusters", "data.shared_text", "data.folds"),
    *("target.failures", "target.layouts", "target.folders", "target.weight_files"),
    *("target.openings", "target.hub_kernels"),
    *("target.tokenizer_files", "target.source", "target.gguf_header", "target.placement"),
    *("target.attention", "target.prepacking", "target.quantization", "target.vocabulary"),
    *("target.unused_weights", "target.adapters"),
    *("target.rehearsal", "target.loading"),
    "target.checkpoint",
    *("target.numerics", "target.entities", "target.softprompt_check"),
    "team",
    *("attack.fit_record", "attack.batch_facts", "attack.generator", "attack.prompts"),
    *("attack.forward", "attack.memory"),
    *(
        "attack.decoding_cache",
        "attack.decoding_check",
        "attack.verification",
        "attack.finite",
        "attack.decoding",
        "attack.extraction",
        "attack.copying",
        "attack.journal",
        "attack.fit_state",
        "attack.choosing",
        "attack.tuning_passes",
        "attack.step_gradient",
        "attack.tuning",
        "attack.untrained",
    ),
    *("attack.prompt_files", "attack.parts", "attack.campaign"),
    *("score.stats", "score.sampling", "score.scores", "score.origin", "score.detection"),
    "score.validity",
    *("content.shapes", "content.detectors", "content.entities", "content.counting"),
    *("gate.measures", "gate.thresholds", "gate.validity"),
    *("gate.terms", "gate.baseline", "gate.comparison"),
    *("result", "plan", "diagnosis"),
    *(
        "report.wording",
        "report.rendering",
        "report.findings",
        "report.leaks",
        "report.samples_csv",
        "report.hashes",
        "report.frameworks",
        "report.json_parts",
        "report.reference_section",
        "report.validity_section",
        "report.report_json",
    ),
    *("report.reading", "report.origin_reading", "report.origin_table"),
    "report.gate_reading",
    *("report.footing", "report.cyclonedx", "report.leaks_table"),
    *("report.table", "report.comparison_report"),
    *("report.markdown_summary", "report.sarif_log", "report.junit_xml", "report.annotations"),
    *("report.plots", "report.diagnosis_json", "report.diagnosis_cells", "report.diagnosis_table"),
    *("report.page_figures", "report.page_groups", "report.page_tables"),
    *("report.page_evidence", "report.page_diagnoses", "report.page"),
    *(
        "manifest",
        "stored_run",
        "baseline_file",
        "stored_diagnoses",
        "run_record",
        "work_signature",
        "unfinished",
        "merging",
        "run_facts",
        "readiness",
        "assessment",
        "run_validity",
        "reference",
        "preparation",
        "campaigns",
        "scan",
        "cost",
        "inspection",
        "inspection_table",
        "run_folder",
        "integrity",
        "integrity_table",
        "progress",
    ),
    *("diagnose.settings", "diagnose.passes", "diagnose.subject", "diagnose.examination"),
    "diagnose.sure",
    *(
        "diagnose.anatomy.trial",
        "diagnose.anatomy.identity",
        "diagnose.anatomy.parts",
        "diagnose.anatomy.blocks",
    ),
    *(
        "diagnose.latent.detected",
        "diagnose.latent.perturbation",
        "diagnose.latent.known_run",
        "diagnose.latent.scores",
        "diagnose.latent.population",
        "diagnose.latent.trial",
        "diagnose.latent.questions",
        "diagnose.latent.beyond",
        "diagnose.latent.recovered",
        "diagnose.latent.spread",
        "diagnose.latent.findings",
        "diagnose.latent.diagnosis",
    ),
    *(
        "diagnose.layers.ablation",
        "diagnose.layers.costs",
        "diagnose.layers.words",
        "diagnose.layers.figures",
        "diagnose.layers.diagnosis",
    ),
    *(
        "diagnose.neurons.settings",
        "diagnose.neurons.probe",
        "diagnose.neurons.representations",
        "diagnose.neurons.probing",
        "diagnose.neurons.probing_report",
        "diagnose.neurons.resampling",
        "diagnose.neurons.unit_search",
        "diagnose.neurons.units",
        "diagnose.neurons.unit_effects",
        "diagnose.neurons.silencing_found",
        "diagnose.neurons.silencing",
        "diagnose.neurons.silencing_report",
        "diagnose.neurons.silencing_tables",
        "diagnose.neurons.diagnosis",
    ),
    *(
        "diagnose.sweep.figures",
        "diagnose.sweep.drawing",
        "diagnose.sweep.passes",
        "diagnose.sweep.suffixes",
        "diagnose.sweep.repetitions",
        "diagnose.sweep.sampling",
        "diagnose.sweep.prefixes",
        "diagnose.sweep.models",
        "diagnose.sweep.variants",
        "diagnose.sweep.fits",
        "diagnose.sweep.results",
        "diagnose.sweep.checks",
        "diagnose.sweep.fitting",
        "diagnose.sweep.diagnosis",
    ),
    *(
        "diagnose.signals.means",
        "diagnose.signals.words",
        "diagnose.signals.readings",
        "diagnose.signals.features",
        "diagnose.signals.groups",
        "diagnose.signals.curves",
        "diagnose.signals.comparison",
        "diagnose.signals.windows",
        "diagnose.signals.triage",
        "diagnose.signals.triage_gains",
        "diagnose.signals.triage_verdict",
        "diagnose.signals.triage_tables",
        "diagnose.signals.findings",
        "diagnose.signals.diagnosis",
    ),
    *(
        "diagnose.attention.weights",
        "diagnose.attention.figures",
        "diagnose.attention.view",
        "diagnose.attention.diagnosis",
    ),
    *("bench.timing", "bench.work", "bench.plain_ways", "bench.ways", "bench.benchmark"),
    "bench.bench_report",
    *("demo.shipped", "demo.checks", "demo.checks_table"),
    *(
        "cli.options",
        "cli.outlets",
        "cli.border",
        "cli.showing",
        "cli.running",
        "cli.resuming",
        "cli.merging",
        "cli.auditing",
        "cli.bench",
        "cli.demo",
        "cli.reporting",
        "cli.comparing",
        "cli.verify",
        "cli.examining",
        "cli.diagnosing",
    ),
    "cli.app",
    "__main__",
)
"""Every module, in the order that data flows: each imports only from those before it."""

TORCH_FREE = (
    *(
        "errors",
        "out_of_memory",
        "whole_files",
        "file_hash",
        "untrusted_json",
        "home",
        "settings_base",
        "tuning_settings",
        "config",
        "shard",
        "layers",
        "environment",
        "waiting_threads",
        "network",
        "project_key",
        "curves",
        "data",
        "score",
        "content",
        "gate",
    ),
    *("result", "diagnosis", "report", "stored_run", "baseline_file", "manifest"),
    "stored_diagnoses",
    *("progress", "demo", "cli.options"),
)
"""Rooms that neither load torch nor anything that does: they answer at once, anywhere."""
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
    ".".join(parts[:depth])
    for parts in (name.split(".") for name in ORDER)
    for depth in range(1, len(parts))
}
"""Those inside a room too."""


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


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(ORDER) == set(MODULES) - ROOMS - {""}
    assert len(set(ORDER)) == len(ORDER)
    for inner in (
        lambda name: name.partition(".")[0],
        lambda name: name.rpartition(".")[0] or name,
    ):
        rooms = [key for key, _ in itertools.groupby(ORDER, key=inner)]
        assert len(set(rooms)) == len(rooms), "a room's files stand together"


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_above(name: str) -> None:
    above = {"", *ORDER[: ORDER.index(name)]}
    wrong = [f"line {at.line}: {other}" for other, at in own_imports(name) if other not in above]
    assert not wrong, f"{name} imports from below, or from itself: {wrong}"


def test_rooms_themselves_import_nothing() -> None:
    for name in ("", *sorted(ROOMS)):
        assert not [found.name for found in imports(MODULES[name])], f"{name}/__init__.py"


@pytest.mark.parametrize("name", [n for n in ORDER if {n, n.partition(".")[0]} & set(TORCH_FREE)])
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


@pytest.mark.parametrize("name", ORDER)
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
    assert sorted(name for name, _ in caught) == ["cli.border", "limits"], caught


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
    """A child process, which ends in ``limits``, aside."""
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
                assert word not in streams or (name, word) == ("limits", "os._exit"), where
        packages = {found.name.partition(".")[0] for found in imports(tree)}
        assert "typer" not in packages, name


def test_a_console_writes_where_it_was_told_to() -> None:
    """Outside cli a Rich console is made over a file in memory, or handed in."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console":
                to_file = any(keyword.arg == "file" for keyword in node.keywords)
                assert to_file or name == "cli.border", f"{name}, line {node.lineno}"
