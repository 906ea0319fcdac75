"""Config, tokenizer and weights out of a source, through transformers and PEFT.

Knows how transformers is asked for each kind of source. Chooses nothing: device and dtype are
given to it, see ``placement`` and ``quantization``.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import transformers
from gguf import GGUFReader
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)

from memaudit.config import TargetSettings
from memaudit.data.bos import own_texts
from memaudit.errors import TargetError
from memaudit.target.failures import explained, quiet_transformers, silent_stdout
from memaudit.target.gguf_header import check_gguf
from memaudit.target.placement import Placement, waits_elsewhere
from memaudit.target.quantization import Quantization, finish, quantised_weights
from memaudit.target.source import Source, read_json
from memaudit.target.vocabulary import fit_vocabulary

CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def _asked(source: Source, settings: TargetSettings) -> dict[str, Any]:
    """The keyword arguments that config, tokenizer and weights are all asked for with."""
    if source.gguf_file is not None:
        check_gguf(source.name, Path(source.location) / source.gguf_file)
    asked: dict[str, Any] = {
        "trust_remote_code": settings.trust_remote_code,
        "local_files_only": source.here_only,
    }
    if source.revision is not None and source.kind == "hub":
        asked["revision"] = source.revision
    if source.gguf_file is not None:
        asked["gguf_file"] = source.gguf_file
    return asked


def load_config(source: Source, settings: TargetSettings) -> Any:
    """The transformers config of a source, of its base where it is an adapter.

    Raises:
        TargetError: unreadable, unknown to transformers, or not a causal language model.
    """
    source = source.weights
    with explained(source.name), quiet_transformers():
        config = AutoConfig.from_pretrained(source.location, **_asked(source, settings))
    kind = f"{source.name}: is a {config.model_type} model"
    if getattr(config, "is_encoder_decoder", False):
        raise TargetError(f"{kind}, an encoder-decoder; memaudit audits causal language models")
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not own_code:
        raise TargetError(
            f"{kind}, which transformers {transformers.__version__} cannot use as a causal "
            f"language model; {_instead_of(config)}"
        )
    return config


def _instead_of(config: Any) -> str:
    """What to name where the model itself cannot be used."""
    text = config.get_text_config(decoder=True)
    if text is config or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "name one that is"
    return f"save the language model in it ({text.model_type}) as a checkpoint and name that"


def load_tokenizer_of(source: Source, settings: TargetSettings) -> Any:
    """The tokenizer of a source. An adapter's own comes before that of its base, and so does its
    chat template, should it bring nothing else.

    Raises:
        TargetError: there is none, or it cannot be read.
    """
    asked: dict[str, Any] = {}
    if source.weights.kind != "gguf":  # a GGUF file is slow to read, and its reader wants no config
        asked["config"] = load_config(source, settings)
    template = None
    if source.base is not None and not _has_tokenizer(Path(source.location)):
        template = Path(source.location) / CHAT_TEMPLATE
        source = source.base
    _check_tokenizer_file(source)
    with explained(source.name), quiet_transformers(), silent_stdout():
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, **asked, **_asked(source, settings)
        )
        if source.gguf_file is not None:
            _follow_gguf(tokenizer, Path(source.location) / source.gguf_file)
        if template is not None and template.is_file():
            tokenizer.chat_template = template.read_text(encoding="utf-8")
        # Of its own vocabulary: one of amino acids has no token for an arbitrary letter.
        probes = chain(own_texts(tokenizer), ["a b"])
        empty = not any(tokenizer(text, add_special_tokens=False)["input_ids"] for text in probes)
    if empty:
        raise TargetError(
            f"{source.name}: its tokenizer gives no tokens, so its files are missing or belong to "
            "another model; put the tokenizer's files beside the weights"
        )
    return tokenizer


def _follow_gguf(tokenizer: Any, path: Path) -> None:
    """Let the tokenizer add BOS where its GGUF file asks for it.

    Not every transformers 5 reads that, and without BOS an audit finds less than there is.
    """
    if "add_bos_token" in tokenizer.init_kwargs:
        return  # this transformers has read it
    bos_id = gguf_bos_id(path)
    if bos_id is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos_id)
        tokenizer.add_bos_token = True


def gguf_bos_id(path: Path) -> int | None:
    """The token that a GGUF file wants before every text, or None.

    Where it does not say, llama.cpp puts BOS before a SentencePiece vocabulary, and so does this.
    """
    fields = GGUFReader(path).fields
    flag, kind, bos = (
        fields[name].contents() if (name := f"tokenizer.ggml.{key}") in fields else None
        for key in ("add_bos_token", "model", "bos_token_id")
    )
    wanted = kind == "llama" if flag is None else bool(flag)
    return int(bos) if wanted and bos is not None else None


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _check_tokenizer_file(source: Source) -> None:
    """Refuse a damaged tokenizer.json here: the tokenizers library raises a bare Exception."""
    path = Path(source.location) / "tokenizer.json"
    if source.kind in ("folder", "adapter") and path.is_file():
        with explained(source.name):
            read_json(path)


def load_model(
    source: Source,
    settings: TargetSettings,
    config: Any,
    placement: Placement,
    quantization: Quantization | None = None,
) -> Any:
    """The model of a source, frozen and in eval mode; an adapter stays unmerged.

    Args:
        source: what to load.
        settings: what may be read, and how.
        config: what ``load_config`` gave for the same source.
        placement: device and dtype to load it on and in.
        quantization: what ``find_quantization`` gave for the same source.

    Raises:
        TargetError: the weights are missing, damaged, incomplete or too large.
    """
    model = _load_weights(source.weights, settings, config, placement, quantization)
    if source.base is not None:
        model = _load_adapter(source, model, placement)
    model.requires_grad_(False)
    return model.eval()


def _load_weights(
    source: Source,
    settings: TargetSettings,
    config: Any,
    placement: Placement,
    quantization: Quantization | None,
) -> Any:
    """One checkpoint, and the proof that it filled every weight of the model."""
    asked = _asked(source, settings) | {
        "config": config,
        "dtype": placement.dtype,
        "use_safetensors": None if settings.allow_pickle else True,
        "ignore_mismatched_sizes": True,  # told below, with the weight's name
        "output_loading_info": True,
    }
    if source.kind == "gguf":
        # Newer transformers may keep the blocks packed, and then no gradient passes through them.
        unpack = getattr(transformers, "GgufConfig", None)
        asked |= {"use_safetensors": None}
        asked |= {"quantization_config": unpack(dequantize=True)} if unpack else {}
    if quantization is not None and quantization.asked is not None:
        asked |= {"quantization_config": quantization.asked}
    with (
        explained(source.name),
        quantised_weights(source.name, quantization),
        quiet_transformers(bars_without_switch=source.kind == "gguf"),
        _placed(placement) as (where, keep),
    ):
        model, info = AutoModelForCausalLM.from_pretrained(source.location, **asked, **where)
        keep(model)
    if quantization is not None:
        finish(model, source.name, quantization)
    if info["mismatched_keys"]:
        names = {str(name) for name, *_ in info["mismatched_keys"]}
        raise TargetError(
            f"{source.name}: weights of other shapes than config.json gives ({_some(names)}); the "
            "config belongs to another checkpoint"
        )
    scales = [name for name in info["unexpected_keys"] if "scale" in name or "absmax" in name]
    if quantization is not None and scales:
        raise TargetError(
            f"{source.name}: holds scales of weights that {quantization.name} does not use "
            f"({_some(scales)}); its config.json belongs to another checkpoint"
        )
    if info["missing_keys"]:
        raise TargetError(
            f"{source.name}: the checkpoint lacks weights of {type(model).__name__} "
            f"({_some(info['missing_keys'])}); use one that is whole, with its language-model head"
        )
    return model


@contextmanager
def _placed(placement: Placement) -> Iterator[tuple[dict[str, Any], Callable[[Any], object]]]:
    """How transformers is told where weights go; a model that is spread has to be handed back.

    What waits on disk and does not lie in safetensors as it is used lies in a folder that goes with
    the model.
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


