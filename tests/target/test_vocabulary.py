"""An adapter that added tokens is fitted to its base from either format of its weights."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from conftest import VOCABULARY, build_model, build_tokenizer, save_model
from safetensors.torch import load_file

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.failures import quiet_transformers

SETTINGS = TargetSettings(device="cpu", allow_pickle=True)


@pytest.fixture
def adapted(tmp_path: Path) -> peft.PeftModel:
    """A LoRA over a base on disk whose vocabulary has two more entries than the base's."""
    base = save_model(build_model("llama"), build_tokenizer(), tmp_path / "base")
    model = build_model("llama")
    model.name_or_path = str(base)
    config = peft.LoraConfig(
        r=2,
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        model.resize_token_embeddings(VOCABULARY + 2)
        made = peft.get_peft_model(model, config).eval()
        made.save_pretrained(tmp_path / "adapter")
    return made


def pickle_weights(adapter: Path, *, without: str = "nothing") -> None:
    path = adapter / "adapter_model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if without not in name}
    torch.save(weights, adapter / "adapter_model.bin")
    path.unlink()


def test_a_pickled_adapter_brings_the_rows_it_added(
    adapted: peft.PeftModel, tmp_path: Path
) -> None:
    pickle_weights(tmp_path / "adapter")
    checkpoint = load_checkpoint(str(tmp_path / "adapter"), SETTINGS)
    ids = torch.tensor([[VOCABULARY, 9, 10, VOCABULARY + 1, 11]])
    with torch.no_grad():
        torch.testing.assert_close(
            checkpoint.model(input_ids=ids).logits, adapted(input_ids=ids).logits
        )
    assert checkpoint.vocabulary == VOCABULARY + 2
    assert "adapter_model.bin" in checkpoint.fingerprint
    assert checkpoint.choices["pickle"].value == "allowed"


def test_a_pickled_adapter_without_all_rows_it_added_is_refused(
    adapted: peft.PeftModel, tmp_path: Path
) -> None:
    pickle_weights(tmp_path / "adapter", without="lm_head")
    with pytest.raises(TargetError, match="its base has 304, and it holds no lm_head for it"):
        load_checkpoint(str(tmp_path / "adapter"), SETTINGS)


def test_a_pickled_adapter_that_lacks_weights_is_refused(
    adapted: peft.PeftModel, tmp_path: Path
) -> None:
    pickle_weights(tmp_path / "adapter", without="layers.1.self_attn.q_proj.lora_A")
    with pytest.raises(TargetError, match="the adapter's file lacks weights"):
        load_checkpoint(str(tmp_path / "adapter"), SETTINGS)
