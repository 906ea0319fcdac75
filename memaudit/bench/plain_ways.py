"""Plain implementations of the same work, to compare memaudit with.

Knows transformers and torch, and of memaudit only the tuned prompt. ``generate`` decodes with its
key-value cache. The other two follow the published code of the dynamic soft prompt (Wang et al.
2024, arXiv 2409.13853): they compute the logits of every position, keep no cache, and pass the
whole embedding to the optimizer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.attack.generator import GeneratorBlock, choose_heads, map_prefix
from memaudit.target.checkpoint import Checkpoint


def with_bos(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """(B,T) ids -> (B,[1+]T): prepend BOS if the target uses it."""
    if checkpoint.bos_id is None:
        return ids
    return torch.cat([torch.full_like(ids[:, :1], checkpoint.bos_id), ids], dim=1)


@torch.inference_mode()
def generate(checkpoint: Checkpoint, prefix_ids: Tensor, count: int) -> Tensor:
    """(B,P) -> (B,count): greedy decoding by transformers, without an end token."""
    context = with_bos(checkpoint, prefix_ids)
    output: Tensor = checkpoint.model.generate(
        input_ids=context,
        attention_mask=torch.ones_like(context),
        max_new_tokens=count,
        # Override the model's own decoding settings.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[:, context.shape[1] :]


@torch.inference_mode()
def decode_without_cache(checkpoint: Checkpoint, prefix_ids: Tensor, count: int) -> Tensor:
    """(B,P) -> (B,count): recompute every position and all logits at every step."""
    ids = with_bos(checkpoint, prefix_ids)
    for _ in range(count):
        logits = checkpoint.model(input_ids=ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, -count:]


class PlainTuning(nn.Module):
    """Tuning of a dynamic soft prompt together with the whole embedding.

    The prompt is float32; the passes use the target's number format.
    """

    def __init__(self, checkpoint: Checkpoint, num_virtual_tokens: int, prefix_tokens: int) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.num_virtual_tokens = num_virtual_tokens
        self.prefix_tokens = prefix_tokens
        all_ids = torch.arange(checkpoint.vocabulary, device=checkpoint.device)
        table = checkpoint.embed(all_ids[None])[0].float()  # (X,D)
        self.embedding = nn.Embedding(table.shape[0], table.shape[1], device=table.device)
        self.embedding.weight = nn.Parameter(table.clone())
        rng = torch.Generator().manual_seed(0)
        block = GeneratorBlock(
            checkpoint.width, choose_heads(checkpoint.width), identity=True, rng=rng
        )
        self.block = block.to(checkpoint.device)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.embedding.parameters()), "lr": 2e-4},
                {"params": list(self.block.parameters()), "lr": 7e-6},
            ],
            weight_decay=0.0,
        )

    def step(self, ids: Tensor) -> float:
        """Take one step on windows (B,P+S); return the loss in nats/token."""
        prefixes = ids[:, : self.prefix_tokens]
        vectors = self.block(self.embedding(map_prefix(prefixes, self.num_virtual_tokens)))
        embedded = self.checkpoint.embed(with_bos(self.checkpoint, ids))
        begin = embedded.shape[1] - ids.shape[1]  # 1 with BOS, which precedes the prompt
        parts = [embedded[:, :begin], vectors.to(embedded.dtype), embedded[:, begin:]]
        inputs = torch.cat(parts, dim=1)
        logits = self.checkpoint.model(inputs_embeds=inputs, use_cache=False).logits  # (B,T,X)
        suffix = ids[:, self.prefix_tokens :]
        predictions = logits[:, -suffix.shape[1] - 1 : -1]
        loss = F.cross_entropy(predictions.flatten(0, 1).float(), suffix.flatten())
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.item()