def _load_adapter(source: Source, base: Any, placement: Placement) -> Any:
    """Put an adapter over its base, unmerged.

    Raises:
        TargetError: it is a soft prompt itself, does not fit the base, or is incomplete.
    """
    folder = Path(source.location)
    if waits_elsewhere(base):
        raise TargetError(
            f"{source.name}: the adapter's base does not fit the devices, and an adapter cannot be "
            "over weights that are fetched for each pass; merge it into its base, or use --quantize"
        )
    path = folder / "adapter_model.safetensors"
    with explained(source.name), quiet_transformers():
        if PeftConfig.from_pretrained(folder).is_prompt_learning:
            raise TargetError(
                f"{source.name}: is a soft prompt itself; memaudit audits adapters that change "
                "weights, such as LoRA"
            )
        if path.is_file():
            fit_vocabulary(base, path, source.name)
        model = PeftModel.from_pretrained(base, folder, torch_device=str(placement.device))
        wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if path.is_file():
        with explained(source.name), safe_open(path, framework="pt") as file:
            missing = wanted - set(file.keys())
        if missing:
            raise TargetError(
                f"{source.name}: the adapter's file lacks weights its config asks for "
                f"({_some(missing)}); write the adapter again"
            )
    return model


def _some(names: Any) -> str:
    """The first of some names, and how many more there are."""
    first, *rest = sorted(names)
    return f"{first} and {len(rest)} more" if rest else str(first)
