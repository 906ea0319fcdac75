"""Inputs of a run that must be unchanged before it may resume, and facts for the report."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import torch

from memaudit import __version__
from memaudit.attack.facts import BatchFacts
from memaudit.attack.prompt_files import hash_loaded
from memaudit.config.settings import ScanConfig
from memaudit.config.sources import named_settings
from memaudit.data.plan import Plan, Role
from memaudit.data.project_key import ProjectKey
from memaudit.data.samples import DataSummary
from memaudit.distributed import Processes
from memaudit.errors import RunError
from memaudit.report.result import RunFacts
from memaudit.run.load import REPORT
from memaudit.run.record import RunNotes, RunRecord, differences
from memaudit.run.signature import id_of
from memaudit.system.environment import describe_libraries, describe_machine
from memaudit.system.files import file_sha256
from memaudit.system.threads import describe_waiting
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.numerics import describe_accelerator, describe_determinism


def agree(record: RunRecord, processes: Processes, group: str, facts: Mapping[str, str]) -> None:
    """Check that all processes share the same inputs, and that a resumed run still has them.

    Raises RunError where processes differ, UsageError where the run began with other inputs.
    """
    first = processes.broadcast(dict(facts))
    differing = processes.gather(differences(first, facts))
    if difference := next(filter(None, differing), ""):
        raise RunError(f"the processes of this run have different inputs: {difference}")
    record.agree(group, facts)


def facts_of_files(
    config: ScanConfig, summaries: Mapping[Role, DataSummary], key: ProjectKey
) -> dict[str, str]:
    """Return the inputs known before the model is loaded, named as messages name them."""
    facts = {"memaudit": __version__, **describe_libraries()}
    facts |= {
        name: str(value)
        for name, value in named_settings(config).items()
        if name not in ("out", "key_file")  # the folder may move; the key has an id below
    }
    facts |= {
        f"the {role} ({summary.path.name})": key.sign_file(summary.sha256)
        for role, summary in summaries.items()
    }
    facts |= {f"{name} of --generator": sha for name, sha in hash_loaded(config.generator).items()}
    if (baseline := config.gate.baseline) is not None:
        file = baseline / REPORT if baseline.is_dir() else baseline
        facts["the baseline"] = file_sha256(file) if file.is_file() else "none"
    files = {"recognizers": config.sensitive.recognizers, "secrets": config.sensitive.secrets}
    for name, path in files.items():
        if path is not None:
            facts[f"the {name}"] = key.sign_file(file_sha256(path))
    facts["the project key"] = id_of(key)
    return facts


def facts_of_model(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the inputs that come from the model and its device, named as messages name them."""
    facts = {f"{name} of the model": sha256 for name, sha256 in checkpoint.fingerprint.items()}
    facts |= {name: choice.value for name, choice in checkpoint.choices.items()}
    if checkpoint.device.type == "cpu":  # CPU sums depend on how threads share them
        facts["threads"] = str(torch.get_num_threads())
        facts["processor"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return facts | describe_accelerator(checkpoint.device)


def facts_of_plan(plan: Plan) -> dict[str, str]:
    """Return a hash of the windows and folds of each role, whatever they were cut from."""
    digests = {}
    for role, corpus in (("data", plan.data), ("controls", plan.controls)):
        if corpus is not None:
            whole = hashlib.sha256(np.ascontiguousarray(corpus.windows.ids).tobytes())
            whole.update(np.ascontiguousarray(corpus.folds).tobytes())
            digests[f"the windows of the {role}"] = whole.hexdigest()
    return digests


def run_facts(
    notes: RunNotes,
    device: torch.device,
    *,
    key_id: str,
    batch_size: tuple[int, str],
    batches: Mapping[str, BatchFacts],
    processes: int,
) -> RunFacts:
    """Return the facts of a run that has just finished. batch_size: windows, and the reason."""
    return RunFacts(
        version=__version__,
        command=notes.command,
        started=notes.started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=notes.seconds,
        resumed=notes.resumed,
        processes=processes,
        key_id=key_id,
        batch_size=batch_size[0],
        batch_size_reason=batch_size[1],
        libraries=describe_libraries(),
        machine=describe_machine() | describe_waiting(os.environ) | describe_accelerator(device),
        determinism=describe_determinism(),
        batches=batches,
    )
