"""Scores of windows with one part of one block removed, or with noise in every block.

Knows blocks, passes and groups of windows. Knows no findings. A: ablations, the first of which is
the intact model; N: windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from memaudit.attack.journal import Progress
from memaudit.attack.verification import log_likelihood, most_likely
from memaudit.diagnose.anatomy.blocks import (
    Block,
    find_blocks,
    refusal,
    without_attention,
    without_feed_forward,
)
from memaudit.diagnose.groups import by_group, ids_of, sample_groups
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.passes import Found, Pass
from memaudit.diagnose.subject import Part, Subject
from memaudit.score.stats import Bools, Floats, Ints

Kind = Literal["intact", "attention", "feed-forward", "noise"]
NOISE = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.6)
"""Strengths of the noise: standard deviation as a share of the root mean square of the hidden
state, added after every block. On models of 7 and 135 million parameters the weakest cost controls
almost nothing, and the strongest brought their perplexity near chance."""


@dataclass(eq=False)
class Batch:
    """Windows of the current pass."""

    rows: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(B,) their rows; another array in each pass."""

    def begin(self, rows: Ints) -> None:
        """Begin the pass over these windows."""
        self.rows = rows


@dataclass(frozen=True, eq=False)
class Ablation:
    """Change of the model."""

    kind: Kind
    block: Block | None = None
    strength: float = 0.0

    def applied(
        self, blocks: Sequence[Block], seed: int, batch: Batch
    ) -> AbstractContextManager[None]:
        """Apply the ablation to the passes in this context."""
        if self.kind == "noise":
            return _noisy(blocks, self.strength, seed, batch)
        if self.block is None:
            return nullcontext()
        remove = without_attention if self.kind == "attention" else without_feed_forward
        return remove(self.block)


@dataclass(frozen=True, eq=False)
class Group:
    """Windows of one kind with their scores."""

    clusters: Ints
    """(N,)."""
    exact: Bools
    """(A,N) True if every suffix token is the greedy choice."""
    matched: Floats
    """(A,N) share of the suffix tokens that are the greedy choice, each after the true ones."""
    nll: Floats
    """(A,N) suffix NLL, nats/token."""

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def rise(self) -> Floats:
        """(A,N) rise of the suffix NLL over the intact model's, nats/token."""
        return np.asarray(self.nll - self.nll[0])

    def take(self, rows: Bools | slice) -> Group:
        """Return these windows only."""
        return Group(
            self.clusters[rows], self.exact[:, rows], self.matched[:, rows], self.nll[:, rows]
        )


@dataclass(frozen=True, eq=False)
class Measurements:
    """Scores of windows under all ablations."""

    blocks: Sequence[Block]
    ablations: Sequence[Ablation]
    extracted: Group
    """Windows that ``none`` extracted in the run and the intact model extracts here."""
    unstable: int
    """Windows extracted in the run and not here: near-ties."""
    not_extracted: Group
    """Windows that ``none`` did not extract."""
    controls: Group
    """Controls; empty if the run had none."""
    has_controls: bool
    withheld: frozenset[str] = frozenset()
    """Names of groups that are too small to report, and therefore empty."""

    @property
    def skill(self) -> Group:
        """Windows that measure skill: controls, or else windows that are not extracted."""
        return self.controls if len(self.controls) else self.not_extracted


def all_ablations(blocks: Sequence[Block]) -> list[Ablation]:
    """Return the intact model, each removable attention and feed-forward part, and noise."""
    parts: list[Ablation] = [Ablation("intact")]
    parts += [Ablation("attention", block) for block in blocks if block.attention is not None]
    parts += [Ablation("feed-forward", block) for block in blocks if block.has_feed_forward]
    return parts + [Ablation("noise", strength=strength) for strength in NOISE]


