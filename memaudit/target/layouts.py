"""Folders in which transformers finds no weights: their kind and the remedy.

Knows the file names that trainers and other libraries write. Uses names alone and opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

SHARD = re.compile(r"(?:model|pytorch_model)-\d{5}-of-\d{5}\.(?:safetensors|bin)")
"""Shard of a checkpoint that transformers split into several files."""
DISTRIBUTED_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Shard that transformers 5 writes when each process saves its own part. It reads such files before
any others, whatever is beside them."""
TRAINING_STATE = ("optimizer.*", "scheduler.*", "scaler.*", "training_args.bin", "rng_state*")
"""Files of a trainer that hold no weights."""
MAX_NAMED = 4
"""Most names that a message lists."""


def explain_layout(names: Collection[str], place: str, *, on_hub: bool = False) -> str | None:
    """Describe a folder without usable weights and name the remedy; None if it is unknown.

    Args:
        names: its files, and those of its folders, as paths relative to it; ``name/`` is a folder.
        place: folder as written in a command.
        on_hub: whether it is a repository on the hub, whose folders cannot be given as MODEL.
    """
    top = sorted(name for name in names if "/" not in name)
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    weights = [name for name in top if not any(fnmatchcase(name, p) for p in TRAINING_STATE)]
    return (
        _sharded(top, folders, names, place)
        or _of_other_libraries(weights)
        or _in_folders(names, folders, place, on_hub)
    )


def _sharded(top: list[str], folders: list[str], names: Collection[str], place: str) -> str | None:
    """Describe weights in parts that must be merged first."""
    fsdp = [folder for folder in folders if folder.startswith("pytorch_model_fsdp_")]
    if fsdp or any(name.endswith(".distcp") for name in names):
        parts = f"{place}/{fsdp[0]}" if fsdp else place
        return (
            f"holds FSDP shards and no whole weights; merge them with `accelerate merge-weights "
            f"{parts} OUT` and give OUT with the model's config and tokenizer"
        )
    if any(map(DISTRIBUTED_SHARD.fullmatch, top)):
        return (
            "holds the shards of several processes (shard-*-model-*.safetensors); load it where it "
            "was trained and save it whole with save_pretrained()"
        )
    shards = [name for name in top if SHARD.fullmatch(name)]
    if shards:
        index = re.sub(r"-\d{5}-of-\d{5}", "", shards[0]) + ".index.json"
        files = f"{len(shards)} weights files ({shards[0]}, …)" if shards[1:] else shards[0]
        return (
            f"holds {files} and no {index}, which maps weights to files; fetch it from the "
            "source of the weights, or save them again"
        )
    steps = [folder for folder in folders if folder.startswith("global_step")]
    states = [name for name in top if fnmatchcase(name, "*_model_states.pt")]
    if steps or states or "zero_to_fp32.py" in top:
        return (
            "holds a DeepSpeed checkpoint and no whole weights; gather them with `python "
            f"zero_to_fp32.py --safe_serialization {place} {place}`, which DeepSpeed leaves there"
        )
    return None


def _of_other_libraries(weights: list[str]) -> str | None:
    """Describe whole weights in a format or under a name that transformers does not read."""

    def first(*patterns: str) -> str | None:
        return next((n for n in weights if any(fnmatchcase(n, p) for p in patterns)), None)

    if name := first("consolidated*.safetensors", "consolidated*.pth"):
        return (
            f"holds weights in their maker's own format ({name}), which transformers does not "
            "read; give the same model in transformers' format (model.safetensors)"
        )
    if name := first("*.gguf"):
        return f"holds GGUF weights; name the .gguf file itself ({name})"
    if name := first("tf_model.h5", "*.ckpt.index", "flax_model*.msgpack"):
        return (
            f"holds TensorFlow or Flax weights only ({name}), which transformers 5 does not read; "
            "convert them with transformers 4 (from_tf or from_flax, then save_pretrained)"
        )
    if name := first("*.safetensors"):
        return (
            f"holds {name}, a name that transformers does not open; if it is the whole model, "
            "rename it to model.safetensors"
        )
    if name := first("*.pth", "*.pt", "*.ckpt", "*.bin"):
        return (
            f"holds {name} only, a pickle under a name that transformers does not open; load it "
            "with the code that saved it, and save the model with save_pretrained()"
        )
    return None


def _in_folders(names: Collection[str], folders: list[str], place: str, on_hub: bool) -> str | None:
    """Describe models or adapters one level down."""
    steps = [folder for folder in folders if re.fullmatch(r"checkpoint-\d+", folder)]
    steps.sort(key=lambda folder: int(folder.rpartition("-")[2]))
    models = sorted(_folders_with(names, "config.json"))
    adapters = sorted(_folders_with(names, "adapter_config.json"))
    how = "download it and give" if on_hub else "give"
    if steps:
        what = "is a trainer's output folder: it holds no weights itself, but checkpoints"
        return f"{what}; {how} one of {_listed(steps, place)}"
    if models or adapters:
        what = " and ".join(
            kind for kind, paths in (("a model", models), ("an adapter", adapters)) if paths
        )
        choice = sorted({*models, *adapters})
        which = f"one of {_listed(choice, place)}" if len(choice) > 1 else _listed(choice, place)
        return f"holds no weights itself, but {what} in a folder; {how} {which}"
    return None


def _folders_with(names: Collection[str], file: str) -> Iterator[str]:
    for name in names:
        folder, _, rest = name.partition("/")
        if rest == file:
            yield folder


def _listed(folders: list[str], place: str) -> str:
    """Name the first few folders, and the last."""
    if len(folders) > MAX_NAMED:
        folders = [*folders[: MAX_NAMED - 2], "…", folders[-1]]
    return ", ".join(name if name == "…" else f"{place}/{name}" for name in folders)
