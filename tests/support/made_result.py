"""ScanResults built by hand: real scores of made-up token ids, no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.attack.facts import NO_PROMPT, BatchFacts, Epoch, FitRecord
from memaudit.config.settings import (
    LADDER,
    ScanConfig,
    SensitiveSettings,
    WindowSettings,
)
from memaudit.data.corpus import Corpus
from memaudit.data.fingerprints import fingerprint_samples, fingerprint_windows
from memaudit.data.own_tokens import count_template
from memaudit.data.project_key import ProjectKey
from memaudit.data.samples import DataSummary, Skipped
from memaudit.data.template import NO_TEMPLATE
from memaudit.data.windows import Windows
from memaudit.gate.thresholds import judge, judge_controls
from memaudit.gate.validity import Validity
from memaudit.pipeline.scoring import group_windows
from memaudit.report.result import (
    AttackResult,
    FoldFit,
    FoldSizes,
    Permuted,
    Revealed,
    RunFacts,
    ScanResult,
    TargetFacts,
)
from memaudit.score.samples import Arm, score_samples
from memaudit.score.scores import WindowScores, score_windows
from memaudit.score.summary import attack_rng, summarise
from memaudit.score.validity import Continuations, Reading, Templates, TextFaults
from memaudit.target.checkpoint import Choice

S = 50
HITS = {"none": 12, "copy": 0, "dynamic-hard": 10, "constant": 15, "dynamic": 31}
KEY = ProjectKey(bytes(range(32)))
CONTROL_HITS: dict[str, int] = dict.fromkeys(LADDER, 0)


def make_windows(
    n: int,
    *,
    ids: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    skipped: Sequence[Skipped] = (),
) -> Windows:
    """``n`` windows, one a line from line 1 on, each of 50+50 tokens; the first ids are given."""
    rng = np.random.default_rng(7)
    names = [*ids, *(f"doc-{line:04}" for line in range(len(ids) + 1, n + 1))]
    return Windows(
        ids=np.concatenate(rng.integers(0, 300, (2, n, S), dtype=np.int32), axis=1),
        longest_prefix=S,
        sample=np.arange(n),
        line=np.arange(1, n + 1),
        window=np.zeros(n, dtype=np.int64),
        sample_tokens=np.full(n, 2 * S),
        new_tokens=np.full(n, S),
        sample_id=tuple(names[:n]),
        group=(None,) * n,
        extra=(extra or {},) * n,
        skipped=tuple(skipped),
        boundary_shifts=0,
        columns=tuple(extra or {}),
        samples=n + len(skipped),
    )


def several_windows(windows: Windows, each: int = 3) -> Windows:
    """The same windows as ``each`` of every sample, overlapping; the first sample is no finding."""
    numbers = np.arange(len(windows))
    sample, window = numbers // each, numbers % each
    ids = windows.ids.copy()
    ids[sample == 0, S:] = ids[sample == 0, :S]  # repeats what stands before it
    return replace(
        windows,
        ids=ids,
        sample=sample,
        line=sample + 1,
        window=window,
        sample_tokens=np.full(len(windows), 2 * S + (each - 1) * S // 2),
        new_tokens=np.where(window == 0, S, S // 2),
        sample_id=tuple(windows.sample_id[number] for number in sample),
        samples=len(np.unique(sample)) + len(windows.skipped),
    )


def make_corpus(name: str, windows: Windows, first_cluster: int = 0) -> Corpus:
    rows = len(windows) + len(windows.skipped)
    return Corpus(
        DataSummary(Path(name), "ab" * 32, rows, 0),
        windows,
        windows.sample + first_cluster,
        windows.sample % 2,
        count_template(windows, NO_TEMPLATE),
    )


def make_scores(attack: str, hits: int, windows: Windows) -> WindowScores:
    """The first ``hits`` windows extracted; of the others, window i to its token i % 40."""
    n = len(windows)
    right = np.arange(S) < np.where(np.arange(n) < hits, S, np.arange(n) % 40)[:, None]
    output = np.where(right, windows.suffix_ids, -1)
    nll = (
        np.where(np.arange(n) < hits, 0.01, 2.0) + np.arange(n) / 1000 - LADDER.index(attack) / 1e4
    )
    if attack == "copy":
        nll = np.full(n, np.nan)
    log_p_z = np.where(np.arange(n) % 7 == 6, -np.inf, -S * nll)
    return score_windows(output, windows.suffix_ids, nll, log_p_z)


def make_result(
    *,
    n: int = 200,
    hits: Mapping[str, int] = HITS,
    controls: Mapping[str, int] | None = CONTROL_HITS,
    data: Windows | None = None,
    reveal: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
    **settings: Any,
) -> ScanResult:
    """A whole result: ``hits`` of ``n`` windows by attack, and as many of 100 ``controls``.

    ``reveal``: text that stands for every prefix, suffix and output.
    """
    config = ScanConfig(
        model="tb7m",
        data=Path("members.jsonl"),
        controls=None if controls is None else Path("clean.jsonl"),
        attacks=tuple(hits),
        reveal=reveal is not None,
        windows=WindowSettings(prefix_tokens=S, suffix_tokens=S, placement="start"),
        sensitive=SensitiveSettings(enabled=False),
    ).model_copy(update=settings)
    part = make_corpus("members.jsonl", data or make_windows(n))
    other = make_corpus("clean.jsonl", make_windows(100), len(part.windows))
    attacks = _attacks(config, part, other if controls is not None else None, hits, controls or {})
    summaries = [attack.summary for attack in attacks]
    on_controls = judge_controls(summaries)
    revealed = {}
    has_controls = controls is not None
    attempted = [name for name in LADDER if name in hits]
    if reveal is not None:
        for role, corpus in (("data", part), ("control", other)):
            shown = tuple(reveal[i % len(reveal)] for i in range(len(corpus.windows)))
            revealed[role] = Revealed(shown, shown, dict.fromkeys(attempted, shown))
    validity = make_validity(part.windows, attacks, other if controls is not None else None)
    validity = replace(validity, template_samples=int((~part.counted).sum()))
    return ScanResult(
        config=config,
        sources={"model": "flag", "protocol.folds": "default"},
        target=_target(),
        data=part,
        controls=other if controls is not None else None,
        fold_sizes=(FoldSizes(0, 90, 10, 100), FoldSizes(1, 90, 10, 100)),
        attacks=attacks,
        fits=tuple(_fits(tuple(hits))),
        verdicts=(*judge(summaries, config.gate), *([on_controls] if on_controls else [])),
        notes=notes,
        fingerprints=_fingerprints(fingerprint_windows, part, other if has_controls else None),
        sample_fingerprints=_fingerprints(
            fingerprint_samples, part, other if has_controls else None
        ),
        run=_run(),
        file_hmacs={"data": "ab" * 32, "control": "ab" * 32},
        revealed=revealed,
        validity=validity,
    )


def make_validity(
    windows: Windows, attacks: Sequence[AttackResult], controls: Corpus | None = None
) -> Validity:
    """The evidence of a sound run with these windows and attacks."""
    nothing = np.zeros(len(windows), dtype=np.bool_)
    records = {*zip(windows.sample_id, windows.line.tolist(), strict=True)}
    skipped = {(record.sample_id, record.line) for record in windows.skipped}
    asking = [attack for attack in attacks if attack.attack != "copy"]
    readings = {}
    continued = None
    if asking:
        parts = {"data": asking[0].data, "controls": asking[0].controls}
        readings = {
            part: Reading(float(np.median(scores.suffix_nll)), 5.0, 9.0)
            for part, scores in parts.items()
            if scores is not None and len(scores)
        }
        continued = Continuations(int((~asking[0].data.exact).sum()), 0, 1)
    return Validity(
        text=TextFaults(nothing, nothing, nothing, nothing, 0.0),
        templates=Templates(nothing, nothing, nothing),
        lines=windows.line,
        records=len(records | skipped),
        used=len(records),
        extracted=int(np.any([nothing, *(attack.data.exact for attack in asking)], axis=0).sum()),
        readings=readings,
        continuations=continued,
    )


def _attacks(
    config: ScanConfig,
    data: Corpus,
    controls: Corpus | None,
    hits: Mapping[str, int],
    control_hits: Mapping[str, int],
) -> tuple[AttackResult, ...]:
    results = []
    none = make_scores("none", hits["none"], data.windows) if "none" in hits else None
    for attack in [name for name in LADDER if name in hits]:
        scores = make_scores(attack, hits[attack], data.windows)
        said = None
        if controls is not None:
            said = make_scores(attack, control_hits.get(attack, 0), controls.windows)
        summary = summarise(
            attack,
            Arm.of(scores, group_windows(data)),
            config.scores,
            attack_rng(config.protocol.seed, attack),
            none=Arm.of(none, group_windows(data)) if none and attack != "none" else None,
            controls=Arm.of(said, group_windows(controls)) if said and controls else None,
        )
        permuted = Permuted(0, len(data.windows), 0.011)
        results.append(
            AttackResult(
                attack,
                scores,
                said,
                score_samples(scores, group_windows(data)),
                score_samples(said, group_windows(controls)) if said and controls else None,
                summary,
                permuted,
            )
        )
    return tuple(results)


def _fingerprints(
    fingerprint: Callable[[Windows, ProjectKey], tuple[str, ...]],
    data: Corpus,
    controls: Corpus | None,
) -> dict[str, tuple[str, ...]]:
    made = {"data": fingerprint(data.windows, KEY)}
    return made if controls is None else made | {"control": fingerprint(controls.windows, KEY)}


def _fits(attacks: Sequence[str]) -> list[FoldFit]:
    curve = (Epoch(0, float("nan"), 1, 3.2), Epoch(1, 2.5, 2, 2.9), Epoch(2, 2.1, 2, 2.7))
    return [
        FoldFit(
            attack,
            fold,
            FitRecord(chosen, curve, "all epochs were run", 25600, 90, 10, "float32"),
        )
        for attack in ("constant", "dynamic")
        if attack in attacks
        for fold, chosen in enumerate(("epoch 2", NO_PROMPT))
    ]


def _target() -> TargetFacts:
    return TargetFacts(
        name="tb7m",
        revision=None,
        architecture="GPTNeoXForCausalLM",
        parameters=7_213_056,
        fingerprint={"model.safetensors": "cd" * 32, "tokenizer.json": "ef" * 32},
        choices={
            "device": Choice("cpu", "auto: neither CUDA nor MPS is available"),
            "dtype": Choice("float32", "auto: the checkpoint is not in half precision"),
            "bos": Choice("no", "auto: the tokenizer adds none"),
        },
    )


def _run() -> RunFacts:
    return RunFacts(
        version="0.1.0",
        command="memaudit scan tb7m members.jsonl",
        started="2026-11-22T11:00:00+00:00",
        finished="2026-11-22T11:00:02+00:00",
        seconds={"reading files": 0.25, "scoring": 1.5},
        resumed=0,
        processes=1,
        key_id=KEY.key_id,
        batch_size=64,
        batch_size_reason="fits 8 GB",
        libraries={"torch": "2.13.0"},
        machine={"platform": "Linux", "processors": "2"},
        determinism={"deterministic_algorithms": "no", "threads": "2"},
        batches={
            "extraction": BatchFacts(64, 64, 64, shortages=0, recomputed=False),
            "tuning": BatchFacts(16, 16, 16, shortages=0, recomputed=False),
        },
    )