def measure(subject: Subject, settings: LayersSettings, progress: Progress) -> Measurements:
    """Score at most ``settings.windows`` windows of each group under every ablation.

    Raises:
        TargetError: the model has no blocks, or no part that can be removed.
    """
    blocks = find_blocks(subject.checkpoint)
    if not any(block.attention is not None or block.has_feed_forward for block in blocks):
        raise refusal(
            subject.checkpoint,
            "no block has attention that can be limited to its own position, or a feed-forward "
            "part that can be removed",
        )
    data, rng = subject.data, np.random.default_rng([settings.seed, 0])
    masks = {"extracted": data.extracted, "not extracted": ~data.extracted}
    parts = sample_groups(subject, masks, settings.windows, rng)
    ablations = all_ablations(blocks)
    groups = _score(subject, blocks, ablations, parts, settings.seed, progress)
    groups.setdefault("controls", groups["not extracted"].take(slice(0)))
    stable = groups["extracted"].exact[0]
    groups["extracted"] = groups["extracted"].take(stable)
    withheld = {
        name
        for name, group in groups.items()
        if not subject.disclosure.admits(name, group.clusters)
    }
    groups |= {name: groups[name].take(slice(0)) for name in withheld}
    return Measurements(
        blocks=blocks,
        ablations=ablations,
        extracted=groups["extracted"],
        unstable=int((~stable).sum()),
        not_extracted=groups["not extracted"],
        controls=groups["controls"],
        has_controls=subject.controls is not None,
        withheld=frozenset(withheld),
    )


def _score(
    subject: Subject,
    blocks: Sequence[Block],
    ablations: Sequence[Ablation],
    parts: Mapping[str, Part],
    seed: int,
    progress: Progress,
) -> dict[str, Group]:
    """Score the windows of each group under each ablation."""
    ids, passes = ids_of(parts), subject.passes()
    values: list[dict[str, Found]] = []
    with progress.stage("ablations", len(ablations) * len(ids)) as advance:
        for ablation in ablations:
            batch = Batch()
            with ablation.applied(blocks, seed, batch):
                scores = passes.read(ids, read_scores, advance, begin=batch.begin)
            values.append(by_group(parts, scores))
    return {
        name: Group(
            part.clusters,
            *(
                np.stack([groups[name][figure] for groups in values])
                for figure in ("exact", "matched", "nll")
            ),
        )
        for name, part in parts.items()
    }


def read_scores(batch: Pass) -> Mapping[str, Tensor]:
    """Return whether and how well each suffix is predicted, each (B,)."""
    hits = most_likely(batch.logits) == batch.tokens.to(batch.logits.device)
    return {
        "exact": hits.all(dim=1),
        "matched": hits.double().mean(dim=1),
        "nll": -log_likelihood(batch.logits, batch.tokens).double().mean(dim=1),
    }


@contextmanager
def _noisy(blocks: Sequence[Block], strength: float, seed: int, batch: Batch) -> Iterator[None]:
    """Add noise to every block's output; a window gets the same noise in any batch."""
    sources: dict[torch.device, list[torch.Generator]] = {}
    rows = batch.rows

    def disturb(states: Tensor) -> Tensor:
        nonlocal rows
        if rows is not batch.rows:  # another pass, or the same with fewer windows
            rows = batch.rows
            sources.clear()
        if states.device not in sources:
            sources[states.device] = [_source(states.device, seed, int(row)) for row in rows]
        size = states.float().square().mean(dim=-1, keepdim=True).sqrt()
        noise = torch.stack(
            [
                torch.randn(states.shape[1:], generator=source, device=states.device)
                for source in sources[states.device]
            ]
        )
        return (states + strength * size * noise).to(states.dtype)

    def hook(module: nn.Module, args: Any, result: Any) -> Any:
        if isinstance(result, Tensor):
            return disturb(result)
        return (disturb(result[0]), *result[1:])

    with ExitStack() as hooks:
        for module in {id(block.module): block.module for block in blocks}.values():
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _source(device: torch.device, seed: int, row: int) -> torch.Generator:
    """Return the generator of one window's noise on one device."""
    key = np.random.SeedSequence([seed, row, device.index or 0])
    return torch.Generator(device=device).manual_seed(int(key.generate_state(1)[0]))
