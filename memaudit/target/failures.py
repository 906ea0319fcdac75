"""Failures to load a model, explained in one line, and silence for libraries that load it.

Knows the exceptions of torch, safetensors, transformers and the hub's client, and the remedy for
each. Knows nothing about where the model is or what it is for.
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

from memaudit.errors import MemauditError, UnsealedRunWarning
from memaudit.system.memory import is_out_of_memory
from memaudit.target.refusals import refusal

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
"""Exceptions observed when running a model that is unsupported or not a language model."""

REMEDIES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (GatedRepoError,),
        "the model is gated; accept its terms on its page at the hub, then `hf auth login`",
    ),
    (
        (RepositoryNotFoundError,),
        "neither a local path nor a model on the hub; check the name, or `hf auth login` if it is "
        "private",
    ),
    ((RevisionNotFoundError,), "the hub's repository has no such revision; check --revision"),
    (
        (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError),
        "no such local path, not in the hub's local cache, and the hub was not reached; check the "
        "name, the network, --offline and HF_HUB_OFFLINE",
    ),
    ((EntryNotFoundError,), "the hub's repository lacks a file that a checkpoint needs"),
    ((HFValidationError,), "neither a local path nor a valid name on the hub; check the name"),
    (
        (SafetensorError, UnpicklingError, EOFError),
        "a weights file is damaged or cut short; fetch or write it again",
    ),
)
"""Remedy for each kind of failure; the first match is used."""

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
        "the checkpoint brings its own code, which is not run by default; review that code, then "
        "allow it with --trust-remote-code",
    ),
    (
        "does not recognize this architecture",
        f"transformers {transformers.__version__} does not know this kind of model; update it",
    ),
    (
        "Couldn't instantiate the backend tokenizer",
        "it has no usable tokenizer; put tokenizer.json and its config beside the weights",
    ),
    ("torch.Size([0]) from checkpoint", EMPTY_WEIGHTS),
)
"""Remedy by a phrase in the error's text, for failures that no type identifies."""


for _logger_name in ("accelerate", "bitsandbytes", "torchao", "torch.utils._pytree"):
    # transformers imports the packages for quantised weights at once if they are installed. They
    # warn of missing kernels, and later of every pass that rounds. accelerate warns of weights left
    # on disk, which the report states too.
    logging.getLogger(_logger_name).setLevel(logging.ERROR)


@contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn any failure to load ``model`` into one line that says what to do.

    Raises:
        TargetError: in place of any error of the libraries, which for damaged files can be of
            any type, bare ``Exception`` included.
    """
    try:
        yield
    except MemauditError:
        raise
    except Exception as error:
        raise refusal(model, _remedy(error)) from error


def lacks_memory(error: BaseException) -> bool:
    """Return True if a failed allocation is the error or led to it."""
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
    """Yield the error, then its cause, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def brief(error: BaseException, limit: int = 200) -> str:
    """Return an error's text on one line, cut at a word to at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"no {text}"
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Keep everything off stdout, whoever writes it.

    The tokenizers library prints names of settings from Rust, past Python's own stream.
    """
    try:
        stdout = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(devnull)


@contextmanager
def quiet_transformers(*, bars_without_switch: bool = False) -> Iterator[None]:
    """Keep transformers, PEFT and the hub's client off stderr; restore their switches afterwards.

    This also keeps transformers from asking a service on the hub to convert pickled weights: the
    network is used only for what the user asked for.

    Args:
        bars_without_switch: also silence all of stderr, for progress bars that obey no switch
            (those of transformers' GGUF reader).
    """
    level, hub_level = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    bars, hub_off = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    conversion = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    silenced = redirect_stderr(io.StringIO()) if bars_without_switch else nullcontext()
    with silenced, warnings.catch_warnings():
        # Set first and lifted last: the hub's client warns if its switch cannot be changed.
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UnsealedRunWarning)
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
