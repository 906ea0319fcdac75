"""Adapters of every kind that PEFT has, over models of every architecture.

Run as a program it prints a table of what an audit does with each:
``PYTHONPATH=tests python tests/support/adapters.py``.
The kinds are read from PEFT's own mapping, so that a kind that a newer PEFT adds is tried too.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ARCHITECTURES, build_model, build_tokenizer, save_model

TOKENS = 24
TASK = {"task_type": "CAUSAL_LM"}
SETTINGS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 9},
    "ADAMSS": {"r": 4, "num_subspaces": 2, "subspace_rank": 1},
    "ADAPTION_PROMPT": {"target_modules": None, "adapter_len": 4, "adapter_layers": 1},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 16},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "IA3": {"feedforward_modules": []},
    "LILY": {"r": 2, "stride_A": 1, "num_B": 2},
    "LN_TUNING": {"target_modules": None},
    "MISS": {"r": 2},
    "OFT": {"r": 0, "oft_block_size": 4},
    "POLY": {"r": 2, "n_tasks": 2, "n_skills": 2},
    "ROAD": {"group_size": 8},
    "TRAINABLE_TOKENS": {"target_modules": None, "token_indices": [5, 7]},
    "VBLORA": {"r": 1, "num_vectors": 4, "vector_length": 8, "topk": 2},
    "WAVEFT": {"n_frequency": 16},
    "XLORA": {"hidden_size": 32},
}
"""What a kind needs beside its defaults at this size; None for a setting that it is not given."""
SOFT_PROMPT = "is a soft prompt itself"
REFUSED = {
    "CARTRIDGE": SOFT_PROMPT,
    "CPT": SOFT_PROMPT,
    "LILY": "not causal",
    "LORA, activated": "acts on input_ids",
    "MULTITASK_PROMPT_TUNING": SOFT_PROMPT,
    "POLY": "refuses input_ids (task_ids should not be None.)",
    "PREFIX_TUNING": SOFT_PROMPT,
    "PROMPT_TUNING": SOFT_PROMPT,
    "PVERA, sampling": "samples at random",
    "P_TUNING": SOFT_PROMPT,
    "SHADOW": "refuses input_ids",
    "XLORA": "adapters that lie elsewhere",
}
"""Kinds that cannot be audited over a Llama, in the words of the refusal; all others can."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LORA, activated": ("LORA", {"alora_invocation_tokens": [41, 42]}),
    "LORA, rows trained": ("LORA", {"trainable_token_indices": [5, 7]}),
    "LORA, DoRA": ("LORA", {"use_dora": True}),
    "LORA, bias": ("LORA", {"lora_bias": True}),
    "PVERA, sampling": ("PVERA", {"sample_at_inference": True}),
}
"""Further forms of a kind."""


@dataclass(frozen=True)
class Outcome:
    """What became of one adapter."""

    word: str
    """``audited``, ``refused``, ``PEFT cannot build it``; ``WRONG`` where an audit is of another
    model than was saved."""
    detail: str = ""
    difference: float = float("nan")
    """Largest between logits by ids and through embeddings, adapter on or off."""


def kinds() -> dict[str, tuple[str, dict[str, Any]]]:
    """Label -> PEFT's name and the settings, of every kind that the installed PEFT has."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    names = [kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING]
    return {name: (name, {}) for name in names} | {
        label: (name, more) for label, (name, more) in VARIANTS.items() if name in names
    }


def config_of(name: str, settings: dict[str, Any]) -> Any:
    """A small config of a kind, which targets every linear layer where it has targets at all."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    made = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}[name]
    fields = made.__dataclass_fields__
    given: dict[str, Any] = {"r": 2, "target_modules": "all-linear", "num_virtual_tokens": 4}
    given = {key: value for key, value in given.items() if key in fields}
    given |= SETTINGS.get(name, {}) | settings
    return made(**{key: value for key, value in given.items() if value is not None}, **TASK)


