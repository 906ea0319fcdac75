"""The target: a frozen causal language model, its tokenizer, and the choices made for them.

Knows how device, dtype and BOS are chosen, and keeps the reason for each choice for the report.
Knows nothing about windows, prompts or scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memaudit.config.settings import TargetSettings
from memaudit.data.bos import BosSource, leading_ids
from memaudit.errors import TargetError, UsageError
from memaudit.target.attention import describe_attention, replace_attention
from memaudit.target.failures import explained, lacks_memory
from memaudit.target.hub_kernels import kernels_allowed, switch_kernels
from memaudit.target.loading import LoadedModel, load_config, load_model, load_tokenizer_of
from memaudit.target.openings import Openings, hash_file, watched
from memaudit.target.placement import (
    Choice,
    Placement,
    choose_device,
    choose_dtype,
    describe_spread,
    input_device,
    place,
    places_of,
    spread,
    waits_elsewhere,
)
from memaudit.target.prepacking import PREPACKED, choose_prepacking, prepacked_copy
from memaudit.target.quantization import Quantization, find_quantization, unpacked_size
from memaudit.target.refusals import refusal
from memaudit.target.source import Source, find_source, local_folder, read_files, ready_source
from memaudit.target.text_files import private_copy
from memaudit.target.unused_weights import describe_unused

HASHES = "memaudit_hashes"
"""Attribute of a tokenizer: hashes of the files it was read from."""
MAX_LEFTOVERS = 20
"""Most unread weights files that the report names."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A target that is ready for an audit."""

    model: Any
    """PreTrainedModel or PeftModel, in eval mode, with no trainable parameter."""
    tokenizer: Any
    name: str
    """Name that the user gave."""
    device: torch.device
    """Device of inputs and logits."""
    dtype: torch.dtype
    """Number format of the embedding, and so of every soft prompt."""
    bos_id: int | None = None
    """Token that every input starts with; None if inputs start with their own first token."""
    revision: str | None = None
    """Commit on the hub; None for a local target."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256, for every file that was read; an adapter's base under ``base/``."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Property resolved at load time (device, dtype, bos, format, ...) -> its value and reason."""
    quantization: Quantization | None = None
    """How the weights are quantised; None if they are not."""
    prepacks: bool = False
    """True if passes use prepacked weights."""
    replaces_base: bool = False
    """True if an adapter's file also replaces whole weights of its base."""
    openings: Openings | None = None
    """Files that were read, with their state then, to detect later changes."""

    def require_unchanged(self) -> None:
        """Raise TargetError if a file in the fingerprint has changed since it was hashed."""
        if self.openings is not None:
            self.openings.require_same()

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
        """Positions of the model, in tokens; None if its config sets no limit."""
        return _max_tokens(self.model.config)

    @property
    def num_parameters(self) -> int:
        """Weights of the model, its adapter included, tied ones counted once."""
        return sum(unpacked_size(parameter) for parameter in self.model.parameters())

    @property
    def precision(self) -> torch.dtype:
        """Number format that gives the accuracy of logits.

        Coarser than ``dtype`` if a quantised target rounds its layers' inputs.
        """
        rounds = self.quantization is not None and self.quantization.rounds_inputs
        return torch.bfloat16 if rounds else self.dtype

    @property
    def is_packed(self) -> bool:
        """True if the weights stay quantised in use."""
        return self.quantization is not None and not self.quantization.unpacked

    @property
    def is_spread(self) -> bool:
        """True if the layers are in several places."""
        return bool(places_of(self.model))

    @property
    def is_offloaded(self) -> bool:
        """True if some weights are fetched for each pass and released after it."""
        return waits_elsewhere(self.model)

    @cached_property
    def prepacked(self) -> Checkpoint:
        """Target for passes without gradients, around the same weights.

        The linear layers are prepacked if that was chosen and the model can be copied.
        """
        copied = prepacked_copy(self.model) if self.prepacks else None
        return self if copied is None else replace(self, model=copied)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens, as the model's ``inputs_embeds`` expects them.

        Args:
            ids: (B, T) long, on ``device``.

        Returns:
            (B, T, D) in ``dtype``.
        """
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def check_ids(self, ids: npt.NDArray[np.integer[Any]]) -> None:
        """Refuse token ids without an embedding, before they reach a kernel.

        Raises:
            TargetError: an id is not below ``vocabulary``.
        """
        highest = int(ids.max(initial=-1))
        if highest >= self.vocabulary:
            raise refusal(
                self.name,
                f"the tokenizer gives id {highest} and the model has embeddings for "
                f"{self.vocabulary}; use the tokenizer the model was trained with",
            )


def load_tokenizer(model: str, settings: TargetSettings) -> Any:
    """Load the tokenizer of ``model`` without touching its weights.

    Raises:
        UsageError: a setting does not fit this kind of model.
        TargetError: there is no such model, or its tokenizer cannot be loaded.
    """
    switch_kernels(settings)  # a rehearsal builds the model
    with watched(model, allow_pickle=settings.allow_pickle) as openings:
        source = find_source(model, settings)
        with private_copy(source, settings) as copied:
            tokenizer = load_tokenizer_of(copied, settings)
    setattr(tokenizer, HASHES, openings.hashes)
    return tokenizer


def load_max_tokens(model: str, settings: TargetSettings) -> int | None:
    """Return the positions of ``model`` from its config; None if that sets no limit.

    Raises as `load_tokenizer`.
    """
    with watched(model, allow_pickle=settings.allow_pickle):
        source = find_source(model, settings)
        with private_copy(source, settings) as copied:
            return _max_tokens(load_config(copied, settings))


def _max_tokens(config: Any) -> int | None:
    try:
        positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    except NotImplementedError:  # how XLNet's config says that there is no limit
        return None
    return positions if isinstance(positions, int) and positions > 0 else None


def load_checkpoint(
    model: str,
    settings: TargetSettings,
    tokenizer: Any = None,
    bos_source: BosSource = "tokenizer",
) -> Checkpoint:
    """Load, freeze and fingerprint the model under audit.

    Args:
        model: hub id, local folder, ``.gguf`` file, or PEFT adapter folder.
        settings: how to load it.
        tokenizer: result of ``load_tokenizer`` for the same ``model``; loaded here if absent.
        bos_source: source that decides on BOS for the audited text.

    Raises:
        UsageError: a device is missing, or a setting does not fit the model.
        TargetError: the model cannot be loaded, or is not a causal language model; or the files
            opened are not those that its fingerprint names.
    """
    switch_kernels(settings)
    with watched(model, allow_pickle=settings.allow_pickle) as openings:
        for path, known in getattr(tokenizer, HASHES, {}).items():
            openings.add_hash(path, *known)
        checkpoint = _checkpoint(model, settings, tokenizer, bos_source)
    openings.require_unchanged()
    return replace(checkpoint, openings=openings)


def _checkpoint(
    model: str, settings: TargetSettings, tokenizer: Any, bos_source: BosSource
) -> Checkpoint:
    device, device_choice = choose_device(settings.device)
    source = ready_source(find_source(model, settings))
    with private_copy(source, settings) as copied:
        config = load_config(copied, settings)
        if tokenizer is None:
            tokenizer = load_tokenizer_of(copied, settings)
    config.name_or_path = source.weights.location
    dtype, dtype_choice = choose_dtype(settings.dtype, device, config)
    kernels = kernels_allowed(settings)
    attention = replace_attention(config, device, dtype, kernels=kernels)
    bos_id, bos_choice = choose_bos(settings.bos, tokenizer, bos_source)
    quantization = find_quantization(source, settings, config, dtype)
    as_stored = quantization is not None and quantization.stays_stored
    placement = place(settings, config, device, dtype, size_known=not as_stored)
    outcome, placement = _load(source, settings, config, placement, quantization)
    loaded = outcome.model
    dtype = loaded.get_input_embeddings().weight.dtype
    quantized = quantization is not None and not quantization.unpacked
    prepacking = choose_prepacking(settings.prepack, loaded, dtype, quantized=quantized)
    checkpoint = Checkpoint(
        model=loaded,
        tokenizer=tokenizer,
        name=model,
        device=input_device(loaded, placement),
        dtype=dtype,
        bos_id=bos_id,
        revision=source.revision,
        fingerprint=fingerprint_of(source, settings),
        choices={
            "device": describe_spread(loaded, placement) or device_choice,
            "dtype": dtype_choice,
            "bos": bos_choice,
            **({"weights": prepacking} if prepacking else {}),
            **_quantization_choice(quantization),
            **describe_attention(loaded, attention),
            **_trust_choices(source, settings),
            **describe_unused(outcome.unused),
        },
        quantization=quantization,
        prepacks=prepacking is not None and prepacking.value == PREPACKED,
        replaces_base=outcome.replaces_base,
    )
    if bos_id is not None:
        checkpoint.check_ids(np.array([bos_id]))
    return checkpoint


def _load(
    source: Source,
    settings: TargetSettings,
    config: Any,
    placement: Placement,
    quantization: Quantization | None,
) -> tuple[LoadedModel, Placement]:
    """Load the model; spread it if an automatically chosen device is too small."""
    try:
        return load_model(source, settings, config, placement, quantization), placement
    except TargetError as error:
        if settings.device != "auto" or placement.room is not None or not lacks_memory(error):
            raise
    device, dtype = placement.device, placement.dtype
    wider = spread(device, dtype, settings, f"auto: memory ran out on {device}")
    return load_model(source, settings, config, wider, quantization), wider


def _quantization_choice(quantization: Quantization | None) -> dict[str, Choice]:
    if quantization is None:
        return {}
    return {"quantization": Choice(quantization.name, quantization.reason)}


def choose_bos(
    asked: str, tokenizer: Any, source: BosSource = "tokenizer"
) -> tuple[int | None, Choice]:
    """Choose the token that every input starts with: by the setting, else by ``source``.

    Raises:
        UsageError: the setting asks for BOS and the tokenizer has none.
        TargetError: the setting is ``auto``, and the tokenizer puts several tokens first or does
            not show how many.
    """
    bos_id = tokenizer.bos_token_id
    if asked == "yes":
        if bos_id is None:
            raise UsageError("--bos yes: the tokenizer has no BOS token; use auto or no")
        return int(bos_id), Choice("yes", "asked for")
    if asked == "no":
        return None, Choice("no", "asked for")
    if source == "template":
        return None, Choice("no", "auto: the chat template writes none")
    if source == "text":
        return None, Choice("no", "auto: every window begins with its own BOS")
    lead = leading_ids(tokenizer)
    if lead is None:
        raise refusal(
            "the tokenizer",
            "it does not show whether it puts BOS before a text; choose with --bos yes or --bos no",
        )
    if len(lead) > 1:
        raise refusal(
            "the tokenizer",
            f"it puts {len(lead)} tokens before a text, and memaudit supports one; choose with "
            "--bos yes or --bos no",
        )
    if not lead:
        return None, Choice("no", "auto: the tokenizer adds none")
    kind = "BOS" if lead[0] == bos_id else "special"
    return lead[0], Choice("yes", f"auto: the tokenizer adds its {kind} token")


def fingerprint_of(
    source: Source, settings: TargetSettings, *, tokenizer: bool = True
) -> dict[str, str]:
    """Return the SHA-256 of every weight, adapter, tokenizer, template, config and code file read.

    Args:
        source: source of the target.
        settings: whether the checkpoint's own code may run, which can read any of its files.
        tokenizer: whether the tokenizer comes from ``source``; an adapter may bring its own.

    Raises:
        TargetError: a file cannot be read.
    """
    folder = local_folder(source)
    own_code = settings.trust_remote_code
    with explained(source.name):
        files = {
            path.relative_to(folder).as_posix(): hash_file(path)
            for path in read_files(source, own_code=own_code, tokenizer=tokenizer)
        }
    if source.base is not None:
        base = fingerprint_of(source.base, settings, tokenizer=not source.brings_tokenizer)
        files |= {f"base/{name}": digest for name, digest in base.items()}
    return files


def _trust_choices(source: Source, settings: TargetSettings) -> dict[str, Choice]:
    """Return the formats read, and the safeguards that a flag lifted."""
    parts = [source] if source.base is None else [source, source.base]
    weights, reason = "safetensors", "found in the checkpoint"
    if source.weights.kind == "gguf":
        weights, reason = "gguf", "unpacked to full numbers"
    elif source.weights.stored.is_pickled:
        weights = "pickle"
    if source.base is not None:
        weights, reason = f"{weights}, adapter", "the adapter stays unmerged over its base"
    if unread := [file for part in parts for file in part.stored.unread]:
        named, more = unread[:MAX_LEFTOVERS], len(unread) - MAX_LEFTOVERS
        reason += f"; not read: {', '.join(named)}" + (f" and {more} more" if more > 0 else "")
    choices = {"format": Choice(weights, reason)}
    if source.weights.prefix:
        choices["weight_names"] = Choice(
            f"without {source.weights.prefix}",
            "added by DistributedDataParallel or torch.compile",
        )
    if any(part.stored.is_pickled for part in parts):
        choices["pickle"] = Choice("allowed", "--allow-pickle was given")
    if settings.trust_remote_code:
        choices["remote_code"] = Choice("allowed", "--trust-remote-code was given")
    return choices
