"""A GGUF file gives the same model, tokenizer and BOS policy as the checkpoint it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from conftest import BOS, EOS, build_model, build_tokenizer, save_model

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError, UsageError
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.loading import gguf_bos_id
from memaudit.target.softprompt_check import check_soft_prompts

NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, model: Any, tokenizer: Any, add_bos: bool | None) -> Path:
    """A Qwen2 as a GGUF file of 32-bit floats; its weights need no reordering."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(backend["vocab"], key=backend["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in (BOS, EOS) else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    for name, value in model.state_dict().items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("add_bos", [True, False, None])
def test_gguf_is_the_model_it_was_made_from(
    tmp_path: Path, add_bos: bool | None, capfd: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer, add_bos)
    capfd.readouterr()
    checkpoint = load_checkpoint(str(path), TargetSettings())
    assert capfd.readouterr() == ("", "")
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            checkpoint.model(input_ids=ids).logits, model(input_ids=ids).logits
        )
    check_soft_prompts(checkpoint)
    text = "The quick brown fox, word for word: 漢字"
    plain = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert plain == tokenizer(text)["input_ids"]
    assert checkpoint.bos_id == (0 if add_bos else None)
    assert checkpoint.choices["format"].value == "gguf"
    assert list(checkpoint.fingerprint) == ["m.gguf"]
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())


@pytest.mark.parametrize(
    ("kind", "flag", "expected"),
    [
        ("llama", None, 7),
        ("llama", False, None),
        ("gpt2", None, None),
        ("gpt2", True, 7),
        ("gpt2", False, None),
    ],
)
def test_bos_is_read_from_the_file_where_transformers_does_not(
    tmp_path: Path, kind: str, flag: bool | None, expected: int | None
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model(kind)
    writer.add_bos_token_id(7)
    if flag is not None:
        writer.add_add_bos_token(flag)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert gguf_bos_id(tmp_path / "m.gguf") == expected


def test_gguf_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", build_model("qwen2"), build_tokenizer(), None)
    whole = path.read_bytes()
    for size in (4, 40, 2000, len(whole) - 5000):
        path.write_bytes(whole[:size])
        with pytest.raises(TargetError, match=r"m\.gguf"):
            load_checkpoint(str(path), TargetSettings())


def test_gguf_is_not_quantised_anew(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", build_model("qwen2"), build_tokenizer(), None)
    with pytest.raises(
        UsageError, match="--quantize int8: a GGUF file is unpacked to full numbers"
    ):
        load_checkpoint(str(path), TargetSettings(quantize="int8"))


def test_gguf_that_does_not_fit_waits_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("qwen2")
    path = write_gguf(tmp_path / "m.gguf", model, build_tokenizer(), None)
    monkeypatch.setattr("memaudit.target.placement.free_bytes", lambda device: 0)
    checkpoint = load_checkpoint(str(path), TargetSettings())
    assert checkpoint.is_offloaded
    ids = torch.arange(3, 11)[None]
    torch.testing.assert_close(checkpoint.model(input_ids=ids).logits, model(input_ids=ids).logits)
    check_soft_prompts(checkpoint)


def test_what_lies_beside_a_gguf_is_not_taken_for_its_own(tmp_path: Path) -> None:
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer, None)
    alone = load_checkpoint(str(path), TargetSettings())
    save_model(build_model("qwen2", seed=1), build_tokenizer(adds_bos=True), tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    beside = load_checkpoint(str(path), TargetSettings())
    assert (beside.bos_id, beside.tokenizer.chat_template) == (alone.bos_id, None)
    assert beside.fingerprint == alone.fingerprint
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        assert torch.equal(beside.model(input_ids=ids).logits, alone.model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m-00002-of-00003.gguf", b"GGUF", "is one of 3 parts of a GGUF file"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("m.gguf", b"", "is empty"),
    ],
)
def test_gguf_that_is_not_all_there(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TargetError, match=said):
        load_checkpoint(str(tmp_path / name), TargetSettings())