def adapted(architecture: str, base: Path, label: str) -> Any:
    """A PEFT model over the architecture, every number of its adapter moved."""
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        return _moved(architecture, base, label).eval()


def _moved(architecture: str, base: Path, label: str) -> Any:
    import peft
    import torch

    name, settings = kinds()[label]
    model = build_model(architecture)
    model.name_or_path = str(base)
    config = config_of(name, settings)
    if architecture == "mamba" and hasattr(config, "exclude_modules"):
        config.exclude_modules = ["out_proj"]  # PEFT does not take it
    if name == "XLORA":  # mixes adapters that lie elsewhere
        model.config.use_cache = False
        _moved(architecture, base, "LORA").save_pretrained(base.parent / "mixed")
        config.adapters = {"0": str(base.parent / "mixed")}
    if name == "LN_TUNING":
        norms = [key for key, part in model.named_modules() if "Norm" in type(part).__name__]
        config.target_modules = sorted({key.rpartition(".")[2] for key in norms})
    made = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return made


def ids_of(checkpoint: Any) -> Any:
    """(1, TOKENS) token ids, with an activated LoRA's invocation and the rows trained."""
    import torch

    from memaudit.target.softprompt_check import random_ids

    ids = random_ids(checkpoint, 1, TOKENS)
    ids[0, 4:8] = torch.tensor([41, 42, 5, 7])
    return ids


def try_adapter(architecture: str, base: Path, label: str, folder: Path) -> Outcome:
    """Build, save, load and check one adapter; compare it with the model that was saved."""
    import torch

    from memaudit.config.settings import TargetSettings
    from memaudit.errors import TargetError
    from memaudit.target.adapters import without_adapter
    from memaudit.target.checkpoint import load_checkpoint
    from memaudit.target.softprompt_check import check_soft_prompts

    try:
        model = adapted(architecture, base, label)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(folder)
    except Exception as error:
        return Outcome("PEFT cannot build it", " ".join(str(error).split()))
    try:
        checkpoint = load_checkpoint(str(folder), TargetSettings(device="cpu"))
        check_soft_prompts(checkpoint)
    except TargetError as error:
        return Outcome("refused", str(error).partition(": ")[2])
    ids = ids_of(checkpoint)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = model(input_ids=ids).logits
        by_ids = checkpoint.model(input_ids=ids).logits
        by_vectors = checkpoint.model(inputs_embeds=checkpoint.embed(ids)).logits
        packed = checkpoint.prepacked.model(inputs_embeds=checkpoint.embed(ids)).logits
        with without_adapter(checkpoint.model):
            off = checkpoint.model(input_ids=ids).logits
            off_by_vectors = checkpoint.model(inputs_embeds=checkpoint.embed(ids)).logits
    difference = max(
        float((one - two).abs().max()) for one, two in [(by_ids, by_vectors), (off, off_by_vectors)]
    )
    for what, logits in [("saved", by_ids), ("prepacked", packed), ("embedded", by_vectors)]:
        if not torch.allclose(logits, saved, rtol=1e-4, atol=1e-3):
            return Outcome("WRONG", f"{what} {float((logits - saved).abs().max()):.2g}", difference)
    if torch.allclose(by_ids, off, atol=1e-3):
        return Outcome("WRONG", "changes nothing", difference)
    return Outcome("audited", "", difference)


def main(chosen: list[str]) -> None:
    """Print the table of the architectures that are named, or of all."""
    import logging

    logging.disable(logging.WARNING)
    rows = chosen or list(ARCHITECTURES)
    for architecture in rows:
        with tempfile.TemporaryDirectory() as place:
            base = save_model(build_model(architecture), build_tokenizer(), Path(place) / "base")
            for label in kinds():
                outcome = try_adapter(architecture, base, label, Path(place) / "a" / label)
                shown = (
                    "" if outcome.difference != outcome.difference else f"{outcome.difference:.1e}"
                )
                cells = (architecture, label, outcome.word, shown, outcome.detail)
                sys.stdout.write(f"| {' | '.join(cells)} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
