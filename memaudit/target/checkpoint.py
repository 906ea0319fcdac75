"""The target: a frozen causal language model, its tokenizer, and what was chosen for them.

Knows how device, dtype and BOS are chosen, and keeps the reason of each choice for the report.
Knows nothing of windows, prompts or scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memaudit.config import TargetSettings
from memaudit.data.encoding import leading_ids
from memaudit.errors import TargetError, UsageError
from memaudit.file_hash import file_sha256
from memaudit.target.failures import explained
from memaudit.target.loading import Placement, load_config, load_model, load_tokenizer_of
from memaudit.target.source import Source, find_source, local_folder, read_files

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Choice:
    """Something that was resolved, and why it came out so."""

    value: str
    reason: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A target that is ready to be audited."""

    model: Any
    """PreTrainedModel or PeftModel: in eval mode, no parameter with a gradient."""
    tokenizer: Any
    name: str
    """As the user named it."""
    device: torch.device
    dtype: torch.dtype
    """Of the embedding, and so of every soft prompt given to the model."""
    bos_id: int | None = None
    """Token that every input starts with; None where inputs start with their own first token."""
    revision: str | None = None
    """Commit on the hub; None for a local target."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256, of every file that was read; an adapter's base under ``base/``."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """What was resolved (device, dtype, bos, format, ...) -> how and why."""

    @property
    def width(self) -> int:
        """D: numbers in one input embedding."""
        return int(self.embed(torch.zeros(1, 1, dtype=torch.long, device=self.device)).shape[-1])

    @property
    def vocabulary(self) -> int:
        """X: rows of the input embedding. May be more than the tokenizer has entries."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def max_tokens(self) -> int | None:
        """Positions the model has, in tokens; None where its config sets no limit."""
        config = self.model.config.get_text_config(decoder=True)
        try:
            positions = getattr(config, "max_position_embeddings", None)
        except NotImplementedError:  # how XLNet's config says that there is no limit
            return None
        return positions if isinstance(positions, int) and positions > 0 else None

    @property
    def num_parameters(self) -> int:
        """Weights of the model, its adapter included, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of tokens as the model's ``inputs_embeds`` wants them.

        Args:
            ids: (B, T) long, on ``device``.

        Returns:
            (B, T, D) in ``dtype``.
        """
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def check_ids(self, ids: npt.NDArray[np.integer[Any]]) -> None:
        """Refuse token ids that the model has no embedding for, before they reach a kernel.

        Raises:
            TargetError: an id is not below ``vocabulary``.
        """
        highest = int(ids.max(initial=-1))
        if highest >= self.vocabulary:
            raise TargetError(
                f"{self.name}: the tokenizer gives id {highest} and the model has embeddings for "
                f"{self.vocabulary}; use the tokenizer the model was trained with"
            )


def load_tokenizer(model: str, settings: TargetSettings) -> Any:
    """The tokenizer of ``model``, without touching its weights.

    Raises:
        UsageError: a setting that does not go with what ``model`` is.
        TargetError: there is no such model, or its tokenizer cannot be loaded.
    """
    return load_tokenizer_of(find_source(model, settings), settings)


def load_checkpoint(model: str, settings: TargetSettings, tokenizer: Any = None) -> Checkpoint:
    """Load, freeze and fingerprint the model under audit.

    Args:
        model: hub id, local folder, ``.gguf`` file, or PEFT adapter folder.
        settings: how to load it.
        tokenizer: what ``load_tokenizer`` gave for the same ``model``; loaded here where absent.

    Raises:
        UsageError: a device that is not there, or a setting that does not fit the model.
        TargetError: the model cannot be loaded, or is not a causal language model.
    """
    device, device_choice = choose_device(settings.device)
    source = find_source(model, settings)
    config = load_config(source, settings)
    dtype, dtype_choice = choose_dtype(settings.dtype, device, config)
    if tokenizer is None:
        tokenizer = load_tokenizer_of(source, settings)
    bos_id, bos_choice = choose_bos(settings.bos, tokenizer)
    loaded = load_model(source, settings, config, Placement(device, dtype))
    with explained(model):
        fingerprint = fingerprint_of(source, settings)
        revision = _commit(source)
    checkpoint = Checkpoint(
        model=loaded,
        tokenizer=tokenizer,
        name=model,
        device=device,
        dtype=loaded.get_input_embeddings().weight.dtype,
        bos_id=bos_id,
        revision=revision,
        fingerprint=fingerprint,
        choices={
            "device": device_choice,
            "dtype": dtype_choice,
            "bos": bos_choice,
            **_trust_choices(source, settings, fingerprint),
        },
    )
    if bos_id is not None:
        checkpoint.check_ids(np.array([bos_id]))
    return checkpoint


