"""The same work done plainly: what memaudit is measured against.

Knows transformers and torch, and of memaudit only the prompt that is tuned. ``generate`` decodes
with its key-value cache; the other two do what the published code of the dynamic soft prompt does
(Wang et al. 2024, arXiv 2409.13853): they compute the logits of every position, keep no cache, and
hand the whole embedding to the optimizer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.attack.generator import GeneratorBlock, choose_heads, map_prefix
from memaudit.target.checkpoint import Checkpoint


def with_bos(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """(B,T) ids -> (B,[1+]T): behind the token that every input starts with, where there is one."""
    if checkpoint.bos_id is None:
        return ids
    return torch.cat([torch.full_like(ids[:, :1], checkpoint.bos_id), ids], dim=1)


@torch.inference_mode()
def generate(checkpoint: Checkpoint, prefix_ids: Tensor, count: int) -> Tensor:
    """(B,P) -> (B,count): greedy decoding by transformers; nothing ends early."""
    context = with_bos(checkpoint, prefix_ids)
    said: Tensor = checkpoint.model.generate(
        input_ids=context,
        attention_mask=torch.ones_like(context),
        max_new_tokens=count,
        # Whatever the model's own settings for decoding say.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return said[:, context.shape[1] :]


@torch.inference_mode()
def decode_without_cache(checkpoint: Checkpoint, prefix_ids: Tensor, count: int) -> Tensor:
    """(B,P) -> (B,count): every position and all of its logits at every step."""
    ids = with_bos(checkpoint, prefix_ids)
    for _ in range(count):
        logits = checkpoint.model(input_ids=ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, -count:]


class PlainTuning(nn.Module):
    """Tuning a dynamic soft prompt step by step, the whole embedding trained along.

    The prompt is float32, the passes are in the target's own number format.
    """

    def __init__(self, checkpoint: Checkpoint, num_virtual_tokens: int, prefix_tokens: int) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.num_virtual_tokens = num_virtual_tokens
        self.prefix_tokens = prefix_tokens
        every = torch.arange(checkpoint.vocabulary, device=checkpoint.device)
        table = checkpoint.embed(every[None])[0].float()  # (X,D)
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
        """One step on windows (B,P+S); returns the loss in nats/token."""
        prefixes = ids[:, : self.prefix_tokens]
        vectors = self.block(self.embedding(map_prefix(prefixes, self.num_virtual_tokens)))
        embedded = self.checkpoint.embed(with_bos(self.checkpoint, ids))
        begin = embedded.shape[1] - ids.shape[1]  # 1 with BOS, which stands before the prompt
        parts = [embedded[:, :begin], vectors.to(embedded.dtype), embedded[:, begin:]]
        inputs = torch.cat(parts, dim=1)
        logits = self.checkpoint.model(inputs_embeds=inputs, use_cache=False).logits  # (B,T,X)
        suffix = ids[:, self.prefix_tokens :]
        said = logits[:, -suffix.shape[1] - 1 : -1]
        loss = F.cross_entropy(said.flatten(0, 1).float(), suffix.flatten())
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.item()
