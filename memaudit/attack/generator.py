"""The generator: the network that turns a prefix into a soft prompt.

Knows token ids and embedding vectors. Knows only the input embedding of the target, passed as a
function, and nothing of training.

Source of the design: Wang et al., EMNLP 2024 (arXiv 2409.13853), section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.config.settings import DynamicSettings
from memaudit.data.windows import PADDING

Embed = Callable[[Tensor], Tensor]
"""(B,T) ids -> (B,T,D): the target's own input embedding."""


def map_prefix(prefix_ids: Tensor, num_virtual_tokens: int) -> Tensor:
    """The naive mapping m, (B,P) -> (B,V): the last V tokens of the repeated prefix.

    Source: arXiv 2409.13853, section 3.2. The padding before a short prefix is no part of it.
    """
    padding = (prefix_ids == PADDING).sum(dim=1, keepdim=True)
    length = prefix_ids.shape[1] - padding
    from_end = torch.arange(-num_virtual_tokens, 0, device=prefix_ids.device)
    return prefix_ids.gather(1, padding + from_end % length)


MAX_PREFIX_READ = 64
"""Last tokens of a prefix that the generator reads: its cost grows with them for every window."""


def count_positions(settings: DynamicSettings, prefix_tokens: int) -> int:
    """Return the vectors that the generator's blocks see: V, after the prefix that it reads."""
    read = min(prefix_tokens, MAX_PREFIX_READ) if settings.mapping == "queries" else 0
    return read + settings.num_virtual_tokens


class TrainedRows(nn.Module):
    """The target's embedding; rows that occur in the fitted prefixes are trainable.

    Other rows get no gradient, and AdamW without weight decay does not move them: this equals
    training the whole table, at the cost of the rows that move.
    """

    row_of: Tensor

    def __init__(self, embed: Embed, row_ids: Tensor, vocabulary: int) -> None:
        super().__init__()
        self._embed = embed
        row_of = torch.full((vocabulary,), -1, dtype=torch.long, device=row_ids.device)
        row_of[row_ids] = torch.arange(len(row_ids), device=row_ids.device)
        self.register_buffer("row_of", row_of)
        self.rows = nn.Parameter(embed(row_ids[None])[0].detach().float().clone())  # (R,D)

    def forward(self, ids: Tensor) -> Tensor:
        """(B,T) -> (B,T,D) float32."""
        index = self.row_of[ids]
        trained = F.embedding(index.clamp_min(0), self.rows)
        return torch.where(index[..., None] >= 0, trained, self._embed(ids).float())


class GeneratorBlock(nn.Module):
    """Pre-norm transformer block; its two output projections may start at zero.

    With ``identity`` it returns its input exactly until the first optimizer step: both branches
    end in a zero projection (W_O after attention, W_3 after the feed-forward).
    """

    def __init__(self, width: int, heads: int, *, identity: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)  # W_O
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)  # W_3
        for layer in (self.qkv, self.attention_out, self.up, self.down):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=rng)
            nn.init.zeros_(layer.bias)
        if identity:
            nn.init.zeros_(self.attention_out.weight)
            nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B,T,D) -> (B,T,D). Attention is not causal: the whole prefix is known."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        moved: Tensor = x + self.down(F.gelu(self.up(self.feed_forward_norm(x))))
        return moved


def choose_heads(width: int) -> int:
    """Attention heads of about 64 dimensions that divide the width."""
    wanted = max(1, width // 64)
    return next(heads for heads in range(wanted, 0, -1) if width % heads == 0)


class Generator(nn.Module):
    """g: maps a prefix to V vectors in the target's embedding space.

    ``naive`` mapping: the V vectors are the embedded m(prefix), each moved by the blocks.
    ``queries``: V free vectors follow the embedded prefix through the blocks, which move them, so
    the generator is a constant prompt plus a change that depends on the prefix.
    """

    scale: Tensor

    def __init__(
        self,
        embed: Embed,
        settings: DynamicSettings,
        *,
        prefix_tokens: int,
        first_vectors: Tensor,
        scale: float,
        rows: TrainedRows | None,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.settings = settings
        self._embed = embed
        self.rows = rows
        self.width = width = first_vectors.shape[1]
        # The scale of embeddings differs a hundredfold between models: the blocks work at unit
        # scale, and their output is scaled back.
        self.register_buffer("scale", torch.tensor(max(scale, 1e-6)))
        queries = settings.mapping == "queries"
        self.queries = nn.Parameter(first_vectors.float().clone()) if queries else None  # (V,D)
        length = count_positions(settings, prefix_tokens)
        self.positions = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.positions, std=0.5, generator=rng)
        identity = settings.initialisation == "identity"
        self.blocks = nn.ModuleList(
            GeneratorBlock(width, choose_heads(width), identity=identity, rng=rng)
            for _ in range(settings.depth)
        )

    def embed(self, ids: Tensor) -> Tensor:
        """(B,T) -> (B,T,D) float32, through the trained rows if any."""
        return self.rows(ids) if self.rows is not None else self._embed(ids).float()

    def forward(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D) float32."""
        count = self.settings.num_virtual_tokens
        if self.queries is None:
            source = self.embed(map_prefix(prefix_ids, count))
        else:
            queries = self.queries.expand(len(prefix_ids), -1, -1)
            # A short prefix is repeated.
            read = map_prefix(prefix_ids, len(self.positions) - count)
            source = torch.cat([self.embed(read), queries], dim=1)
        first = source / self.scale + self.positions
        moved = first
        for block in self.blocks:
            moved = block(moved)
        # Written as source plus difference so that identity blocks give the source exactly.
        return (source + self.scale * (moved - first))[:, -count:]
