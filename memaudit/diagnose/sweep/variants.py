"""Prompts to fit, each with one setting varied.

Knows the settings of a finished run and how a variant departs from them. Knows no model and loads
no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.config.settings import ConstantSettings, DynamicSettings, ScanConfig

FittedName = Literal["constant", "dynamic"]
BUDGET = (
    *("epochs", "min_steps", "batch_size", "windows_per_pass", "schedule", "warmup"),
    *("patience", "loss", "focus", "fit_share", "precision", "weight_decay", "clip_norm"),
)
"""Settings that ``constant`` takes from ``dynamic``, for equal windows, steps and stops."""
RANDOM = "dynamic, random start"


@dataclass(frozen=True)
class Variant:
    """Settings of one prompt, fitted in every fold."""

    name: str
    """Description without V and seed."""
    attack: FittedName
    virtual_tokens: int
    """V."""
    seed: int
    """Added to the run's seed: 0 repeats the run's start and order."""
    config: ScanConfig
    """The run's settings with the variation applied."""


def plan_variants(config: ScanConfig, lengths: Sequence[int], seeds: int) -> list[Variant]:
    """Plan every V for both attacks; at the run's V also seeds, starts, depths, low-rank changes.

    lengths: V's that the model has positions for; the run's own is among them.
    """
    own = config.dynamic.num_virtual_tokens
    base = _Maker(config)
    wanted = [base.constant(v) for v in lengths] + [base.dynamic(v) for v in lengths]
    for seed in range(seeds):
        repeated = _Maker(config, seed)
        wanted += [repeated.constant(own), repeated.dynamic(own)] if seed else []
        wanted.append(repeated.dynamic(own, RANDOM, initialisation="random"))
    depth = 2 if config.dynamic.depth == 1 else 1
    wanted.append(base.dynamic(own, f"dynamic, depth {depth}", depth=depth))
    if config.dynamic.low_rank:
        rank = config.dynamic.low_rank
        wanted.append(base.constant(own, f"constant, low rank {rank}", low_rank=rank))
        wanted.append(base.dynamic(own, "dynamic, no low rank", low_rank=0))
    return wanted


@dataclass(frozen=True)
class _Maker:
    """Variants with one seed."""

    run: ScanConfig
    seed: int = 0

    def constant(self, virtual: int, name: str = "constant", **changes: object) -> Variant:
        """Return ``constant`` with the budget of ``dynamic``."""
        return self._make(name, "constant", virtual, changes)

    def dynamic(self, virtual: int, name: str = "dynamic", **changes: object) -> Variant:
        """Return ``dynamic`` with an identity start."""
        return self._make(name, "dynamic", virtual, {"initialisation": "identity", **changes})

    def _make(
        self, name: str, attack: FittedName, virtual: int, changes: dict[str, object]
    ) -> Variant:
        same = {key: getattr(self.run.dynamic, key) for key in BUDGET}
        constant = self.run.constant.model_dump() | same | {"num_virtual_tokens": virtual}
        dynamic = self.run.dynamic.model_dump() | {"num_virtual_tokens": virtual}
        if attack == "constant":
            constant |= changes
        else:
            dynamic |= changes
        protocol = self.run.protocol.model_copy(update={"seed": self.run.protocol.seed + self.seed})
        update = {
            "attacks": ("none", attack),
            "generator": None,
            "protocol": protocol,
            "constant": ConstantSettings.model_validate(constant),
            "dynamic": DynamicSettings.model_validate(dynamic),
        }
        return Variant(name, attack, virtual, self.seed, self.run.model_copy(update=update))
