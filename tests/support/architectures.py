"""The model matrix: which architectures a scan is tried on, and what has to come of it.

Run as a program it prints the table of memaudit/docs/architectures.md:
``PYTHONPATH=tests python tests/support/architectures.py``. What the table
says of each architecture is what ``test_matrix.py`` finds, or that test fails.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

from conftest import COMMON, GEMMA_LIKE, GPT2_LIKE, LLAMA_LIKE, SPREAD

from memaudit.attack.decoding_check import CUT, FULL_PASSES, OWN


@dataclass(frozen=True)
class Architecture:
    """One line of the table."""

    name: str
    """As its makers call it."""
    config: str
    """Class of transformers that its config is of."""
    exercises: str
    """What it has that others have not."""
    goes_on_from: str = CUT
    refused: str | None = None
    """Why it is refused, in the words of the error; None where it is audited."""
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = "AutoModelForCausalLM"
    """What of transformers makes it of the config."""
    adds_bos: bool = False
    """Whether its tokenizer puts BOS before a text."""
    like_generate: bool = True
    """Whether transformers' own decoding, with its cache, can be compared with."""

    @property
    def result(self) -> str:
        """The last column."""
        return f"refused: “{self.refused}”" if self.refused else f"audited, {self.goes_on_from}"


GROUPED = LLAMA_LIKE | {"num_key_value_heads": 2}
EXPERTS = {
    "moe_intermediate_size": 24,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}
