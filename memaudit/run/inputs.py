"""What a run depends on, and what it ran on.

Knows which facts forbid to go on with a run where they have changed, and which the report tells.
"""

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
    """Make sure that every process depends on the same, and that a run that goes on still does.

    Raises RunError where processes differ, UsageError where the run began with something else.
    """
    first = processes.broadcast(dict(facts))
    everyone = processes.gather(differences(first, facts))
    if apart := next(filter(None, everyone), ""):
        raise RunError(f"the processes of this run do not find the same: {apart}")
    record.agree(group, facts)


def facts_of_files(
    config: ScanConfig, summaries: Mapping[Role, DataSummary], key: ProjectKey
) -> dict[str, str]:
    """What figures depend on and is known before the model is: by name, for a message."""
    facts = {"memaudit": __version__, **describe_libraries()}
    facts |= {
        name: str(value)
        for name, value in named_settings(config).items()
        if name not in ("out", "key_file")  # the folder may have been moved, the key has an id
    }
    facts |= {
        f"the {role} ({summary.path.name})": key.sign_file(summary.sha256)
        for role, summary in summaries.items()
    }
    facts |= {f"{name} of --generator": sha for name, sha in hash_loaded(config.generator).items()}
    if (baseline := config.gate.baseline) is not None:
        file = baseline / REPORT if baseline.is_dir() else baseline
        facts["the baseline"] = file_sha256(file) if file.is_file() else "none"
    facts["the project key"] = id_of(key)
    return facts


def facts_of_model(checkpoint: Checkpoint) -> dict[str, str]:
    """What figures depend on of the model and where it runs: by name, for a message."""
    facts = {f"{name} of the model": sha256 for name, sha256 in checkpoint.fingerprint.items()}
    facts |= {name: choice.value for name, choice in checkpoint.choices.items()}
    if checkpoint.device.type == "cpu":  # whose sums depend on how they are shared out
        facts["threads"] = str(torch.get_num_threads())
        facts["processor"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return facts | describe_accelerator(checkpoint.device)


def facts_of_plan(plan: Plan) -> dict[str, str]:
    """The windows and the folds that audit them, whatever they were made from."""
    digests = {}
    for role, corpus in (("data", plan.data), ("controls", plan.controls)):
        if corpus is not None:
            whole = hashlib.sha256(np.ascontiguousarray(corpus.windows.window_ids()).tobytes())
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
    """What the report tells of a run that has its figures now. batch_size: and why so large."""
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
