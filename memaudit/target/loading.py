"""Config, tokenizer and weights of a source, loaded by transformers and PEFT.

Knows the arguments that transformers needs for each kind of source. Chooses nothing: device and
dtype come from ``placement`` and ``quantization``.
"""

from __future__ import annotations

import re
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from gguf import GGUFReader
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)

from memaudit.config.settings import TargetSettings
from memaudit.data.bos import own_texts
from memaudit.target.adapters import load_adapter
from memaudit.target.attention import refuse_foreign_code
from memaudit.target.failures import (
    EMPTY_WEIGHTS,
    explained,
    quiet_transformers,
    silent_stdout,
)
from memaudit.target.gguf_header import check_gguf
from memaudit.target.mapped_weights import copy_mapped
from memaudit.target.openings import watched
from memaudit.target.placement import Placement
from memaudit.target.quantization import Quantization, finish, quantised_weights
from memaudit.target.refusals import refusal
from memaudit.target.rehearsal import rehearse
from memaudit.target.sizes import check_sizes
from memaudit.target.source import Source
from memaudit.target.tokenizer_files import check_tokenizer_files
from memaudit.target.tokenizer_limits import check_tokenizer
from memaudit.target.unused_weights import (
    UnusedWeights,
    name_some,
    refuse_unused,
    split_unused,
)

CHAT_TEMPLATE = "chat_template.jinja"


class LoadedModel(NamedTuple):
    """A model, and the use that was made of its files."""

    model: Any
    unused: UnusedWeights
    """Weights in the files that no language model uses."""
    replaces_base: bool
    """True if an adapter also replaced whole weights of its base."""


