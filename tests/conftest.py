"""Shared fixtures: a tiny tokenizer and tiny random models of many architectures, all built here.

Nothing is downloaded. Tests import the helpers with ``from conftest import build_model``.
Heavy packages are imported inside the functions, so that tests without a model start at once.
"""

from __future__ import annotations

import os

# Before torch, tokenizers or huggingface_hub are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MEMAUDIT_KEY"] = "0123456789abcdef" * 4  # no test makes a key in the user's folder
# Scans of a few dozen windows train prompts, although too few are left to choose an epoch by.
os.environ["MEMAUDIT_PROTOCOL_LEAST_SELECT"] = "1"

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A job in the background ignores Ctrl-C, and so would every scan that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("memaudit", deadline=None)  # no test is one of speed
settings.load_profile("memaudit")

SLOW = Path(__file__).parent / "slow.txt"

VOCABULARY = 304
"""Entries of the tiny tokenizer, and rows of every tiny model's embedding."""

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
"""Ids of the three in every tiny tokenizer, whether or not it calls them special."""

CORPUS = (
    "The quick brown fox jumps over the lazy dog while seven wizards make a toxic brew.",
    "A model is trained on text, and some of the text comes back word for word.",
    "In the beginning there was the prefix, and the suffix followed the prefix.",
    "def score(window): return sum(window) / len(window)  # a line of code",
    "Numbers: 0 1 2 3 4 5 6 7 8 9 10 11 12; names: Anna, Bert, Carla; ünïcödé, 漢字, 🙂.",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--kills``: how often tests/resuming kills a scan at a random moment."""
    parser.addoption("--kills", type=int, default=12, help="kills of scans at random moments")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``slow.txt`` lists, and start with the files that take longest."""
    listed = [line for line in SLOW.read_text().splitlines() if not line.startswith("#")]
    files = {name.partition("::")[0]: rank for rank, name in reversed([*enumerate(listed)])}
    for item in items:
        name = item.nodeid.partition("[")[0]
        if name in listed or name.partition("::")[0] in listed:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: files.get(item.nodeid.partition("::")[0], len(listed)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def commands() -> Iterator[Any]:
    """Forks of one process, for tests that need a process of their own (``CommandServer``)."""
    from command_server import CommandServer

    server = CommandServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True, scope="session")
def _runs_count() -> Iterator[None]:
    """Let scans end as their gates say, though random weights read by chance.

    Such runs mean nothing, and ``known_answers.audit`` lets the verdict on that stand.
    """
    from memaudit.gate import validity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validity, "judge_validity", lambda counted: None)
        yield


def build_tokenizer(
    *, adds_bos: bool = False, adds_eos: bool = False, bos: bool = True, pad: bool = True
) -> Any:
    """A byte-level BPE tokenizer of ``VOCABULARY`` entries; any text can be encoded.

    ``adds_bos`` and ``adds_eos``: what it puts around a text unless told not to.
    ``bos`` and ``pad``: whether it has such a token at all (``eos_token`` it always has).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    assert backend.get_vocab_size() == VOCABULARY
    if adds_bos or adds_eos:
        template = " ".join([BOS] * adds_bos + ["$A"] + [EOS] * adds_eos)
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(BOS, 0), (EOS, 1)]
        )
    names = {"eos_token": EOS, "bos_token": BOS if bos else None, "pad_token": PAD if pad else None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture
def tiny_tokenizer() -> Any:
    """Has BOS, EOS and PAD tokens, and adds none of them, as GPT-2's does."""
    return build_tokenizer()


@pytest.fixture
def bos_tokenizer() -> Any:
    """Puts BOS before every text, as Llama's and Gemma's do."""
    return build_tokenizer(adds_bos=True)


@pytest.fixture
def bare_tokenizer() -> Any:
    """Has neither BOS nor PAD, as Qwen's has no BOS."""
    return build_tokenizer(bos=False, pad=False)


# A large spread of the weights keeps the logits of a random model apart, so that greedy decoding
# depends on its whole input instead of settling on one token.
SPREAD = 0.2
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, **SPECIAL_IDS}
GPT2_LIKE: dict[str, Any] = COMMON | {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": SPREAD,
}
LLAMA_LIKE: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": SPREAD,
}
GEMMA_LIKE: dict[str, Any] = LLAMA_LIKE | {"num_key_value_heads": 2, "head_dim": 8}


def _config(name: str, settings: dict[str, Any], **more: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        return getattr(transformers, name)(**(settings | more))

    return make


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "gpt2": _config("GPT2Config", GPT2_LIKE),
    "gpt_neo": _config(  # layer 1 attends to all, layer 2 only to the last 8
        "GPTNeoConfig",
        COMMON,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=256,
        initializer_range=SPREAD,
    ),
    "gpt_neox": _config("GPTNeoXConfig", LLAMA_LIKE, tie_word_embeddings=False),
    "gpt_bigcode": _config("GPTBigCodeConfig", GPT2_LIKE, multi_query=True),
    "opt": _config(  # embeddings of 16 numbers, projected to a width of 32
        "OPTConfig",
        COMMON,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        init_std=SPREAD,
    ),
    "llama": _config("LlamaConfig", LLAMA_LIKE, num_key_value_heads=2),
    "mistral": _config("MistralConfig", LLAMA_LIKE, num_key_value_heads=2, sliding_window=8),
    "qwen2": _config("Qwen2Config", LLAMA_LIKE, num_key_value_heads=2),
    "qwen3": _config("Qwen3Config", GEMMA_LIKE),
    "gemma": _config("GemmaConfig", GEMMA_LIKE),
    "gemma2": _config("Gemma2Config", GEMMA_LIKE, sliding_window=8),
    "gemma3": _config("Gemma3TextConfig", GEMMA_LIKE, sliding_window=8),
    "phi": _config("PhiConfig", LLAMA_LIKE),
    "phi3": _config("Phi3Config", LLAMA_LIKE, num_key_value_heads=2),
    "stablelm": _config("StableLmConfig", LLAMA_LIKE, num_key_value_heads=4),
    "falcon": _config(
        "FalconConfig",
        COMMON,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=SPREAD,
    ),
    "bloom": _config(  # ALiBi: no table of positions, so no end to them
        "BloomConfig", COMMON, hidden_size=32, n_layer=2, n_head=4, initializer_range=SPREAD
    ),
    "mamba": _config(  # no attention at all
        "MambaConfig",
        COMMON,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        initializer_range=SPREAD,
    ),
}
"""Name -> a function that makes the config of a tiny causal language model."""


def build_model(architecture: str, seed: int = 0) -> Any:
    """A random model, the same for the same seed, on the CPU in float32 and in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # importing GPTBigCode, transformers 5.17
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture]())
    return model.float().eval()


def save_model(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write both into ``folder`` as a checkpoint that can be loaded by its path."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=sorted(ARCHITECTURES))
def tiny_model(request: pytest.FixtureRequest) -> Any:
    """One model of every architecture, one test each."""
    return build_model(request.param)


@pytest.fixture
def gpt2_model() -> Any:
    """One small model where the architecture does not matter."""
    return build_model("gpt2")