LATENT = LLAMA_LIKE | {
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
STATE = COMMON | {
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 2,
    "initializer_range": SPREAD,
}
MAMBA2 = {
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
ALIKE = "inputs_embeds and input_ids give different logits for the same tokens"
NO_CAUSAL_LM = "cannot use as a causal language model"

MATRIX = (
    # Dense.
    Architecture("GPT-2", "GPT2Config", "learned positions, tied embeddings", settings=GPT2_LIKE),
    Architecture(
        "GPT",
        "OpenAIGPTConfig",
        "keeps no cache at all",
        FULL_PASSES,
        settings=GPT2_LIKE,
    ),
    Architecture(
        "GPT-Neo",
        "GPTNeoConfig",
        "every other layer sees 4 tokens only",
        settings=COMMON
        | {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 256,
            "initializer_range": SPREAD,
        },
    ),
    Architecture(
        "GPT-NeoX, Pythia",
        "GPTNeoXConfig",
        "parallel blocks, untied embeddings",
        settings=LLAMA_LIKE | {"tie_word_embeddings": False},
    ),
    Architecture(
        "GPT-J",
        "GPTJConfig",
        "parallel blocks, interleaved rotary positions",
        settings=GPT2_LIKE | {"rotary_dim": 4},
    ),
    Architecture(
        "CodeGen",
        "CodeGenConfig",
        "fused projections in shards",
        settings=GPT2_LIKE | {"rotary_dim": 4, "n_ctx": 256},
    ),
    Architecture(
        "GPT-BigCode, StarCoder",
        "GPTBigCodeConfig",
        "one head of keys for all",
        settings=GPT2_LIKE | {"multi_query": True},
    ),
    Architecture(
        "CTRL",
        "CTRLConfig",
        "scales its inputs in place",
        settings=GPT2_LIKE | {"dff": 64},
    ),
    Architecture(
        "OPT",
        "OPTConfig",
        "positions from the mask; embeddings projected to another width",
        adds_bos=True,
        settings=COMMON
        | {
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "init_std": SPREAD,
        },
    ),
    Architecture("Llama", "LlamaConfig", "grouped queries", adds_bos=True, settings=GROUPED),
    Architecture("Phi", "PhiConfig", "parallel blocks, partial rotary", settings=LLAMA_LIKE),
    Architecture(
        "Cohere",
        "CohereConfig",
        "parallel blocks, scaled logits",
        adds_bos=True,
        settings=GROUPED | {"logit_scale": 0.5},
    ),
    Architecture(
        "Granite",
        "GraniteConfig",
        "scaled embeddings, residuals, attention and logits",
        settings=GROUPED
        | {
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
            "logits_scaling": 2.0,
        },
    ),
    Architecture("OLMo 2", "Olmo2Config", "norms after the branches", settings=GROUPED),
    Architecture("Qwen2", "Qwen2Config", "biased, grouped queries", settings=GROUPED),
    Architecture("Qwen3", "Qwen3Config", "normed queries and keys", settings=GEMMA_LIKE),
    Architecture(
        "SmolLM3",
        "SmolLM3Config",
        "layers without positions",
        settings=GROUPED | {"no_rope_layers": [1, 0]},
    ),
    # ALiBi.
    Architecture(
        "BLOOM",
        "BloomConfig",
        "ALiBi",
        settings=COMMON
        | {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": SPREAD},
    ),
    Architecture(
        "MPT",
        "MptConfig",
        "ALiBi, no biases",
        settings=COMMON
        | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256, "init_std": SPREAD}
        | {"initializer_range": SPREAD},
    ),
    Architecture(
        "Falcon-RW",
        "FalconConfig",
        "ALiBi, sequential blocks",
        settings=COMMON
        | {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "initializer_range": SPREAD,
        },
    ),
    # Sliding windows, all of them shorter than what is audited.
    Architecture(
        "Mistral",
        "MistralConfig",
        "every layer sees 4 tokens only",
        adds_bos=True,
        settings=GROUPED | {"sliding_window": 4},
    ),
    Architecture(
        "Gemma",
        "GemmaConfig",
        "scaled embeddings",
        adds_bos=True,
        settings=GEMMA_LIKE,
    ),
    Architecture(
        "Gemma 2",
        "Gemma2Config",
        "soft-capped logits; every other layer slides",
        adds_bos=True,
        settings=GEMMA_LIKE
        | {
            "sliding_window": 4,
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 8,
        },
    ),
    Architecture(
        "Gemma 3",
        "Gemma3TextConfig",
        "two kinds of rotary positions, sliding windows",
        adds_bos=True,
        settings=GEMMA_LIKE
        | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    Architecture(
        "Command R7B",
        "Cohere2Config",
        "sliding layers with positions, full ones without",
        settings=GROUPED
        | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    # Mixtures of experts.
    Architecture(
        "Mixtral",
        "MixtralConfig",
        "experts, and a loss of the router beside the logits",
        like_generate=False,  # transformers 5.17 counts that loss over a mask of another length
        settings=GROUPED | EXPERTS | {"output_router_logits": True},
    ),
    Architecture(
        "Qwen2-MoE",
        "Qwen2MoeConfig",
        "a shared expert beside the routed",
        settings=GROUPED | EXPERTS | {"shared_expert_intermediate_size": 24},
    ),
    Architecture(
        "Qwen3-MoE",
        "Qwen3MoeConfig",
        "experts in every layer",
        settings=GEMMA_LIKE | EXPERTS | {"decoder_sparse_step": 1},
    ),
    Architecture("OLMoE", "OlmoeConfig", "many small experts", settings=GROUPED | EXPERTS),
    Architecture(
        "GPT-OSS",
        "GptOssConfig",
        "experts, attention sinks, sliding windows",
        settings=GEMMA_LIKE | EXPERTS | {"sliding_window": 4},
    ),
    Architecture(
        "DeepSeek-V2",
        "DeepseekV2Config",
        "latent attention: keys and values of different widths",
        settings=LATENT | {"topk_method": "greedy"},
    ),
    Architecture(
        "DeepSeek-V3",
        "DeepseekV3Config",
        "latent attention, experts in groups",
        adds_bos=True,
        settings=LATENT,
    ),
    Architecture(
        "Llama 4",
        "Llama4TextConfig",
        "attention in chunks of 4",
        settings=GEMMA_LIKE
        | EXPERTS
        | {"attention_chunk_size": 4, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
    ),
    Architecture(
        "MiniMax",
        "MiniMaxConfig",
        "linear attention with a cache class of its own",
        OWN,
        settings=GROUPED
        | EXPERTS
        | {
            "head_dim": 8,
            "block_size": 4,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    # State-space models and hybrids.
    Architecture("Mamba", "MambaConfig", "state space, no attention", OWN, settings=STATE),
    Architecture(
        "Mamba 2",
        "Mamba2Config",
        "state space in chunks",
        OWN,
        settings=STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    ),
    Architecture("Falcon Mamba", "FalconMambaConfig", "normed state space", OWN, settings=STATE),
    Architecture(
        "RWKV",
        "RwkvConfig",
        "recurrent; mixes up the states of several texts; scales its own weights at first",
        FULL_PASSES,
        like_generate=False,
        settings=COMMON
        | {
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "context_length": 256,
            "rescale_every": 1,
        },
    ),
    Architecture(
        "xLSTM",
        "xLSTMConfig",
        "recurrent with matrix memory; hands its state on in a wrong shape",
        FULL_PASSES,
        like_generate=False,
        settings=COMMON | {"hidden_size": 32, "num_heads": 4, "num_hidden_layers": 2},
    ),
    Architecture(
        "Jamba",
        "JambaConfig",
        "state space, attention and experts",
        OWN,
        settings=GROUPED
        | {
            "num_hidden_layers": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
    Architecture(
        "Zamba2",
        "Zamba2Config",
        "one attention block shared by several layers",
        OWN,
        settings=GROUPED
        | {
            "layers_block_type": ["mamba", "hybrid"],
            "num_hidden_layers": 2,
            "num_mem_blocks": 1,
            "mamba_d_state": 8,
            "mamba_headdim": 8,
            "n_mamba_heads": 8,
            "mamba_ngroups": 1,
            "chunk_size": 4,
            "use_mem_rope": True,
        },
    ),
    Architecture(
        "Bamba",
        "BambaConfig",
        "Mamba 2 and attention",
        OWN,
        settings=GROUPED | MAMBA2 | {"attn_layer_indices": [1]},
    ),
    Architecture(
        "Granite 4",
        "GraniteMoeHybridConfig",
        "Mamba 2, attention, experts, scaling",
        OWN,
        settings=GROUPED
        | MAMBA2
        | EXPERTS
        | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 24},
    ),
    Architecture(
        "Falcon-H1",
        "FalconH1Config",
        "Mamba 2 and attention side by side in a layer",
        OWN,
        settings=GROUPED | MAMBA2 | {"mamba_d_ssm": 64},
    ),
    Architecture(
        "RecurrentGemma",
        "RecurrentGemmaConfig",
        "gated recurrences that keep their state inside the model",
        FULL_PASSES,
        adds_bos=True,
        settings=COMMON
        | {
            "hidden_size": 32,
            "lru_width": 32,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "attention_window_size": 4,
            "block_types": ["recurrent", "recurrent", "attention"],
            "w_init_variance_scale": 1.0,
        },
    ),
    Architecture(
        "LFM2",
        "Lfm2Config",
        "short convolutions and attention",
        OWN,
        settings=GROUPED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    ),
    Architecture(
        "Qwen3-Next",
        "Qwen3NextConfig",
        "gated delta rule and attention, experts",
        OWN,
        settings=GEMMA_LIKE
        | EXPERTS
        | DELTA
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "shared_expert_intermediate_size": 24,
        },
    ),
    # Text towers of multimodal models.
    Architecture(
        "Gemma 3, with images",
        "Gemma3Config",
        "loaded whole; the text tower is audited",
        adds_bos=True,
        model="Gemma3ForConditionalGeneration",
        settings={
            "text_config": GEMMA_LIKE | {"sliding_window": 4},
            "vision_config": TINY_VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 300,
            "boi_token_index": 301,
            "eoi_token_index": 302,
            "initializer_range": SPREAD,
        },
    ),
    Architecture(
        "Qwen3.5, with images",
        "Qwen3_5Config",
        "the text tower is loaded alone",
        OWN,
        model="Qwen3_5ForConditionalGeneration",
        settings={
            "text_config": LLAMA_LIKE
            | DELTA
            | {
                "head_dim": 16,
                "num_key_value_heads": 2,
                "layer_types": ["linear_attention", "full_attention"],
                "rope_parameters": {
                    "rope_type": "default",
                    "partial_rotary_factor": 0.5,
                    "mrope_section": [1, 1, 2],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "depth": 1,
                "num_heads": 2,
                "out_hidden_size": 32,
            },
        },
    ),
    Architecture(
        "Llama 3.2 Vision",
        "MllamaConfig",
        "layers that look at images; the text tower is loaded alone",
        model="MllamaForConditionalGeneration",
        settings={
            "text_config": GROUPED | {"num_hidden_layers": 3, "cross_attention_layers": [1]},
            "vision_config": TINY_VISION
            | {
                "num_global_layers": 1,
                "attention_heads": 2,
                "vision_output_dim": 32,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1]],
            },
            "image_token_index": 300,
        },
    ),
    Architecture(
        "LLaVA",
        "LlavaConfig",
        "a vision tower before a Llama",
        refused="save the language model in it (llama) as a checkpoint and name that",
        model="LlavaForConditionalGeneration",
        settings={
            "text_config": {"model_type": "llama"} | GROUPED,
            "vision_config": {"model_type": "clip_vision_model"} | TINY_VISION,
            "image_token_index": 300,
        },
    ),
    Architecture(
        "Qwen2-VL",
        "Qwen2VLConfig",
        "positions in three dimensions",
        refused=NO_CAUSAL_LM,
        model="Qwen2VLForConditionalGeneration",
        settings={
            "text_config": GROUPED
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            "image_token_id": 300,
            "vision_config": {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
        },
    ),
    # Refused.
    Architecture(
        "Gemma 3n",
        "Gemma3nTextConfig",
        "layers that look the token up once more",
        refused=ALIKE,
        settings=GEMMA_LIKE
        | {
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": COMMON["vocab_size"],
            "num_kv_shared_layers": 0,
            "altup_num_inputs": 2,
            "laurel_rank": 4,
        },
    ),
    Architecture(
        "Phi-3, long windows",
        "Phi3Config",
        "positions scaled by the text's length (LongRoPE)",
        refused="with the tokens that follow",
        settings=GROUPED
        | {
            "original_max_position_embeddings": 10,
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 10,
            },
        },
    ),
    Architecture(
        "DeepSeek-V3.2, long windows",
        "DeepseekV32Config",
        "attention to fewer tokens, picked among all, than a window has",
        refused="with the tokens that follow",
        settings=LATENT | {"index_topk": 6, "index_n_heads": 2, "index_head_dim": 16},
    ),
    Architecture(
        "BERT",
        "BertConfig",
        "sees the tokens that follow",
        refused="not causal",
        settings=LLAMA_LIKE,
        model="BertLMHeadModel",
    ),
    Architecture(
        "T5",
        "T5Config",
        "an encoder and a decoder",
        refused="an encoder-decoder",
        settings=COMMON | {"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8},
        model="T5ForConditionalGeneration",
    ),
)


def make_model(architecture: Architecture) -> Any:
    """A random model of the architecture; None where this transformers does not know it."""
    import torch
    import transformers

    made = getattr(transformers, architecture.config, None)
    if made is None:
        return None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = made(**architecture.settings)
        kind = getattr(transformers, architecture.model)
        make = kind.from_config if architecture.model.startswith("Auto") else kind._from_config
        model = make(config)
        for name, weight in model.named_parameters():
            if name.endswith("correct_output_scale"):  # zero at first: Gemma 3n's look-up is off
                torch.nn.init.ones_(weight)
    return model.float().eval()


def table() -> str:
    """Return the table of memaudit/docs/architectures.md."""
    lines = ["| architecture | exercises | result |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.exercises} | {one.result} |" for one in MATRIX]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