@contextmanager
def _asked(source: Source, settings: TargetSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the folder and the keyword arguments for loading config, tokenizer and weights.

    A GGUF file is linked alone into a folder for transformers, which would otherwise use the
    tokenizer and the adapter of another model beside it (seen with transformers 5.23).
    """
    asked: dict[str, Any] = {
        "trust_remote_code": settings.trust_remote_code,
        "local_files_only": source.here_only,
    }
    if source.gguf_file is None:
        yield source.location, asked
        return
    path = Path(source.location, source.gguf_file).resolve()
    check_gguf(source.name, path)
    with tempfile.TemporaryDirectory(prefix="memaudit-") as alone:
        Path(alone, source.gguf_file).symlink_to(path)
        yield alone, asked | {"gguf_file": source.gguf_file}


def load_config(source: Source, settings: TargetSettings) -> Any:
    """Load the transformers config of a source, or of its base if it is an adapter.

    Raises:
        TargetError: it is unreadable, unknown to transformers, or not that of a causal language
            model; or it asks for code that was not allowed.
    """
    source = source.weights
    with (
        explained(source.name),
        quiet_transformers(),
        _asked(source, settings) as (location, asked),
    ):
        config = AutoConfig.from_pretrained(location, **asked)
    refuse_foreign_code(source.name, config, settings)
    kind = f"is a {config.model_type} model"
    if getattr(config, "is_encoder_decoder", False):
        raise refusal(
            source.name, f"{kind}, an encoder-decoder; memaudit audits causal language models"
        )
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not own_code:
        raise refusal(
            source.name,
            f"{kind}, which transformers {transformers.__version__} cannot use as a causal "
            f"language model; {_instead_of(config)}",
        )
    return config


def _instead_of(config: Any) -> str:
    """Suggest a model to name instead of an unsupported model."""
    text = config.get_text_config(decoder=True)
    if text is config or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "name a causal language model"
    return f"save the language model in it ({text.model_type}) as a checkpoint and name that"


def load_tokenizer_of(source: Source, settings: TargetSettings) -> Any:
    """Load the tokenizer of a source, after a rehearsal of what its text files ask for.

    An adapter's own tokenizer replaces that of its base; so does its chat template, even if it
    brings nothing else.

    Raises:
        TargetError: it is missing, cannot be read, or exceeds the limits of time or memory.
    """
    rehearse(
        source,
        settings,
        lambda: load_config(source, settings),
        lambda: _load_tokenizer(source, settings),
    )
    return _load_tokenizer(source, settings)


def _load_tokenizer(source: Source, settings: TargetSettings) -> Any:
    asked: dict[str, Any] = {}
    if source.weights.kind != "gguf":  # a GGUF file is slow to read, and its reader needs no config
        asked["config"] = load_config(source, settings)
    template = None
    if source.base is not None and not source.brings_tokenizer:
        template = Path(source.location) / CHAT_TEMPLATE
        source = source.base
    if source.gguf_file is None:
        check_tokenizer_files(source.name, Path(source.location))
    with (
        explained(source.name),
        quiet_transformers(),
        silent_stdout(),
        _asked(source, settings) as (location, more),
    ):
        tokenizer = AutoTokenizer.from_pretrained(location, **asked, **more)
        check_tokenizer(source.name, tokenizer)
        if source.gguf_file is not None:
            _follow_gguf(tokenizer, Path(source.location) / source.gguf_file)
        if template is not None and template.is_file():
            tokenizer.chat_template = template.read_text(encoding="utf-8")
        # From its own vocabulary: a vocabulary of amino acids has no token for an arbitrary letter.
        probes = chain(own_texts(tokenizer), ["a b"])
        empty = not any(tokenizer(text, add_special_tokens=False)["input_ids"] for text in probes)
    if empty:
        raise refusal(
            source.name,
            "its tokenizer gives no tokens, so its files are missing or belong to "
            "another model; put the tokenizer's files beside the weights",
        )
    return tokenizer


def _follow_gguf(tokenizer: Any, path: Path) -> None:
    """Let the tokenizer add BOS if its GGUF file asks for it.

    Not every transformers 5 reads that, and without BOS an audit finds too little.
    """
    if "add_bos_token" in tokenizer.init_kwargs:
        return  # this transformers has read it
    bos_id = gguf_bos_id(path)
    if bos_id is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos_id)
        tokenizer.add_bos_token = True


def gguf_bos_id(path: Path) -> int | None:
    """Return the token that a GGUF file asks for before every text, or None.

    If the file does not say, llama.cpp adds BOS for a SentencePiece vocabulary; this follows it.
    """
    fields = GGUFReader(path).fields
    flag, kind, bos = (
        fields[name].contents() if (name := f"tokenizer.ggml.{key}") in fields else None
        for key in ("add_bos_token", "model", "bos_token_id")
    )
    wanted = kind == "llama" if flag is None else bool(flag)
    return int(bos) if wanted and bos is not None else None


def load_model(
    source: Source,
    settings: TargetSettings,
    config: Any,
    placement: Placement,
    quantization: Quantization | None = None,
) -> LoadedModel:
    """Load the model of a source, frozen and in eval mode; an adapter stays unmerged.

    Args:
        source: source of the model.
        settings: permissions and other settings for loading.
        config: result of ``load_config`` for the same source.
        placement: device and dtype of the weights.
        quantization: result of ``find_quantization`` for the same source.

    Raises:
        TargetError: the weights are missing, damaged, incomplete or too large.
    """
    if not settings.trust_remote_code:  # that code may build anything
        check_sizes(source.weights, config)
    model, unused = _load_weights(source.weights, settings, config, placement, quantization)
    replaces_base = False
    if source.base is not None:
        adapted = load_adapter(source, settings, model, placement)
        model, replaces_base = adapted.model, adapted.replaces_base
        unused = {**unused, **adapted.unused}
    model.requires_grad_(False)
    return LoadedModel(model.eval(), unused, replaces_base)


def _load_weights(
    source: Source,
    settings: TargetSettings,
    config: Any,
    placement: Placement,
    quantization: Quantization | None,
) -> tuple[Any, UnusedWeights]:
    """Load a checkpoint, prove that it filled every weight, and name its unused weights."""
    more: dict[str, Any] = {
        "config": config,
        "dtype": placement.dtype,
        "use_safetensors": not source.stored.is_pickled,
        "ignore_mismatched_sizes": True,  # refused below, with the weight's name
        "output_loading_info": True,
    }
    if source.prefix:
        more |= {"key_mapping": {f"^{re.escape(source.prefix)}": ""}}
    if source.kind == "gguf":
        # Newer transformers may keep the blocks packed, and then no gradient passes through them.
        unpack = getattr(transformers, "GgufConfig", None)
        more |= {"use_safetensors": None}
        more |= {"quantization_config": unpack(dequantize=True)} if unpack else {}
    if quantization is not None and quantization.asked is not None:
        more |= {"quantization_config": quantization.asked}
    with (
        explained(source.name),
        quantised_weights(source.name, quantization),
        quiet_transformers(bars_without_switch=source.kind == "gguf"),
        _placed(placement) as (where, keep),
        _asked(source, settings) as (location, asked),
        watched(source.name, allow_pickle=settings.allow_pickle) as openings,
    ):
        model, info = AutoModelForCausalLM.from_pretrained(location, **asked, **more, **where)
        keep(model)
    openings.require_exactly(source.weights_files)
    copy_mapped(model, source.weights_files)
    if quantization is not None:
        finish(model, source.name, quantization)
    _check_filled(source, model, info, quantization)
    return model, _check_unused(source, model, info["unexpected_keys"], config)


def _check_filled(
    source: Source, model: Any, info: Mapping[str, Any], quantization: Quantization | None
) -> None:
    """Refuse a model of which the checkpoint did not fill every weight."""
    if info["mismatched_keys"]:
        names = {str(name) for name, *_ in info["mismatched_keys"]}
        if any(0 in shape for _, shape, _ in info["mismatched_keys"]):
            raise refusal(source.name, EMPTY_WEIGHTS)
        raise refusal(
            source.name,
            f"weights of other shapes than config.json gives ({name_some(names)}); "
            "the config belongs to another checkpoint",
        )
    scales = [name for name in info["unexpected_keys"] if "scale" in name or "absmax" in name]
    if quantization is not None and scales:
        raise refusal(
            source.name,
            f"holds scales of weights that {quantization.name} does not use "
            f"({name_some(scales)}); its config.json belongs to another checkpoint",
        )
    if info["missing_keys"]:
        raise refusal(
            source.name,
            f"the checkpoint lacks weights of {type(model).__name__} "
            f"({name_some(info['missing_keys'])}); use one that is whole, with its language-model "
            "head",
        )


def _check_unused(source: Source, model: Any, names: set[str], config: Any) -> UnusedWeights:
    """Return the weights that may be left out; refuse if any other was."""
    files: list[Path] = []
    if source.gguf_file is not None:
        _check_blocks(source, model)
    with explained(source.name):
        if source.gguf_file is None:
            files = [path for path in source.weights_files if path.suffix == ".safetensors"]
        unused, harmful = split_unused(names, model, files, config, source.prefix)
    refuse_unused(source.name, harmful, model)
    return unused


def _check_blocks(source: Source, model: Any) -> None:
    """Refuse a GGUF file with more layers than its header says, which transformers ignores."""
    layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    path = Path(source.location) / str(source.gguf_file)
    with explained(source.name):
        names = [tensor.name.split(".") for tensor in GGUFReader(path).tensors]
    last = max((int(name[1]) for name in names if name[0] == "blk"), default=-1)
    if last >= layers:
        raise refusal(
            source.name,
            f"holds layers up to blk.{last}, and its header gives {layers}, so a "
            "part of the model would not be audited; convert the checkpoint to GGUF again",
        )


@contextmanager
def _placed(placement: Placement) -> Iterator[tuple[dict[str, Any], Callable[[Any], object]]]:
    """Yield transformers' arguments for the placement, and a function to call with the model.

    Offloaded weights that are not used as stored in safetensors are written to a temporary folder,
    which that function ties to the life of the model.
    """
    if placement.room is None:
        yield {"device_map": {"": placement.device}}, lambda model: None
        return
    folder = tempfile.TemporaryDirectory(prefix="memaudit-", ignore_cleanup_errors=True)
    where = {
        "device_map": "auto",
        "max_memory": dict(placement.room),
        "offload_folder": folder.name,
    }
    try:
        yield where, lambda model: weakref.finalize(model, folder.cleanup)
    except BaseException:
        folder.cleanup()
        raise