def choose_device(asked: str) -> tuple[torch.device, Choice]:
    """The device to run on. One that was named is obeyed; only ``auto`` falls back.

    Raises:
        UsageError: no such device here.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), Choice("cuda", "auto: a CUDA device is there")
        if torch.backends.mps.is_available():
            return torch.device("mps"), Choice("mps", "auto: Apple's GPU is there, CUDA is not")
        return torch.device("cpu"), Choice("cpu", "auto: neither CUDA nor MPS is there")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"--device {asked}: use auto, cpu, cuda, cuda:N or mps") from error
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= there.get(device.type, 0):
        have = ", ".join(f"{count} {kind}" for kind, count in there.items() if count)
        raise UsageError(f"--device {asked}: not on this machine (it has {have}); or use auto")
    return device, Choice(asked, "asked for")


def choose_dtype(asked: str, device: torch.device, config: Any) -> tuple[torch.dtype, Choice]:
    """The number format to run in.

    On the CPU, and wherever the checkpoint is not in half precision, it is float32: in bfloat16
    two tokens can tie, and then a verdict hangs on the shape of the batch it was in.
    """
    if asked != "auto":
        return getattr(torch, asked), Choice(asked, "asked for")
    stored = getattr(config.get_text_config(decoder=True), "dtype", None)
    if device.type != "cuda":
        why = "auto: off CUDA, so that no verdict hangs on a tie in half precision"
    elif stored not in HALF:
        why = "auto: the checkpoint is not in half precision"
    elif not torch.cuda.is_bf16_supported(including_emulation=False):
        why = "auto: the CUDA device does not compute in bfloat16"
    else:
        return torch.bfloat16, Choice("bfloat16", "auto: the checkpoint is in half precision")
    return torch.float32, Choice("float32", why)


def choose_bos(asked: str, tokenizer: Any) -> tuple[int | None, Choice]:
    """The token every input starts with: what the tokenizer itself does, unless told otherwise.

    Raises:
        UsageError: BOS was asked for and the tokenizer has none.
        TargetError: the tokenizer puts more than one token first, and nothing was asked for.
    """
    bos_id = tokenizer.bos_token_id
    if asked == "yes":
        if bos_id is None:
            raise UsageError("--bos yes: the tokenizer has no BOS token; use auto or no")
        return int(bos_id), Choice("yes", "asked for")
    if asked == "no":
        return None, Choice("no", "asked for")
    lead = leading_ids(tokenizer)
    if len(lead) > 1:
        raise TargetError(
            f"the tokenizer puts {len(lead)} tokens before a text, and memaudit can put one; "
            "choose with --bos yes or --bos no"
        )
    if not lead:
        return None, Choice("no", "auto: the tokenizer adds none")
    kind = "BOS" if lead[0] == bos_id else "special"
    return lead[0], Choice("yes", f"auto: the tokenizer adds its {kind} token")


def fingerprint_of(source: Source, settings: TargetSettings) -> dict[str, str]:
    """The SHA-256 of every weight, adapter, tokenizer, template, config and code file read."""
    folder = local_folder(source)
    found = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in read_files(source, folder, settings.allow_pickle)
    }
    if source.base is not None:
        base = fingerprint_of(source.base, settings)
        found |= {f"base/{name}": digest for name, digest in base.items()}
    return found


def _commit(source: Source) -> str | None:
    """The commit of a source on the hub: its cache keeps one folder for each."""
    return local_folder(source).name if source.kind == "hub" else source.revision


def _trust_choices(
    source: Source, settings: TargetSettings, fingerprint: Mapping[str, str]
) -> dict[str, Choice]:
    """What was read, and which safeguards were lifted by flag."""
    pickled = any(Path(name).suffix == ".bin" for name in fingerprint)
    safe = any(Path(name).suffix == ".safetensors" for name in fingerprint)
    weights = "gguf" if source.weights.kind == "gguf" else "safetensors" if safe else "pickle"
    reason = "unpacked to full numbers" if weights == "gguf" else "found there"
    if source.base is not None:
        weights, reason = f"{weights}, adapter", "the adapter is kept unmerged over its base"
    choices = {"format": Choice(weights, reason)}
    if pickled:
        choices["pickle"] = Choice("allowed", "--allow-pickle was given")
    if settings.trust_remote_code:
        choices["remote_code"] = Choice("allowed", "--trust-remote-code was given")
    return choices
