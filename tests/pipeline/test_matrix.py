"""Every architecture of the matrix goes through a whole scan, or is refused with its reason.

What the scan says of each window is compared with decoding that has no cache, no batch tricks and
no verification: whole passes of the model over all embeddings so far, and their arg-max.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from architectures import MATRIX, Architecture, make_model, table
from conftest import BOS, EOS, PAD, VOCABULARY, save_model
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.decoding_check import choose_decoding
from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import HardPrompt, NoPrompt, SoftPrompt
from memaudit.config.settings import ScoreSettings, TargetSettings
from memaudit.config.sources import Layer, resolve
from memaudit.errors import TargetError
from memaudit.pipeline.scan import ScanOutcome, scan
from memaudit.progress import Silent
from memaudit.score.scores import score_windows
from memaudit.target.checkpoint import Checkpoint, load_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
P, S, V = 8, 8, 3
WINDOWS, CONTROLS = 20, 5
SHORT = {"num_virtual_tokens": V, "epochs": 1, "min_steps": 0, "batch_size": 8}
PLAIN = TargetSettings(device="cpu")


def words_tokenizer(adds_bos: bool) -> Any:
    """A tokenizer of words that are their own ids: any ids can be written as text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [BOS, EOS, PAD, *(f"w{number}" for number in range(3, VOCABULARY))]
    backend = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=PAD)
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 0)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the architecture that the test is about."""
    architecture = request.node.callspec.params["architecture"]
    model = make_model(architecture)
    if model is None:
        pytest.skip(f"transformers {transformers.__version__} has no {architecture.config}")
    # Some families' tokenizers are read by rules of their own (Qwen2), and ours is of no family.
    monkeypatch.setattr(
        "transformers.models.auto.tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS",
        set(),
        raising=False,
    )
    return save_model(model, words_tokenizer(architecture.adds_bos), tmp_path / "target")


@dataclass(frozen=True, eq=False)
class Slow:
    """The target once more, as plainly as it can be asked."""

    model: Any
    bos: bool

    def logits(self, prompt: SoftPrompt, ids: Tensor) -> Tensor:
        """(B,X) after the ids (B,T), the first P of which are the prefix."""
        embed = self.model.get_input_embeddings()
        parts = [prompt.adapt(embed(ids))]
        vectors = prompt(ids[:, :P])
        if vectors is not None:
            parts.insert(0, vectors)
        if self.bos:
            parts.insert(0, embed(torch.zeros(len(ids), 1, dtype=torch.long)))
        output = self.model(inputs_embeds=torch.cat(parts, dim=1), use_cache=False)
        last: Tensor = output.logits[:, -1].float()
        return last

    @torch.no_grad()
    def decode(self, prompt: SoftPrompt, prefixes: Tensor) -> Tensor:
        """(B,S) the greedy continuation of the prefixes (B,P)."""
        ids = prefixes
        for _ in range(S):
            ids = torch.cat([ids, self.logits(prompt, ids).argmax(dim=-1)[:, None]], dim=1)
        return ids[:, P:]

    @torch.no_grad()
    def nll(self, prompt: SoftPrompt, ids: Tensor) -> NDArray[np.float64]:
        """(B,) of the suffix, nats/token, each token from a pass over what is before it."""
        lost = []
        for place in range(P, P + S):
            log_p = self.logits(prompt, ids[:, :place]).double().log_softmax(dim=-1)
            lost.append(-log_p.gather(1, ids[:, place : place + 1])[:, 0])
        return torch.stack(lost).mean(dim=0).numpy()

    @torch.no_grad()
    def generate(self, prefixes: Tensor) -> Tensor:
        """(B,S) what transformers itself decodes after the prefixes (B,P)."""
        start = torch.zeros(len(prefixes), int(self.bos), dtype=torch.long)
        ids = torch.cat([start, prefixes], dim=1)
        self.model.generation_config.eos_token_id = None
        settings = transformers.GenerationConfig(
            max_new_tokens=S, do_sample=False, pad_token_id=2, eos_token_id=None
        )
        output: Tensor = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )[:, -S:]
        return output


def make_windows(slow: Slow, hard: HardPrompt, count: int, seed: int) -> Tensor:
    """(count,P+S) random prefixes with suffixes that come out, nearly come out, or do not."""
    rng = np.random.default_rng(seed)
    prefixes = torch.as_tensor(rng.integers(3, VOCABULARY, (count, P)))
    suffixes = torch.as_tensor(rng.integers(3, VOCABULARY, (count, S)))
    plain, hardly = slow.decode(NoPrompt(), prefixes), slow.decode(hard, prefixes)
    for row in range(count):
        if row % 4 == 0:
            suffixes[row] = plain[row]
        elif row % 4 == 1:
            place = row % S
            suffixes[row] = plain[row]
            suffixes[row, place] = (plain[row, place] + 1) % VOCABULARY
        elif row % 4 == 2:
            suffixes[row] = hardly[row]
    return torch.cat([prefixes, suffixes], dim=1)


def write(tokenizer: Any, ids: Tensor, path: Path) -> Path:
    words = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in ids.tolist()]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in words), encoding="utf-8")
    return path


def run(folder: Path, data: Path, controls: Path, **values: Any) -> ScanOutcome:
    given: dict[str, Any] = {
        "model": str(folder),
        "data": str(data),
        "controls": str(controls),
        "target": {"device": "cpu"},
        "windows": {"prefix_tokens": P, "suffix_tokens": S},
        "protocol": {"cluster_run": P + S, "least_select": 1},
        "constant": SHORT | {"precision": "bfloat16"},
        "dynamic": SHORT | {"precision": "float32"},
        "scores": {"bootstrap": 100},
        "sensitive": {"enabled": False},
    }
    return scan(resolve([Layer(source="flag", values=given | values)]), "memaudit scan", Silent())


def assert_like_slow(outcome: ScanOutcome, slow: Slow, hard: HardPrompt, ids: Tensor) -> None:
    """Every score of every window under every attack that asks the model."""
    corpus = outcome.result.data
    np.testing.assert_array_equal(corpus.windows.ids, ids.numpy())
    for attack in ("none", "dynamic-hard", "constant", "dynamic"):
        scored = outcome.result.attack(attack)
        assert scored is not None
        for fold in np.unique(corpus.folds):
            prompts = {"none": NoPrompt(), "dynamic-hard": hard}
            prompt = (prompts | outcome.prompts[fold].usable)[attack]
            rows = np.flatnonzero(corpus.folds == fold)
            expected = slow.decode(prompt, ids[rows, :P]).numpy()
            nll = slow.nll(prompt, ids[rows])
            true = score_windows(expected, ids[rows, P:].numpy(), nll, nll)
            scores = scored.data.take(rows)
            for name in ("exact", "matched", "fractional", "longest_run"):
                np.testing.assert_array_equal(
                    getattr(scores, name), getattr(true, name), err_msg=f"{attack}: {name}"
                )
            np.testing.assert_allclose(scores.suffix_nll, nll, rtol=1e-3, atol=1e-4, err_msg=attack)


def assert_fitted_prompts_extract(
    checkpoint: Checkpoint, outcome: ScanOutcome, slow: Slow, prefixes: Tensor
) -> None:
    """Check the fitted prompts, chosen or not, on suffixes that they extract."""
    extractor = Extractor(checkpoint, P, ScoreSettings(), 4)
    for prompt in outcome.prompts[0].prompts.values():
        output = slow.decode(prompt, prefixes)
        suffixes = output.clone()
        suffixes[1::2, 3] = (output[1::2, 3] + 1) % VOCABULARY
        ids = torch.cat([prefixes, suffixes], dim=1).numpy().astype(np.int32)
        np.testing.assert_array_equal(
            extractor.extract(prompt, ids).continuation_ids, output.numpy()
        )
        exact, _ = extractor.verify(prompt, ids)
        assert exact.tolist() == [row % 2 == 0 for row in range(len(ids))]


AUDITED = [architecture for architecture in MATRIX if architecture.refused is None]
REFUSED = [architecture for architecture in MATRIX if architecture.refused is not None]


@pytest.mark.parametrize("architecture", AUDITED, ids=lambda architecture: architecture.name)
def test_a_scan_says_what_slow_decoding_says(
    architecture: Architecture, folder: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert choose_decoding(checkpoint, P).path == architecture.goes_on_from
    slow = Slow(checkpoint.model, architecture.adds_bos)
    hard = HardPrompt(checkpoint.embed, V)
    ids = make_windows(slow, hard, WINDOWS, seed=0)
    # RWKV itself halves some of its weights in its first pass.
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    if architecture.like_generate:
        plain = slow.decode(NoPrompt(), ids[:, :P])
        assert torch.equal(slow.generate(ids[:, :P]), plain)
    data = write(checkpoint.tokenizer, ids, tmp_path / "data.jsonl")
    control_texts = make_windows(slow, hard, CONTROLS, seed=1)
    controls = write(checkpoint.tokenizer, control_texts, tmp_path / "controls.jsonl")

    outcome = run(folder, data, controls)
    assert_like_slow(outcome, slow, hard, ids)
    none = outcome.result.attack("none")
    assert none is not None
    assert none.data.exact[::4].all()
    assert not none.data.exact[1::4].any()
    assert_fitted_prompts_extract(checkpoint, outcome, slow, ids[:6, :P])
    after = checkpoint.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("architecture", REFUSED, ids=lambda architecture: architecture.name)
def test_others_are_refused_by_name(
    architecture: Architecture, folder: Path, tmp_path: Path
) -> None:
    ids = torch.randint(3, VOCABULARY, (WINDOWS, P + S), generator=torch.Generator().manual_seed(0))
    data, controls = (
        write(words_tokenizer(False), half, tmp_path / name)
        for half, name in ((ids, "data.jsonl"), (ids[1:], "controls.jsonl"))
    )
    with pytest.raises(TargetError) as caught:
        run(folder, data, controls)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert architecture.refused is not None
    assert architecture.refused in message
    assert "\n" not in message
    assert caught.value.exit_code == 3


def test_the_readme_has_the_table() -> None:
    """On failure, paste the output of ``tests/support/architectures.py``."""
    assert table() in (ROOT / "memaudit/docs/architectures.md").read_text(encoding="utf-8")
