"""Scores of windows with one part of one block removed, or with noise in every block.

Knows blocks, passes and groups of windows, no findings. A: ablations, the first of which is the
intact model; N: windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from memaudit.attack.campaign import Progress
from memaudit.attack.verification import log_likelihood, most_likely
from memaudit.diagnose.anatomy.blocks import Block, without_attention, without_feed_forward
from memaudit.diagnose.passes import Found, Pass
from memaudit.diagnose.subject import Part, Subject, draw
from memaudit.score.stats import Bools, Floats, Ints

Kind = Literal["intact", "attention", "feed-forward", "noise"]
NOISE = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.6)
"""Strengths of the noise: standard deviation as a share of the root mean square of the hidden
state, added after every block. On models of 7 and 135 million parameters the weakest cost controls
almost nothing, and the strongest brought their perplexity near chance."""


@dataclass(eq=False)
class Done:
    """Progress of the passes of one ablation."""

    rows: int = 0


@dataclass(frozen=True, eq=False)
class Ablation:
    """Change of the model."""

    kind: Kind
    block: Block | None = None
    strength: float = 0.0

    def applied(
        self, blocks: Sequence[Block], seed: int, done: Done
    ) -> AbstractContextManager[None]:
        """Apply the ablation to the passes in this context."""
        if self.kind == "noise":
            return _noisy(blocks, self.strength, seed, done)
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

    def take(self, rows: Bools) -> Group:
        """Return these windows only."""
        return Group(
            self.clusters[rows], self.exact[:, rows], self.matched[:, rows], self.nll[:, rows]
        )


@dataclass(frozen=True, eq=False)
class Ablated:
    """Scores of all ablations."""

    ablations: Sequence[Ablation]
    extracted: Group
    """Windows that ``none`` extracted in the run and the intact model extracts here."""
    unstable: int
    """Windows extracted in the run and not here: near-ties."""
    not_extracted: Group
    """Windows that ``none`` did not extract."""
    controls: Group
    """Controls; empty if the run had none."""
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


def ablate(
    subject: Subject, blocks: Sequence[Block], windows: int, seed: int, progress: Progress
) -> Ablated:
    """Score at most ``windows`` windows of each group under every ablation."""
    rng = np.random.default_rng([seed, 0])
    data = subject.data
    parts = [
        data.take(draw(data.extracted, windows, rng)),
        data.take(draw(~data.extracted, windows, rng)),
    ]
    if subject.controls is not None:
        everything = np.ones(len(subject.controls), dtype=bool)
        parts.append(subject.controls.take(draw(everything, windows, rng)))
    ablations = all_ablations(blocks)
    ids = np.concatenate([part.ids for part in parts])
    passes = subject.passes()
    values: list[Found] = []
    with progress.stage("ablations", len(ablations) * len(ids)) as advance:
        for ablation in ablations:
            done = Done()

            def count(rows: int, done: Done = done) -> None:
                done.rows += rows
                advance(rows)

            with ablation.applied(blocks, seed, done):
                values.append(passes.read(ids, _read, count))
    extracted, not_extracted, *rest = _split(parts, values)
    stable = extracted.exact[0] if len(extracted) else np.zeros(0, dtype=bool)
    groups = {
        "extracted": extracted.take(stable),
        "not extracted": not_extracted,
        "controls": rest[0]
        if rest
        else not_extracted.take(np.zeros(len(not_extracted), dtype=bool)),
    }
    withheld = {
        name
        for name, group in groups.items()
        if not subject.disclosure.admits(name, group.clusters)
    }
    for name in withheld:
        groups[name] = groups[name].take(np.zeros(len(groups[name]), dtype=bool))
    return Ablated(
        ablations=ablations,
        extracted=groups["extracted"],
        unstable=int((~stable).sum()),
        not_extracted=groups["not extracted"],
        controls=groups["controls"],
        withheld=frozenset(withheld),
    )


def _read(batch: Pass) -> Mapping[str, Tensor]:
    hits = most_likely(batch.logits) == batch.tokens.to(batch.logits.device)
    return {
        "exact": hits.all(dim=1),
        "matched": hits.double().mean(dim=1),
        "nll": -log_likelihood(batch.logits, batch.tokens).double().mean(dim=1),
    }


def _split(parts: Sequence[Part], values: Sequence[Found]) -> Iterator[Group]:
    start = 0
    for part in parts:
        rows = slice(start, start + len(part))
        start += len(part)
        yield Group(
            part.clusters,
            *(
                np.stack([scores[name][rows] for scores in values])
                for name in ("exact", "matched", "nll")
            ),
        )


@contextmanager
def _noisy(blocks: Sequence[Block], strength: float, seed: int, done: Done) -> Iterator[None]:
    """Add noise to every block's output; a window gets the same noise in any batch."""
    sources: dict[torch.device, list[torch.Generator]] = {}
    passed = (-1, 0)

    def disturb(states: Tensor) -> Tensor:
        nonlocal passed
        if passed != (done.rows, len(states)):  # another pass, or the same with fewer windows
            passed = (done.rows, len(states))
            sources.clear()
        if states.device not in sources:
            rows = range(done.rows, done.rows + len(states))
            sources[states.device] = [_source(states.device, seed, row) for row in rows]
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
