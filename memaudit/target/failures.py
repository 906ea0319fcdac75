"""What goes wrong while a model is loaded, said in one line, and quiet while it is loaded.

Knows the exceptions of torch, safetensors, transformers and the hub's client, and what a user can
do about each. Knows nothing of where the model is or what it is for.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pickle import UnpicklingError

import transformers
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from memaudit.errors import MemauditError, TargetError
from memaudit.system.memory import is_out_of_memory

FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    EOFError,
    struct.error,
    MemoryError,
    AssertionError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)
"""What a model that is no language model, or a foreign one, has been seen to raise when run."""

REMEDIES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (GatedRepoError,),
        "the model is gated; accept its terms on its page at the hub, then `hf auth login`",
    ),
    (
        (RepositoryNotFoundError,),
        "neither a path here nor a model on the hub; check the name, or `hf auth login` if it is "
        "private",
    ),
    ((RevisionNotFoundError,), "the hub's repository has no such revision; check --revision"),
    (
        (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError),
        "no such path here, not in the hub's local cache, and the hub was not reached; check the "
        "name, the network, --offline and HF_HUB_OFFLINE",
    ),
    ((EntryNotFoundError,), "the hub's repository lacks a file that a checkpoint needs"),
    ((HFValidationError,), "neither a path here nor a possible name on the hub; check the name"),
    (
        (SafetensorError, UnpicklingError, EOFError),
        "a weights file is damaged or cut short; fetch or write it again",
    ),
)
"""The remedy for each kind of failure; the first that fits is used."""

NO_MEMORY = (
    "not enough memory for the weights; use --device spread, --quantize int8 or nf4, or --dtype "
    "bfloat16"
)

EMPTY_WEIGHTS = (
    "its weights are empty, as DeepSpeed ZeRO-3 leaves them; gather them with its zero_to_fp32.py"
)

HINTS = (
    (
        "trust_remote_code",
        "the checkpoint brings its own code, which is not run by default; read that code, then "
        "allow it with --trust-remote-code",
    ),
    (
        "does not recognize this architecture",
        f"transformers {transformers.__version__} does not know this kind of model; update it",
    ),
    (
        "Couldn't instantiate the backend tokenizer",
        "no usable tokenizer there; put tokenizer.json and its config beside the weights",
    ),
    ("torch.Size([0]) from checkpoint", EMPTY_WEIGHTS),
)
"""The remedy where only the error's text tells what happened."""


for _talker in ("accelerate", "bitsandbytes", "torchao", "torch.utils._pytree"):
    # Where the packages for quantised weights are installed, transformers imports them at once,
    # and they tell of kernels that they do without, and later of every pass that rounds.
    # accelerate tells of weights that are left on disk, which the report does too.
    logging.getLogger(_talker).setLevel(logging.ERROR)


@contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn what loading ``model`` raises into one line that says what to do.

    Raises:
        TargetError: instead of whatever the libraries raise, which for damaged files is
            anything, bare ``Exception`` included.
    """
    try:
        yield
    except MemauditError:
        raise
    except Exception as error:
        raise TargetError(f"{model}: {_remedy(error)}") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an allocation failed, or led to the error."""
    return any(is_out_of_memory(link) for link in _chain(error))


def _remedy(error: BaseException) -> str:
    """Return the first remedy that fits the error or anything that led to it."""
    if lacks_memory(error):
        return NO_MEMORY
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, PermissionError) and link.filename is not None:
            return f"{os.path.basename(link.filename)}: cannot be read ({link.strerror})"
    for kinds, remedy in REMEDIES:
        if any(isinstance(link, kinds) for link in chain):
            return remedy
    for words, remedy in HINTS:
        if words in str(error):
            return remedy
    return f"cannot be loaded, so it may be damaged or incomplete ({brief(error)})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def brief(error: BaseException, limit: int = 200) -> str:
    """An error's text on one line, cut at a word to at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"no {text}"
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Nothing reaches stdout, whoever writes: tokenizers prints names of a tokenizer's settings
    from Rust, past Python's own stream.
    """
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def quiet_transformers(*, bars_without_switch: bool = False) -> Iterator[None]:
    """Keep transformers, PEFT and the hub's client off stderr; put their switches back after.

    It also keeps transformers from asking a service on the hub to convert pickled weights: no
    network is used but for what was asked for.

    Args:
        bars_without_switch: also turn the whole of stderr off, for progress bars that obey no
            switch (those of transformers' GGUF reader).
    """
    level, hub_level = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    bars, hub_off = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    conversion = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    elsewhere = redirect_stderr(io.StringIO()) if bars_without_switch else nullcontext()
    with elsewhere, warnings.catch_warnings():
        # Set first and lifted last: the hub's client warns where its switch cannot be moved.
        warnings.simplefilter("ignore")
        transformers_logging.set_verbosity_error()
        hub_logging.set_verbosity(logging.ERROR)
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            hub_logging.set_verbosity(hub_level)
            if bars:
                transformers_logging.enable_progress_bar()
            if hub_off:
                disable_progress_bars()
            if conversion is None:
                del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
            else:
                os.environ["DISABLE_SAFETENSORS_CONVERSION"] = conversion
