"""The commands ``diagnose ...``, one for each diagnosis of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.examining import diagnosis_settings, examine_run
from memaudit.cli.flags import Given, with_settings
from memaudit.cli.options import Quiet, RunFolder, TableOrJson, Verbose
from memaudit.cli.showing import check_choice
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.latent.settings import LatentSettings
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.sweep.settings import SweepSettings

if TYPE_CHECKING:
    from memaudit.report.diagnosis import DiagnosisName

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any other setting (an unknown name lists all)."
    ),
]

diagnose_app = typer.Typer(
    name="diagnose",
    help="Examine a finished run: what is hidden, where it sits and what drives it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

LATENT = """Find windows the model remembers but does not extract.

Scores the windows that the plain prefix does not extract, perturbs the weights slightly, and
measures how well each method finds what a stronger attack, or the run of --known, extracts.
"""
LAYERS = """Find the blocks that carry memory rather than skill.

Removes the attention and the feed-forward part of each block in turn, and measures what is
still extracted and what the removal costs on text that the model has not seen.
"""
NEURONS = """Find hidden states and feed-forward units that memory depends on.

Probes hidden states block by block, and searches the smallest sets of feed-forward units
whose silencing stops an extraction, with the cost elsewhere.
"""
SWEEP = """Measure what raises and lowers extraction.

Varies the length of prefix and suffix, repetitions, model size and number of samples; with
--fits also the length, kind, start and depth of soft prompts.
"""
SIGNALS = """Find signals that reveal or predict extraction.

Measures entropy and other signals around the border of prefix and suffix, and fits a
predictor on the prefix alone that says which part of a corpus to scan first.
"""
ATTENTION = """Compare attention between extracted and other windows.

Measures entropy and largest weights of attention in each block.
"""


def _command_of(name: DiagnosisName, kind: type[DiagnoseSettings]) -> Callable[..., None]:
    """Return the command of a diagnosis, with its settings as flags."""

    @with_settings(kind)
    def command(
        flags: Given,
        run: RunFolder,
        set_: Set = None,
        output_format: TableOrJson = "table",
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        with exit_on_error(verbose):
            check_choice(output_format)
            settings = diagnosis_settings(kind, flags | {"run": run}, set_ or [])
            examine_run(name, settings, output_format, Streams(quiet, verbose))

    return command


_COMMANDS: tuple[tuple[DiagnosisName, type[DiagnoseSettings], str], ...] = (
    ("latent", LatentSettings, LATENT),
    ("layers", LayersSettings, LAYERS),
    ("neurons", NeuronsSettings, NEURONS),
    ("sweep", SweepSettings, SWEEP),
    ("signals", SignalsSettings, SIGNALS),
    ("attention", AttentionSettings, ATTENTION),
)
for name, kind, about in _COMMANDS:
    diagnose_app.command(name=name, help=about)(_command_of(name, kind))
