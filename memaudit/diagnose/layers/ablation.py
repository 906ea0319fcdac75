"""Windows read with one part of one block taken away at a time, or with noise everywhere.

Knows blocks, passes and groups of windows. Knows nothing of what is concluded. Letters: A
ablations, the first of which is none at all; N windows.
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
state that it is added to, after every block. On two models of 7 and 135 million parameters the
first cost controls next to nothing, the last brought their perplexity near chance."""


@dataclass(eq=False)
class Done:
    """How far the passes of one ablation are."""

    rows: int = 0


@dataclass(frozen=True, eq=False)
class Ablation:
    """What is done to the model."""

    kind: Kind
    block: Block | None = None
    strength: float = 0.0

    def applied(
        self, blocks: Sequence[Block], seed: int, done: Done
    ) -> AbstractContextManager[None]:
        """Passes in which it is done."""
        if self.kind == "noise":
            return _noisy(blocks, self.strength, seed, done)
        if self.block is None:
            return nullcontext()
        remove = without_attention if self.kind == "attention" else without_feed_forward
        return remove(self.block)


@dataclass(frozen=True, eq=False)
class Group:
    """Windows of one kind and what became of them."""

    clusters: Ints
    """(N,)."""
    exact: Bools
    """(A,N) whether every suffix token is the greedy choice."""
    matched: Floats
    """(A,N) share of the suffix tokens that are, each after the true ones before it."""
    nll: Floats
    """(A,N) of the suffix, nats/token."""

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def rise(self) -> Floats:
        """(A,N) of the suffix NLL over that of the intact model, nats/token."""
        return np.asarray(self.nll - self.nll[0])

    def take(self, rows: Bools) -> Group:
        """Some of the windows."""
        return Group(
            self.clusters[rows], self.exact[:, rows], self.matched[:, rows], self.nll[:, rows]
        )


@dataclass(frozen=True, eq=False)
class Ablated:
    """All that was read."""

    ablations: Sequence[Ablation]
    extracted: Group
    """Windows that ``none`` extracted in the run, and the intact model here too."""
    unstable: int
    """Windows that it extracted in the run, and not here: near-ties."""
    others: Group
    """Windows that it did not extract."""
    controls: Group
    """Empty where the run had none."""
    withheld: frozenset[str] = frozenset()
    """Names of groups that are too small for figures of them, and so are empty."""

    @property
    def skill(self) -> Group:
        """Windows by which skill is measured: controls, or windows that are not extracted."""
        return self.controls if len(self.controls) else self.others


def all_ablations(blocks: Sequence[Block]) -> list[Ablation]:
    """None at all; each block's attention and feed-forward part, where they can be; noise."""
    parts: list[Ablation] = [Ablation("intact")]
    parts += [Ablation("attention", one) for one in blocks if one.attention is not None]
    parts += [Ablation("feed-forward", one) for one in blocks if one.has_feed_forward]
    return parts + [Ablation("noise", strength=strength) for strength in NOISE]


def ablate(
    subject: Subject, blocks: Sequence[Block], windows: int, seed: int, progress: Progress
) -> Ablated:
    """Read at most so many windows of each group under every ablation."""
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
    found: list[Found] = []
    with progress.stage("ablations", len(ablations) * len(ids)) as advance:
        for ablation in ablations:
            done = Done()

            def count(rows: int, done: Done = done) -> None:
                done.rows += rows
                advance(rows)

            with ablation.applied(blocks, seed, done):
                found.append(passes.read(ids, _read, count))
    extracted, others, *rest = _split(parts, found)
    stable = extracted.exact[0] if len(extracted) else np.zeros(0, dtype=bool)
    groups = {
        "extracted": extracted.take(stable),
        "not extracted": others,
        "controls": rest[0] if rest else others.take(np.zeros(len(others), dtype=bool)),
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
        others=groups["not extracted"],
        controls=groups["controls"],
        withheld=frozenset(withheld),
    )


def _read(one: Pass) -> Mapping[str, Tensor]:
    hits = most_likely(one.logits) == one.tokens.to(one.logits.device)
    return {
        "exact": hits.all(dim=1),
        "matched": hits.double().mean(dim=1),
        "nll": -log_likelihood(one.logits, one.tokens).double().mean(dim=1),
    }


def _split(parts: Sequence[Part], found: Sequence[Found]) -> Iterator[Group]:
    start = 0
    for part in parts:
        rows = slice(start, start + len(part))
        start += len(part)
        yield Group(
            part.clusters,
            *(np.stack([one[name][rows] for one in found]) for name in ("exact", "matched", "nll")),
        )


@contextmanager
def _noisy(blocks: Sequence[Block], strength: float, seed: int, done: Done) -> Iterator[None]:
    """Passes with noise added to what every block gives, the same for a window in any batch."""
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
    """Of the noise of one window on one device."""
    key = np.random.SeedSequence([seed, row, device.index or 0])
    return torch.Generator(device=device).manual_seed(int(key.generate_state(1)[0]))
